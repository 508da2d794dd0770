//! Checks of a configuration before it is applied, and warnings about a valid configuration.

use super::apply::error::ApplyError;
use crate::{
    config::{
        self, Certificate, CertificateSource, Config, ListenerConfig, PoolConfig, SharedKeys,
    },
    net::tls,
};

/// Checks that new certificates are valid now, at a reload. At a start an invalid certificate is only a
/// warning, because it is better than no start.
///
/// # Errors
/// The first certificate that is not valid now.
pub(super) fn check_certificates(config: &Config, before: &Config) -> Result<(), ApplyError> {
    if before.listeners.is_empty() {
        return Ok(());
    }
    for listener in &config.listeners {
        let new = given(listener).iter().filter(|new| {
            let old = before.listeners.iter().flat_map(given);
            !old.into_iter().any(|old| old.key.cert.first() == new.key.cert.first())
        });
        for certificate in new {
            let why = certificate.validity().and_then(tls::lapsed);
            if let Some(why) = why {
                let (listener, names) = (listener.name.clone(), certificate.names.join(", "));
                return Err(ApplyError::InvalidCertificate { listener, names, why });
            }
        }
    }
    Ok(())
}

fn given(listener: &ListenerConfig) -> &[Certificate] {
    match listener.protocol.tls().map(|tls| &tls.certificates) {
        Some(CertificateSource::Configured(certificates)) => certificates,
        _ => &[],
    }
}

/// Logs the warnings of `config`, unless the configuration before it had them too.
pub(super) fn log(config: &Config, before: &Config) {
    if signs_cookies_with_random_key(config) && !signs_cookies_with_random_key(before) {
        tracing::info!(
            "no cookie_key set; using a random key that is lost on restart and not shared with other \
             proxies"
        );
    }
    if seals_logins_with_random_key(config) && !seals_logins_with_random_key(before) {
        tracing::warn!(
            "no cookie_key set: logins of `oidc` end with a restart, and are not valid for other proxies; set cookie_key"
        );
    }
    let warnings = |config: &Config| {
        let machine = config::warnings::Environment::here(config.places.file(), &[]);
        config::warnings::all(config, &machine)
    };
    let known = warnings(before);
    // Line numbers are not compared: an edit above a warning does not make it new.
    let is_new = |new: &&config::warnings::Warning| known.iter().all(|k| k.message != new.message);
    for warning in warnings(config).iter().filter(is_new) {
        tracing::warn!("{warning}");
    }
    if config.admin != before.admin {
        tracing::warn!("changes to `admin` take effect after an upgrade or a restart");
    }
    log_tls(config, before);
}

/// Whether affinity cookies are used and signed with a random key. With one backend a cookie decides
/// nothing.
fn signs_cookies_with_random_key(config: &Config) -> bool {
    let chooses = |pool: &PoolConfig| pool.source.is_some() || pool.backends.len() > 1;
    config.cookie_keys == SharedKeys::Generated
        && config.pools.iter().any(|pool| {
            let routed = config.routes.iter().any(|route| route.leads_to(&pool.name));
            routed && pool.sticky.cookie.is_some() && chooses(pool)
        })
}

/// Whether the cookies of logins are sealed with a random key.
fn seals_logins_with_random_key(config: &Config) -> bool {
    let auth = config.routes.iter().filter_map(|route| route.filters.auth.as_ref());
    config.cookie_keys == SharedKeys::Generated && auth.into_iter().any(|auth| auth.oidc.is_some())
}

/// Logs warnings about the TLS settings of new and changed listeners.
fn log_tls(config: &Config, before: &Config) {
    let changed = |listener: &&ListenerConfig| !before.listeners.contains(listener);
    for listener in config.listeners.iter().filter(changed) {
        let Some(tls_config) = listener.protocol.tls() else { continue };
        let name = &listener.name;
        if let Some(file) = &tls_config.key_log {
            let file = file.display();
            tracing::warn!(listener = name, %file, "the secrets of every TLS session are written to a file");
        }
        for certificate in given(listener) {
            let Some(why) = tls::unstapled(&certificate.key) else { continue };
            let names = certificate.names.join(", ");
            tracing::warn!(
                listener = name,
                "the OCSP response of the certificate for {names} {why}; serving the certificate \
                 without it; fetch a new response"
            );
        }
        let lists = tls_config.client_auth.as_ref().map_or(&[][..], |auth| &auth.crl);
        let overdue = tls::overdue(lists);
        if overdue > 0 {
            tracing::warn!(
                listener = name,
                lists = overdue,
                "revocation lists are overdue; they are still used; install new lists"
            );
        }
    }
}

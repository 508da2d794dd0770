//! What is accepted but should not go unnoticed.

use super::apply::ApplyError;
use crate::{
    config::{Certificate, CertificateSource, Config, ListenerConfig},
    net::tls,
};

/// Looks at the dates of certificates that were not in force before. At a start one that is out of
/// date is better than no start; at a reload what is in force goes on.
///
/// # Errors
/// Which certificate of which listener is not valid now, at a reload.
pub(super) fn certificates(config: &Config, before: &Config) -> Result<(), ApplyError> {
    for listener in &config.listeners {
        let new = given(listener).iter().filter(|new| {
            let old = before.listeners.iter().flat_map(given);
            !old.into_iter().any(|old| old.key.cert.first() == new.key.cert.first())
        });
        for certificate in new {
            let lapsed = certificate.validity().and_then(tls::lapsed);
            let Some(lapsed) = lapsed else { continue };
            let names = certificate.names.join(", ");
            let sentence =
                format!("listener {}: the certificate for {names} {lapsed}", listener.name);
            // At a start this is a warning like others of the configuration.
            if !before.listeners.is_empty() {
                return Err(ApplyError::Lapsed(sentence));
            }
        }
    }
    Ok(())
}

fn given(listener: &ListenerConfig) -> &[Certificate] {
    match listener.protocol.tls().map(|tls| &tls.certificates) {
        Some(CertificateSource::Given(certificates)) => certificates,
        _ => &[],
    }
}

/// Says what of the listeners' TLS gives them away, or is out of date: at every start, and again
/// where a reload has changed the listener.
pub(super) fn of_listeners(config: &Config, before: &Config) {
    let changed = |listener: &&ListenerConfig| !before.listeners.contains(listener);
    for listener in config.listeners.iter().filter(changed) {
        let Some(terms) = listener.protocol.tls() else { continue };
        let name = &listener.name;
        if let Some(file) = &terms.key_log {
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
        let lists = terms.client_auth.as_ref().map_or(&[][..], |auth| &auth.crl);
        let overdue = tls::overdue(lists);
        if overdue > 0 {
            tracing::warn!(
                listener = name,
                lists = overdue,
                "revocation lists are overdue; they stay in force; install new ones"
            );
        }
    }
}

//! The configuration: its files, its checks and its types.
//!
//! [`Config`] is the checked form: names are resolved, durations parsed, certificates loaded, and defaults
//! filled in. [`check`] builds it from a file; commands without a file build it directly. A `Config` needs
//! no further validation.
//!
//! This module must not know any runtime module: it does not listen, connect or spawn tasks.

mod address;
mod admin;
mod backends;
mod bytes;
mod certs;
pub mod check;
mod conditions;
mod content;
mod defaults;
mod documents;
mod drain;
mod environment;
mod error_pages;
pub(crate) mod expression;
mod fault;
mod file;
pub(crate) mod filters;
mod folders;
mod foreign;
mod health;
mod includes;
mod listeners;
mod machine;
mod merge;
mod names;
mod networks;
mod operations;
pub mod path;
mod places;
mod pools;
mod proxy_out;
mod reader;
mod resilience;
mod routes;
mod schema;
mod secrets;
mod source_map;
mod sources;
mod split;
pub(crate) mod staple;
mod sticky;
mod syntax;
mod template;
mod text;
mod tls;
mod types;
mod value;
mod verification_keys;
pub mod warnings;
mod written;

use std::{path::PathBuf, sync::Arc};

use ipnet::IpNet;

pub(crate) use self::bytes::bytes as file_bytes;
pub use self::content::{Content, Reading};
pub use self::error_pages::{ErrorPage, ErrorPageEntry, ErrorPages, Placeholder, StatusPattern};
pub use self::fault::InvalidValue;
pub use self::places::ValuePlaces;
pub use self::proxy_out::{ProxyOut, Tlv, Tlvs};
pub(crate) use self::sources::url_without_secrets;
pub use self::template::{Template, TemplatePiece, Variable};
pub use self::types::*;
pub use self::written::WrittenRoute;
/// Returns the URL of the keys, if an answer is the metadata of an OpenID provider (OpenID Connect Discovery 1.0 §3).
///
/// # Errors
/// Its URL may not be used, or it names another issuer than its own URL; with the reason.
pub(crate) fn key_url_of_provider(url: &str, answer: &[u8]) -> Result<Option<String>, String> {
    let Some(issuer) = url.strip_suffix("/.well-known/openid-configuration") else {
        return Ok(None);
    };
    let metadata: serde_json::Value =
        serde_json::from_slice(answer).map_err(|_| "the metadata is not JSON".to_owned())?;
    if metadata["issuer"].as_str() != Some(issuer) {
        return Err("the metadata names another issuer".to_owned());
    }
    let keys = metadata["jwks_uri"].as_str().ok_or("the metadata has no `jwks_uri`")?;
    filters::key_url(keys).map(Some).map_err(|wrong| wrong.message)
}

/// Shows faults of an API description at their places in its text.
pub(crate) fn document_faults(
    path: &std::path::Path,
    text: &str,
    faults: Vec<crate::openapi::ApiDocumentFault>,
) -> check::Faults {
    filters::document_faults(path, text, faults)
}

/// Reads the public keys of a JWK set from a URL. Secrets in it do not count: it is public.
///
/// # Errors
/// The text is not a JWK set; with the reason.
pub(crate) fn verification_keys_of_set(content: &[u8]) -> Result<Vec<VerificationKey>, String> {
    verification_keys::of_set(content, false)
}

pub(crate) use self::{
    address::bind as listen_address,
    address::reaches,
    admin::socket_path,
    backends::{HEAVIEST, MOST as MOST_BACKENDS},
    folders::user_name,
    includes::pattern_matches,
    names::valid as valid_name,
    schema::documented_default,
    sticky::{FORMER_NAME as FORMER_COOKIE_NAME, default_name as default_cookie_name},
    verification_keys::{VerificationKey, of_file as verification_keys_of_file},
};

/// The configuration of one process. Two equal configurations are interchangeable.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Sockets to accept on, in file order; names are unique.
    pub listeners: Vec<ListenerConfig>,
    /// Rules from host, path and conditions to a pool, in file order; no two are equal in all of them.
    pub routes: Vec<RouteConfig>,
    /// Groups of interchangeable backends, in file order; names are unique.
    pub pools: Vec<PoolConfig>,
    /// Keys under which affinity cookies are made.
    pub cookie_keys: SharedKeys,
    /// Keys under which TLS sessions can be resumed.
    pub ticket_keys: SharedKeys,
    /// Proxies whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// When backends get `Forwarded`.
    pub forwarded: Forwarded,
    /// Limits of the session table.
    pub sessions: SessionsConfig,
    /// Bounds of the stored responses.
    pub cache: CacheStoreConfig,
    /// Limits over all clients.
    pub limits: ProcessLimits,
    /// Destination of the access log.
    pub access_log: AccessLogConfig,
    /// Parts of names of query parameters whose values are not logged, in addition to the built-in parts.
    /// After a `!`: a whole name whose value is logged.
    pub redact: Vec<String>,
    /// How a stopping process drains its connections.
    pub drain: DrainConfig,
    /// How changes of the file take effect.
    pub reload: Reload,
    /// Handoff to a new binary.
    pub upgrade: Upgrade,
    /// HTML pages for errors that the proxy itself reports, for routes without a page for the error and
    /// for requests without a route; `None`: the built-in page.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// The admin API and the metrics.
    pub admin: Admin,
    /// Places of the values in the file; empty without a file.
    pub places: ValuePlaces,
    /// Files that cause a reload if they change: the configuration itself, backend lists, certificates, keys.
    pub watched: Vec<PathBuf>,
}

//! What a provider publishes about itself (OpenID Connect Discovery 1.0), and its keys.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Uri;
use serde_json::{Map, Value};

use super::LoginFault;
use crate::{
    auth::{
        JwtVerifier,
        remote::{DocumentSource, RemoteDocument},
    },
    config::{JwtConfig, KeySource, OidcConfig},
    strict_json,
};

/// Maximum size of the configuration of a provider.
const MAX_DOCUMENT: usize = 64 << 10;

/// Time after which the configuration of a provider is fetched again.
const REFRESH: Duration = Duration::from_secs(3600);

/// Time after which the keys of a provider are fetched again. An unknown key id causes a fetch, too.
const KEY_REFRESH: Duration = Duration::from_secs(600);

/// A provider, as one configuration uses it.
pub(crate) struct OidcProvider {
    config: OidcConfig,
    document: Arc<RemoteDocument<DiscoveredProvider>>,
}

/// What is known about a provider.
#[derive(Debug)]
pub(super) struct DiscoveredProvider {
    /// URL of its login page.
    pub(super) authorization: String,
    /// URL that gives tokens for codes.
    pub(super) token: String,
    /// URL that ends a login at the provider.
    pub(super) end_session: Option<String>,
    /// Whether its answers name the issuer (RFC 9207 §3).
    pub(super) names_issuer: bool,
    /// Verifies its ID tokens.
    pub(super) verifier: Arc<JwtVerifier>,
}

impl fmt::Debug for OidcProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl OidcProvider {
    pub(crate) fn new(config: OidcConfig) -> Self {
        let reader = config.clone();
        // Keys stay in use if the configuration is fetched again and names the same ones.
        let verifier = Mutex::new(None);
        let document = RemoteDocument::new(DocumentSource {
            url: format!(
                "{}/.well-known/openid-configuration",
                config.issuer.trim_end_matches('/')
            ),
            accept: "application/json",
            max_size: MAX_DOCUMENT,
            refresh: REFRESH,
            timeout: config.timeout,
            other: |_, _| Ok(None),
            read: Box::new(move |document| read(document, &reader, &verifier)),
            words: ("the configuration of the OpenID provider", "new logins fail"),
        });
        Self { config, document }
    }

    pub(super) fn config(&self) -> &OidcConfig {
        &self.config
    }

    /// Returns what is known about the provider.
    pub(super) fn known(&self) -> Option<Arc<DiscoveredProvider>> {
        self.document.current()
    }

    /// Returns what is known about the provider, and asks it first if that is nothing.
    pub(super) async fn discovered(&self) -> Result<Arc<DiscoveredProvider>, LoginFault> {
        if let Some(known) = self.known() {
            self.document.refresh_if_due();
            return Ok(known);
        }
        if let Some(wait) = self.document.fetch_first() {
            wait.fetched().await;
        }
        self.known().ok_or_else(|| {
            LoginFault::Unavailable("the OpenID provider has no valid configuration".to_owned())
        })
    }
}

/// Reads the configuration of a provider.
fn read(
    document: &[u8],
    config: &OidcConfig,
    verifier: &Mutex<Option<Arc<JwtVerifier>>>,
) -> Result<DiscoveredProvider, String> {
    let Some(Value::Object(document)) = strict_json::value(document) else {
        return Err("not a JSON object, or a name occurs twice".to_owned());
    };
    match text(&document, "issuer")? {
        // Equal, byte for byte (Discovery 1.0 §4.3).
        issuer if issuer == config.issuer => {}
        issuer => return Err(format!("it is of the issuer {issuer:?}")),
    }
    let endpoint = |name| endpoint(&document, name, config);
    let end_session = match document.contains_key("end_session_endpoint") {
        true => Some(endpoint("end_session_endpoint")?),
        false => None,
    };
    let names_issuer = document.get("authorization_response_iss_parameter_supported");
    Ok(DiscoveredProvider {
        authorization: endpoint("authorization_endpoint")?,
        token: endpoint("token_endpoint")?,
        end_session,
        names_issuer: names_issuer == Some(&Value::Bool(true)),
        verifier: verifier_of(endpoint("jwks_uri")?, config, verifier),
    })
}

/// Returns the verifier with the keys of this URL; a new one only if the URL is new.
fn verifier_of(
    url: String,
    config: &OidcConfig,
    known: &Mutex<Option<Arc<JwtVerifier>>>,
) -> Arc<JwtVerifier> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = JwtConfig {
        keys: KeySource::Url { url, refresh: KEY_REFRESH, timeout: config.timeout },
        algorithms: config.algorithms.clone(),
        issuers: vec![config.issuer.clone()],
        audiences: vec![config.client_id.clone()],
        places: Vec::new(),
        leeway: config.leeway,
        subject: "sub".to_owned(),
    };
    match &*known {
        Some(verifier) if *verifier.config() == wanted => Arc::clone(verifier),
        _ => Arc::clone(known.insert(Arc::new(JwtVerifier::new(wanted)))),
    }
}

fn text<'d>(document: &'d Map<String, Value>, name: &str) -> Result<&'d str, String> {
    let text = document.get(name).and_then(Value::as_str);
    text.ok_or_else(|| format!("`{name}` is missing"))
}

/// An endpoint. Without TLS, a machine in between could read codes and secrets: only for an issuer on this machine.
fn endpoint(
    document: &Map<String, Value>,
    name: &str,
    config: &OidcConfig,
) -> Result<String, String> {
    let url = text(document, name)?;
    let wrong = || format!("`{name}` is not a URL over TLS: {url:?}");
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains('#') {
        return Err(wrong());
    }
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let local = config.issuer.starts_with("http://") && super::is_local(authority);
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => local,
        _ => false,
    };
    match secure && !authority.is_empty() && !authority.contains('@') {
        true => Ok(url.to_owned()),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::oidc::tests::config;

    fn document(changes: &Value) -> Value {
        let mut document = json!({
            "issuer": "https://id.test",
            "authorization_endpoint": "https://id.test/auth?x=1",
            "token_endpoint": "https://id.test/token",
            "jwks_uri": "https://id.test/jwks",
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        document
    }

    #[test]
    fn a_configuration_names_its_issuer_and_secure_endpoints() {
        let (config, keys) = (config(), Mutex::new(None));
        let read = |changes: Value| read(document(&changes).to_string().as_bytes(), &config, &keys);
        let first = read(json!({})).unwrap();
        assert_eq!((first.end_session, first.names_issuer), (None, false));
        let more = json!({
            "end_session_endpoint": "https://id.test/out",
            "authorization_response_iss_parameter_supported": true,
        });
        let second = read(more).unwrap();
        assert_eq!(
            (second.end_session.as_deref(), second.names_issuer),
            (Some("https://id.test/out"), true)
        );
        assert!(Arc::ptr_eq(&first.verifier, &second.verifier));
        let moved = read(json!({ "jwks_uri": "https://id.test/new" })).unwrap();
        assert!(!Arc::ptr_eq(&first.verifier, &moved.verifier));
        for (changes, reason) in [
            (json!({ "issuer": "https://id.test/" }), "issuer"),
            (json!({ "issuer": "https://evil.test" }), "issuer"),
            (json!({ "issuer": 1 }), "`issuer` is missing"),
            (json!({ "token_endpoint": "http://id.test/token" }), "over TLS"),
            (json!({ "token_endpoint": "http://localhost/token" }), "over TLS"),
            (json!({ "jwks_uri": "file:///etc/passwd" }), "over TLS"),
            (json!({ "jwks_uri": "/jwks" }), "over TLS"),
            (json!({ "authorization_endpoint": "https://id.test/a\r\nX: y" }), "over TLS"),
            (json!({ "authorization_endpoint": "javascript:alert(1)" }), "over TLS"),
            (json!({ "authorization_endpoint": "https://a@id.test/" }), "over TLS"),
            (json!({ "authorization_endpoint": "https://id.test/#x" }), "over TLS"),
            (json!({ "end_session_endpoint": null }), "missing"),
        ] {
            let fault = read(changes.clone()).unwrap_err();
            assert!(fault.contains(reason), "{changes}: {fault}");
        }
    }

    #[test]
    fn an_issuer_on_this_machine_needs_no_tls() {
        let config = OidcConfig { issuer: "http://127.0.0.1:9".to_owned(), ..config() };
        let of = |host: &str| {
            let (auth, token) = (format!("http://{host}/auth"), format!("http://{host}/token"));
            let jwks = format!("http://{host}/jwks");
            let changes = json!({
                "issuer": "http://127.0.0.1:9", "authorization_endpoint": auth, "token_endpoint": token, "jwks_uri": jwks,
            });
            read(document(&changes).to_string().as_bytes(), &config, &Mutex::new(None)).is_ok()
        };
        assert!(
            of("127.0.0.1:9") && of("localhost") && !of("id.test") && !of("127.0.0.1.evil.test")
        );
    }
}

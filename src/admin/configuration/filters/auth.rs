//! Authentication as JSON. Shows no key.

use serde_json::{Value, json};

use crate::config::{AuthConfig, JWT_ALGORITHMS, JwtConfig, KeySource, SessionAuthConfig};

/// Returns the authentication of a route.
pub(super) fn json(auth: &AuthConfig) -> Value {
    let AuthConfig { jwt, session: SessionAuthConfig { grace, close_code } } = auth;
    json!({
        "jwt": jwt.as_ref().map(tokens),
        "grace": grace.as_secs_f64(),
        "close_code": close_code,
    })
}

fn tokens(jwt: &JwtConfig) -> Value {
    let JwtConfig { keys, algorithms, issuers, audiences, places, leeway, subject } = jwt;
    let name = |algorithm| {
        JWT_ALGORITHMS.iter().find(|(_, known)| known == algorithm).map(|(name, _)| *name)
    };
    let keys = match keys {
        KeySource::File { path, .. } => json!({ "file": path }),
        KeySource::Secrets(secrets) => json!({ "secrets": secrets.len() }),
        KeySource::Url { url, refresh, timeout } => json!({
            "jwks": crate::config::url_without_secrets(url),
            "refresh": refresh.as_secs_f64(),
            "timeout": timeout.as_secs_f64(),
        }),
    };
    json!({
        "keys": keys,
        "algorithms": algorithms.iter().filter_map(name).collect::<Vec<_>>(),
        "issuer": issuers,
        "audience": audiences,
        "token": places.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "leeway": leeway.as_secs_f64(),
        "subject": subject,
    })
}

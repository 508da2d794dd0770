//! Authentication as JSON. Shows no key.

use serde_json::{Value, json};

use super::super::conditions;
use crate::config::{
    ApiKeysConfig, AuthConfig, BasicConfig, ClientSecretPlace, ForwardAuthConfig, JWT_ALGORITHMS,
    JwtAlgorithm, JwtConfig, KeySource, OidcConfig, RequireConfig, SessionAuthConfig,
};

/// Returns the authentication of a route.
pub(super) fn json(auth: &AuthConfig) -> Value {
    let AuthConfig { jwt, api_keys, basic, forward, oidc, require, session } = auth;
    let SessionAuthConfig { grace, close_code } = session;
    json!({
        "jwt": jwt.as_ref().map(tokens),
        "api_keys": api_keys.as_ref().map(|ApiKeysConfig { path, keys, places }| json!({
            "file": path,
            "keys": keys.len(),
            "key": places.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
        "basic": basic.as_ref().map(|BasicConfig { path, users }| json!({
            "file": path,
            "users": users.len(),
        })),
        "forward": forward.as_ref().map(forwarded),
        "oidc": oidc.as_ref().map(logins),
        "require": requirements(require),
        "grace": grace.as_secs_f64(),
        "close_code": close_code,
    })
}

fn forwarded(forward: &ForwardAuthConfig) -> Value {
    let ForwardAuthConfig { url, send, copy, copy_back, subject, timeout, cache } = forward;
    json!({
        "url": crate::config::url_without_secrets(url),
        "send": send,
        "copy": copy,
        "copy_back": copy_back,
        "subject": subject,
        "timeout": timeout.as_secs_f64(),
        "cache": cache.as_secs_f64(),
    })
}

fn requirements(require: &RequireConfig) -> Value {
    let RequireConfig { scopes, claims, certificate } = require;
    json!({
        "scopes": scopes,
        "claims": conditions::texts(claims),
        "certificate": certificate.as_ref().map(conditions::certificate_json),
    })
}

fn tokens(jwt: &JwtConfig) -> Value {
    let JwtConfig { keys, algorithms, issuers, audiences, places, leeway, subject } = jwt;
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
        "algorithms": names(algorithms),
        "issuer": issuers,
        "audience": audiences,
        "token": places.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "leeway": leeway.as_secs_f64(),
        "subject": subject,
    })
}

fn names(algorithms: &[JwtAlgorithm]) -> Vec<&'static str> {
    let name = |algorithm| {
        JWT_ALGORITHMS.iter().find(|(_, known)| known == algorithm).map(|(name, _)| *name)
    };
    algorithms.iter().filter_map(name).collect()
}

fn logins(oidc: &OidcConfig) -> Value {
    let OidcConfig {
        issuer,
        client_id,
        client_secret,
        client_auth,
        scopes,
        claims,
        algorithms,
        callback,
        logout,
        after_logout,
        session,
        leeway,
        timeout,
    } = oidc;
    json!({
        "issuer": issuer,
        "client_id": client_id,
        "has_secret": client_secret.is_some(),
        "client_auth": match client_auth {
            ClientSecretPlace::Basic => "basic",
            ClientSecretPlace::Post => "post",
        },
        "scopes": scopes,
        "claims": claims,
        "algorithms": names(algorithms),
        "callback": callback,
        "logout": logout,
        "after_logout": after_logout,
        "session": session.map(|session| session.as_secs_f64()),
        "leeway": leeway.as_secs_f64(),
        "timeout": timeout.as_secs_f64(),
    })
}

//! The content of the cookie of a login: the client, the end of the login, and the claims that the configuration keeps.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{LoginFault, pending::random};
use crate::{
    auth::{AuthMethod, Identity, LoginId},
    config::OidcConfig,
};

/// A login. The names are short: the cookie is a part of every request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LoginSession {
    /// Number of the login.
    #[serde(rename = "i")]
    id: LoginId,
    #[serde(rename = "s")]
    subject: Box<str>,
    /// When the client has logged in, in seconds since 1970.
    #[serde(rename = "b")]
    began: u64,
    /// When the login ends, in seconds since 1970.
    #[serde(rename = "e")]
    ends: u64,
    #[serde(rename = "c")]
    claims: Map<String, Value>,
}

impl LoginSession {
    /// Creates the login that follows from an ID token. `scope`: scopes that the provider has granted.
    pub(super) fn new(
        token: &Identity,
        scope: Option<String>,
        config: &OidcConfig,
        now: u64,
    ) -> Result<Self, LoginFault> {
        let kept = |name: &String| Some((name.clone(), token.claims.get(name)?.clone()));
        let mut claims: Map<String, Value> = config.claims.iter().filter_map(kept).collect();
        // Without `scope`, the provider has granted the requested ones (RFC 6749 §5.1).
        let scope = scope.unwrap_or_else(|| config.scopes.join(" "));
        claims.entry("scope").or_insert(Value::String(scope));
        let expires = token.expires.unwrap_or(now).saturating_add(config.leeway.as_secs());
        let ends = config.session.map_or(expires, |session| now.saturating_add(session.as_secs()));
        Ok(Self { id: random()?, subject: token.subject.clone(), began: now, ends, claims })
    }

    /// When the login ends, in seconds since 1970.
    pub(super) fn ends(&self) -> u64 {
        self.ends
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Texts, numbers and values that were read from JSON can be written as JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn into_identity(self, config: &OidcConfig) -> Identity {
        let Self { id, subject, began, ends, mut claims } = self;
        claims.insert("sub".to_owned(), Value::String(subject.clone().into()));
        claims.insert("iss".to_owned(), Value::String(config.issuer.clone()));
        Identity {
            method: AuthMethod::Login,
            issuer: config.issuer.as_str().into(),
            subject,
            issued: Some(began),
            expires: Some(ends),
            claims,
            login: Some(id),
        }
    }
}

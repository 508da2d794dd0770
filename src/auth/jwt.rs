//! JSON Web Tokens (RFC 7519): from a token to an identity.
//!
//! Checked in this order: length, header, algorithm, key, signature, claims. No claim is used before the
//! signature was valid.

use std::sync::Arc;

use jsonwebtoken::crypto;
use serde_json::{Map, Value};

use super::{
    AuthFault, Identity,
    credential_cache::{self, CredentialCache},
    jwks::{self, RemoteKeys},
    remote::FetchWait,
    token::{LONGEST, SignedToken},
};
use crate::config::{self, JwtConfig, KeySource, VerificationKey};

/// Keys that are tried for a token without a key id.
const MOST_TRIED: usize = 8;

/// Greatest time in a claim, in seconds.
const LATEST: f64 = 1e11;

/// Verifies tokens by one configuration.
#[derive(Debug)]
pub(crate) struct JwtVerifier {
    config: JwtConfig,
    keys: Keys,
    verified: CredentialCache<Arc<Identity>>,
}

#[derive(Debug)]
enum Keys {
    Fixed(Vec<VerificationKey>),
    Remote(Arc<RemoteKeys>),
}

/// Result of a check.
pub(crate) enum TokenCheck {
    /// The token was checked.
    Done(Result<Arc<Identity>, AuthFault>),
    /// The keys must be fetched first. Then the token is checked again, with [`JwtVerifier::check_now`].
    Waits(FetchWait),
}

impl JwtVerifier {
    pub(super) fn new(config: JwtConfig) -> Self {
        let keys = match &config.keys {
            // Both were checked with the configuration; without a key, every token is refused.
            KeySource::File { content, .. } => {
                Keys::Fixed(config::verification_keys_of_file(content).unwrap_or_default())
            }
            KeySource::Secrets(secrets) => {
                let keys = secrets.iter().filter_map(|secret| VerificationKey::of_secret(secret));
                Keys::Fixed(keys.collect())
            }
            KeySource::Url { url, refresh, timeout } => {
                Keys::Remote(jwks::keys_from(url.clone(), *refresh, *timeout))
            }
        };
        Self { config, keys, verified: CredentialCache::default() }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &JwtConfig {
        &self.config
    }

    /// Forgets the tokens that were verified.
    pub(super) fn forget(&self) {
        self.verified.clear();
    }

    /// Checks a token.
    pub(crate) fn check(&self, token: &str, now: u64) -> TokenCheck {
        let remote = match &self.keys {
            Keys::Fixed(_) => return TokenCheck::Done(self.check_now(token, now)),
            Keys::Remote(remote) => remote,
        };
        if remote.take_change() {
            self.forget();
        }
        match self.check_now(token, now) {
            Err(AuthFault::NoKeys) => match remote.fetch_first() {
                Some(wait) => TokenCheck::Waits(wait),
                None => TokenCheck::Done(Err(AuthFault::NoKeys)),
            },
            Err(AuthFault::UnknownKey) => match remote.fetch_missing() {
                Some(wait) => TokenCheck::Waits(wait),
                None => TokenCheck::Done(Err(AuthFault::UnknownKey)),
            },
            done => {
                remote.refresh_if_due();
                TokenCheck::Done(done)
            }
        }
    }

    /// Checks a token with the keys that are there.
    pub(crate) fn check_now(&self, token: &str, now: u64) -> Result<Arc<Identity>, AuthFault> {
        if token.len() > LONGEST {
            return Err(AuthFault::TooLong);
        }
        let hash = credential_cache::hash(token);
        if let Some(identity) = self.verified.find(&hash, now) {
            return Ok(identity);
        }
        let identity = Arc::new(self.verify(token, now)?);
        let expires = identity.expires.unwrap_or_default();
        let until = expires.saturating_add(self.config.leeway.as_secs());
        if until <= now {
            return Err(AuthFault::Expired(identity));
        }
        self.verified.insert(hash, Arc::clone(&identity), until, now);
        Ok(identity)
    }

    /// Checks everything but the expiry.
    fn verify(&self, token: &str, now: u64) -> Result<Identity, AuthFault> {
        let signed = SignedToken::parse(token)?;
        if !self.config.algorithms.contains(&signed.algorithm) {
            return Err(AuthFault::Algorithm);
        }
        match &self.keys {
            Keys::Fixed(keys) => verify_signature(&signed, keys)?,
            Keys::Remote(remote) => {
                verify_signature(&signed, &remote.current().ok_or(AuthFault::NoKeys)?)?;
            }
        }
        self.identity(signed.claims()?, now)
    }

    fn identity(&self, claims: Map<String, Value>, now: u64) -> Result<Identity, AuthFault> {
        let JwtConfig { issuers, audiences, leeway, subject, .. } = &self.config;
        let expires = time(&claims, "exp")?.ok_or(AuthFault::Claim("exp"))?;
        let issued = time(&claims, "iat")?;
        if time(&claims, "nbf")?.is_some_and(|begin| begin > now + leeway.as_secs()) {
            return Err(AuthFault::NotYetValid);
        }
        let issuer = match claims.get("iss") {
            None => "",
            Some(Value::String(issuer)) => issuer,
            Some(_) => return Err(AuthFault::Claim("iss")),
        };
        if !issuers.is_empty() && !issuers.iter().any(|known| known == issuer) {
            return Err(AuthFault::Issuer);
        }
        if !audiences.is_empty() {
            let is_ours = |value: &Value| audiences.iter().any(|ours| value == ours);
            let fits = match claims.get("aud") {
                Some(Value::Array(values)) => values.iter().any(is_ours),
                Some(value) => is_ours(value),
                None => false,
            };
            if !fits {
                return Err(AuthFault::Audience);
            }
        }
        let (issuer, subject) = match claims.get(subject).and_then(Value::as_str) {
            Some(name) if !name.is_empty() => (issuer.into(), name.into()),
            _ => return Err(AuthFault::Claim("sub")),
        };
        let expires = Some(expires);
        Ok(Identity { issuer, subject, issued, expires, claims, ..Identity::default() })
    }
}

/// A time of the claims, in whole seconds. Only numbers: a string would skip the check in other readers.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, AuthFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = match value {
        Value::Number(number) => number.as_f64().filter(|seconds| (0.0..LATEST).contains(seconds)),
        _ => None,
    };
    seconds.map(|seconds| Some(seconds as u64)).ok_or(AuthFault::Claim(name))
}

/// Verifies the signature with the key that the token names. Keys without an id fit every token.
fn verify_signature(token: &SignedToken<'_>, keys: &[VerificationKey]) -> Result<(), AuthFault> {
    let fits = |key: &&VerificationKey| {
        let named = match (&token.key, &key.id) {
            (Some(wanted), Some(id)) => **wanted == **id,
            _ => true,
        };
        named && key.algorithms.contains(&token.algorithm)
    };
    let mut fitting = keys.iter().filter(fits).take(MOST_TRIED).peekable();
    if fitting.peek().is_none() {
        return Err(AuthFault::UnknownKey);
    }
    let valid = fitting.any(|key| {
        let message = token.signed.as_bytes();
        crypto::verify(token.signature, message, &key.key, token.algorithm).unwrap_or(false)
    });
    if valid { Ok(()) } else { Err(AuthFault::Signature) }
}

#[cfg(test)]
mod tests;

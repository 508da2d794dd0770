//! Authentication: credentials, identities, and the identities of sessions.
//!
//! A verifier turns a credential into an [`Identity`], or says why not ([`AuthFault`]). Verifiers live as long as their
//! configuration: a reload that keeps it keeps fetched keys and verified tokens ([`Verifiers`]).
//!
//! Invariants:
//!
//! - What cannot be decided is refused.
//! - The configuration and the key decide the algorithm of a token, never the token.
//! - No credential is stored: caches hold hashes.
//! - Every table is bounded.
//! - [`SessionIdentities`] binds an identity to a session at its handshake, and to a tunnel. It outlives configurations.
//!
//! This module must not know routes, backends, or the log of requests.

mod fault;
mod fetch;
mod identity;
mod jwks;
mod jwt;
mod sessions;
mod strict_json;
mod token;
mod token_cache;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) use self::{
    fault::AuthFault,
    identity::Identity,
    jwt::{JwtVerifier, TokenCheck},
    sessions::{BoundSession, BoundTunnel, SessionIdentities},
    token::presented,
};
use crate::config::JwtConfig;

/// The verifiers of a process, by their configuration.
#[derive(Debug, Default)]
pub(crate) struct Verifiers {
    jwt: Mutex<HashMap<JwtConfig, Weak<JwtVerifier>>>,
}

impl Verifiers {
    /// Returns the verifier of this configuration; a new one only if no route uses it yet.
    pub(crate) fn jwt(&self, config: &JwtConfig) -> Arc<JwtVerifier> {
        let mut known = self.jwt.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verifier) = known.get(config).and_then(Weak::upgrade) {
            return verifier;
        }
        known.retain(|_, verifier| verifier.strong_count() > 0);
        let verifier = Arc::new(JwtVerifier::new(config.clone()));
        known.insert(config.clone(), Arc::downgrade(&verifier));
        verifier
    }
}

/// Seconds since 1970, as in tokens.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

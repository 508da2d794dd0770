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

mod api_keys;
mod credential_cache;
mod fault;
mod fetch;
mod forward;
mod identity;
mod jwks;
mod jwt;
mod oidc;
mod passwords;
mod probe;
mod remote;
mod sessions;
mod token;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use self::passwords::PasswordTurns;
pub use self::probe::TokenProbe;
pub(crate) use self::{
    api_keys::ApiKeys,
    fault::AuthFault,
    forward::{ForwardAnswer, ForwardAuth, ForwardFacts, ForwardGrant, is_confusable},
    identity::{AuthMethod, Identity, LoginId},
    jwt::{JwtVerifier, TokenCheck},
    oidc::{
        LoginFacts, LoginFault, LoginPage, LoginReply, LoginSeal, OidcLogin, OidcProvider,
        is_navigation,
    },
    passwords::{PasswordCheck, Passwords},
    sessions::{BoundSession, BoundTunnel, SessionIdentities},
    token::{basic, presented},
};
use crate::config::{BasicConfig, ForwardAuthConfig, JwtConfig, OidcConfig};

/// The verifiers of a process that keep a state, by their configuration.
#[derive(Debug, Default)]
pub(crate) struct Verifiers {
    jwt: Mutex<HashMap<JwtConfig, Weak<JwtVerifier>>>,
    basic: Mutex<HashMap<BasicConfig, Weak<Passwords>>>,
    forward: Mutex<HashMap<ForwardAuthConfig, Weak<ForwardAuth>>>,
    oidc: Mutex<HashMap<OidcConfig, Weak<OidcProvider>>>,
    turns: PasswordTurns,
}

impl Verifiers {
    /// Returns the verifier of tokens of this configuration; a new one only if no route uses it yet.
    pub(crate) fn jwt(&self, config: &JwtConfig) -> Arc<JwtVerifier> {
        shared(&self.jwt, config, || JwtVerifier::new(config.clone()))
    }

    /// Returns the verifier of passwords of this configuration; a new one only if no route uses it yet.
    pub(crate) fn basic(&self, config: &BasicConfig) -> Arc<Passwords> {
        shared(&self.basic, config, || Passwords::new(config, self.turns.clone()))
    }

    /// Returns the client of the server of this configuration; a new one only if no route uses it yet.
    pub(crate) fn forward(&self, config: &ForwardAuthConfig) -> Arc<ForwardAuth> {
        shared(&self.forward, config, || ForwardAuth::new(config.clone()))
    }

    /// Returns the provider of this configuration; a new one only if no route uses it yet.
    pub(crate) fn oidc(&self, config: &OidcConfig) -> Arc<OidcProvider> {
        shared(&self.oidc, config, || OidcProvider::new(config.clone()))
    }
}

/// Returns what belongs to a configuration, and makes it if it does not exist any more.
fn shared<C: Clone + Eq + Hash, V>(
    known: &Mutex<HashMap<C, Weak<V>>>,
    config: &C,
    make: impl FnOnce() -> V,
) -> Arc<V> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(verifier) = known.get(config).and_then(Weak::upgrade) {
        return verifier;
    }
    known.retain(|_, verifier| verifier.strong_count() > 0);
    let verifier = Arc::new(make());
    known.insert(config.clone(), Arc::downgrade(&verifier));
    verifier
}

/// Seconds since 1970, as in tokens.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

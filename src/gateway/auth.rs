//! Authentication: only clients with an identity reach a backend.
//!
//! Protects, so it fails closed. A request of a bound Engine.IO session follows the session: its token may be missing
//! or expired, as browsers cannot change the query of a session, and cannot set fields on a WebSocket. A token of
//! another identity is refused.

mod credential;
mod refusal;
mod require;

use std::{future::Future, pin::Pin, sync::Arc};

use http::Method;
use moorline_http::{FieldId, RequestHead};

pub(super) use self::refusal::AuthRefusal;
use self::{
    credential::{Credential, CredentialCheck, Proof, Proved},
    refusal::{denied, foreign},
    require::Requirements,
};
use super::{origins, variables::FilterFacts};
use crate::{
    auth::{
        self, ApiKeys, AuthFault, BoundSession, Identity, JwtVerifier, Passwords,
        SessionIdentities, Verifiers,
    },
    config::{AuthConfig, OriginRules, SessionAuthConfig},
    error::{FailureKind, Phase, ProxyError, Side},
    net::tls::ClientCertificate,
};

/// State of authentication that outlives configurations.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthState {
    /// The verifiers.
    pub(crate) verifiers: Arc<Verifiers>,
    /// The identities of sessions.
    pub(crate) identities: Arc<SessionIdentities>,
}

/// Authentication of a route.
#[derive(Debug)]
pub(super) struct AuthFilter {
    jwt: Option<Arc<JwtVerifier>>,
    api_keys: Option<ApiKeys>,
    basic: Option<Arc<Passwords>>,
    require: Requirements,
    /// Pages that may use credentials that a browser adds by itself; `None`: another filter decides.
    origins: Option<OriginRules>,
    session: SessionAuthConfig,
    identities: Arc<SessionIdentities>,
}

/// The identity of a request, and what follows for its session.
#[derive(Debug)]
pub(crate) struct RequestIdentity {
    /// The identity, and when it ends.
    pub(crate) bound: BoundSession,
    /// Whether the session has an identity already.
    pub(crate) is_bound: bool,
    /// Status of the Close frame of a tunnel that ends.
    pub(crate) close_code: u16,
    /// Subprotocol to select if the backend selects none: clients that offer some fail otherwise.
    subprotocol: Option<Box<str>>,
}

impl RequestIdentity {
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.bound.identity
    }

    /// Subprotocol to select if the backend selects none.
    pub(super) fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }
}

/// What an authenticated request gets.
#[derive(Debug, Default)]
pub(super) struct AuthAdmission {
    /// Its identity; `None`: it needs none.
    pub(super) identity: Option<Box<RequestIdentity>>,
}

/// Decision about a request.
pub(super) type AuthVerdict = Result<AuthAdmission, Box<AuthRefusal>>;

/// A check that does I/O. It has a deadline.
pub(super) type PendingCheck = Pin<Box<dyn Future<Output = AuthVerdict> + Send>>;

/// Result of a check.
pub(super) enum AuthCheck {
    Done(AuthVerdict),
    Waits(PendingCheck),
}

/// What the conclusion needs of a request.
struct CheckedRequest {
    /// The identity of its session.
    session: Option<BoundSession>,
    /// Marker of a token in a subprotocol.
    subprotocol: Option<Box<str>>,
}

impl AuthFilter {
    /// Creates the filter. `origins`: pages that may use credentials that a browser adds by itself.
    pub(super) fn new(
        config: &AuthConfig,
        origins: Option<OriginRules>,
        state: &AuthState,
    ) -> Arc<Self> {
        let AuthConfig { jwt, api_keys, basic, require, session } = config;
        Arc::new(Self {
            jwt: jwt.as_ref().map(|jwt| state.verifiers.jwt(jwt)),
            api_keys: api_keys.as_ref().map(ApiKeys::new),
            basic: basic.as_ref().map(|basic| state.verifiers.basic(basic)),
            require: Requirements::new(require),
            origins,
            session: *session,
            identities: Arc::clone(&state.identities),
        })
    }

    /// Finds the identity of a request.
    pub(super) fn check(
        self: &Arc<Self>,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> AuthCheck {
        if is_preflight(request) {
            return AuthCheck::Done(Ok(AuthAdmission::default()));
        }
        let certificate = facts.tls_info.and_then(|tls| tls.client.as_ref());
        if !self.require.allow_certificate(certificate) {
            return AuthCheck::Done(Err(denied("the client certificate does not match")));
        }
        let session = facts.sid.and_then(|sid| self.identities.find(facts.pool, sid));
        let mut checked = CheckedRequest { session, subprotocol: None };
        let credential = match self.credential(request, certificate) {
            Ok(credential) => credential,
            Err(fault) => return AuthCheck::Done(self.conclude(Err(fault), checked)),
        };
        if let (Some(what), Some(rules)) = (credential.ambient, &self.origins)
            && let Some(origin) = origins::refused(rules, request, facts)
        {
            return AuthCheck::Done(Err(foreign(&origin, what)));
        }
        checked.subprotocol = credential.subprotocol;
        match credential.check {
            CredentialCheck::Done(proved) => AuthCheck::Done(self.conclude(proved, checked)),
            CredentialCheck::Waits(work) => {
                let filter = Arc::clone(self);
                AuthCheck::Waits(Box::pin(async move { filter.conclude(work.await, checked) }))
            }
        }
    }

    /// Checks the first credential that a request has: a token, an API key, a password, or a certificate.
    fn credential(
        &self,
        request: &RequestHead,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Credential, AuthFault> {
        if let Some(jwt) = &self.jwt
            && let Some((token, place)) = auth::presented(request, &jwt.config().places)?
        {
            return Ok(Credential::at(place, credential::check_token(jwt, token)));
        }
        if let Some(keys) = &self.api_keys
            && let Some((key, place)) = auth::presented(request, keys.places())?
        {
            let check = CredentialCheck::Done(keys.check(&key, auth::now()).map(Proof::of));
            return Ok(Credential::at(place, check));
        }
        if let Some(passwords) = &self.basic
            && let Some(credentials) = auth::basic(request)?
        {
            return Ok(Credential::ambient(
                credential::check_password(passwords, credentials),
                "a password",
            ));
        }
        if self.jwt.is_some() || self.api_keys.is_some() || self.basic.is_some() {
            return Err(AuthFault::Missing);
        }
        let certificate = certificate.ok_or(AuthFault::Missing)?;
        let check =
            CredentialCheck::Done(Ok(Proof::of(Arc::new(credential::identity_of(certificate)))));
        Ok(Credential::ambient(check, "a certificate"))
    }

    /// Decides by the credential and by the identity of the session.
    fn conclude(&self, proved: Proved, request: CheckedRequest) -> AuthVerdict {
        let proved = proved.and_then(|proof| match self.identities.is_revoked(&proof.identity) {
            true => Err(AuthFault::Revoked),
            false => Ok(proof),
        });
        let CheckedRequest { session, subprotocol } = request;
        let Some(session) = session else {
            let Proof { identity } = proved.map_err(|fault| self.refusal(&fault))?;
            return self.admit(BoundSession::new(identity, &self.session), false, subprotocol);
        };
        if session.has_ended(auth::now()) {
            let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::SessionGone);
            return Err(error.with_source("the identity of the session has ended").into());
        }
        let identity = match proved {
            Ok(Proof { identity }) | Err(AuthFault::Expired(identity)) => Some(identity),
            Err(AuthFault::Missing) => None,
            Err(fault) => return Err(self.refusal(&fault)),
        };
        if identity.is_some_and(|identity| !identity.is(&session.identity)) {
            return Err(denied("the session belongs to another identity"));
        }
        self.admit(session, true, subprotocol)
    }

    /// Admits a request if its identity meets the conditions of the route.
    fn admit(
        &self,
        bound: BoundSession,
        is_bound: bool,
        subprotocol: Option<Box<str>>,
    ) -> AuthVerdict {
        if let Some(unmet) = self.require.unmet(&bound.identity) {
            return Err(denied(unmet));
        }
        let close_code = self.session.close_code;
        let identity = RequestIdentity { bound, is_bound, close_code, subprotocol };
        Ok(AuthAdmission { identity: Some(Box::new(identity)) })
    }

    /// Removes the token from the offered subprotocols: no backend may select it.
    pub(super) fn strip(&self, identity: &RequestIdentity, request: &mut RequestHead) {
        let Some(marker) = identity.subprotocol() else { return };
        let mut kept: Vec<&[u8]> = Vec::new();
        let mut offered = request.head.tokens(FieldId::SecWebSocketProtocol);
        while let Some(name) = offered.next() {
            match name == marker.as_bytes() {
                // The next one is the token.
                true => drop(offered.next()),
                false => kept.push(name),
            }
        }
        drop(offered);
        let kept = kept.join(&b", "[..]);
        match kept.is_empty() {
            true => request.head.remove(FieldId::SecWebSocketProtocol),
            false => request.head.set(FieldId::SecWebSocketProtocol, kept),
        }
    }
}

/// Whether a browser asks for permission to send another request. It sends no credentials with a preflight (Fetch
/// standard), and backends give no data for it.
fn is_preflight(request: &RequestHead) -> bool {
    request.method == Method::OPTIONS
        && request.head.has(FieldId::Origin)
        && request.head.has(FieldId::AccessControlRequestMethod)
}

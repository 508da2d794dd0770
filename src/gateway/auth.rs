//! Authentication: only clients with an identity reach a backend.
//!
//! Protects, so it fails closed. A request of a bound Engine.IO session follows the session: its token may be missing
//! or expired, as browsers cannot change the query of a session, and cannot set fields on a WebSocket. A token of
//! another identity is refused.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc};

use http::Method;
use moorline_http::{FieldId, RequestHead};

use super::variables::FilterFacts;
use crate::{
    auth::{
        self, AuthFault, BoundSession, Identity, JwtVerifier, SessionIdentities, TokenCheck,
        Verifiers,
    },
    config::{AuthConfig, SessionAuthConfig, TokenPlace},
    error::{FailureKind, Phase, ProxyError, Side},
};

/// Seconds until a client should try again while keys cannot be fetched.
const RETRY_AFTER: u32 = 5;

/// Challenge without a credential (RFC 6750 §3).
const BEARER: &str = "Bearer";

/// Challenge after a credential that is not valid.
const INVALID: &str = r#"Bearer error="invalid_token""#;

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
    pub(super) fn identity(&self) -> &Identity {
        &self.bound.identity
    }

    /// Subprotocol to select if the backend selects none.
    pub(super) fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }
}

/// Decision about a request: its identity; `None`: it needs none.
pub(super) type AuthVerdict = Result<Option<Box<RequestIdentity>>, ProxyError>;

/// A check that does I/O. It has a deadline.
pub(super) type PendingCheck = Pin<Box<dyn Future<Output = AuthVerdict> + Send>>;

/// Result of a check.
pub(super) enum AuthCheck {
    Done(AuthVerdict),
    Waits(PendingCheck),
}

impl AuthFilter {
    pub(super) fn new(config: &AuthConfig, state: &AuthState) -> Arc<Self> {
        Arc::new(Self {
            jwt: config.jwt.as_ref().map(|jwt| state.verifiers.jwt(jwt)),
            session: config.session,
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
            return AuthCheck::Done(Ok(None));
        }
        let bound = facts.sid.and_then(|sid| self.identities.find(facts.pool, sid));
        let Some(jwt) = &self.jwt else {
            return AuthCheck::Done(self.conclude(Err(AuthFault::Missing), bound, None));
        };
        let (token, place) = match auth::presented(request, &jwt.config().places) {
            Ok(presented) => presented,
            Err(fault) => return AuthCheck::Done(self.conclude(Err(fault), bound, None)),
        };
        let subprotocol = match place {
            TokenPlace::Subprotocol(name) => Some(name.as_str().into()),
            _ => None,
        };
        let wait = match jwt.check(&token, auth::now()) {
            TokenCheck::Done(checked) => {
                return AuthCheck::Done(self.conclude(checked, bound, subprotocol));
            }
            TokenCheck::Waits(wait) => wait,
        };
        let (filter, jwt) = (Arc::clone(self), Arc::clone(jwt));
        let token = Cow::into_owned(token);
        AuthCheck::Waits(Box::pin(async move {
            wait.fetched().await;
            filter.conclude(jwt.check_now(&token, auth::now()), bound, subprotocol)
        }))
    }

    /// Decides by the credential and by the identity of the session.
    fn conclude(
        &self,
        checked: Result<Arc<Identity>, AuthFault>,
        bound: Option<BoundSession>,
        subprotocol: Option<Box<str>>,
    ) -> AuthVerdict {
        let checked = checked.and_then(|identity| match self.identities.is_revoked(&identity) {
            true => Err(AuthFault::Revoked),
            false => Ok(identity),
        });
        if let Some(session) = bound {
            if session.has_ended(auth::now()) {
                let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::SessionGone);
                return Err(error.with_source("the identity of the session has ended"));
            }
            return match checked {
                Ok(identity) | Err(AuthFault::Expired(identity))
                    if !identity.is(&session.identity) =>
                {
                    let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Denied);
                    Err(error.with_source("the session belongs to another identity"))
                }
                Ok(_) | Err(AuthFault::Expired(_) | AuthFault::Missing) => {
                    Ok(Some(self.identity(session, true, subprotocol)))
                }
                Err(fault) => Err(refusal(&fault)),
            };
        }
        match checked {
            Ok(identity) => {
                let bound = BoundSession::new(identity, &self.session);
                Ok(Some(self.identity(bound, false, subprotocol)))
            }
            Err(fault) => Err(refusal(&fault)),
        }
    }

    fn identity(
        &self,
        bound: BoundSession,
        is_bound: bool,
        subprotocol: Option<Box<str>>,
    ) -> Box<RequestIdentity> {
        let close_code = self.session.close_code;
        Box::new(RequestIdentity { bound, is_bound, close_code, subprotocol })
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

fn refusal(fault: &AuthFault) -> ProxyError {
    let (kind, retry_after) = match fault {
        fault if fault.is_ours() => (FailureKind::AuthUnavailable, Some(RETRY_AFTER)),
        AuthFault::Missing => (FailureKind::Unauthenticated(BEARER), None),
        _ => (FailureKind::Unauthenticated(INVALID), None),
    };
    let error = ProxyError::new(Side::Proxy, Phase::Select, kind).with_source(fault.to_string());
    ProxyError { retry_after, ..error }
}

//! Authentication: only clients with an identity reach a backend.
//!
//! Protects, so it fails closed. A request of a bound Engine.IO session follows the session: its token may be missing
//! or expired, as browsers cannot change the query of a session, and cannot set fields on a WebSocket. A token of
//! another identity is refused.

mod require;

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc};

use http::Method;
use moorline_http::{FieldId, RequestHead};

use self::require::Requirements;
use super::{origins, variables::FilterFacts};
use crate::{
    auth::{
        self, ApiKeys, AuthFault, AuthMethod, BoundSession, Identity, JwtVerifier, PasswordCheck,
        Passwords, SessionIdentities, TokenCheck, Verifiers,
    },
    config::{AuthConfig, OriginRules, SessionAuthConfig, TokenPlace},
    error::{FailureKind, Phase, ProxyError, Side},
    net::tls::ClientCertificate,
};

/// Seconds until a client should try again while credentials cannot be checked.
const RETRY_AFTER: u32 = 5;

/// Challenge of tokens without a credential (RFC 6750 §3).
const BEARER: &str = "Bearer";

/// Challenge of tokens after a credential that is not valid.
const INVALID: &str = r#"Bearer error="invalid_token""#;

/// Challenge of passwords (RFC 7617 §2).
const BASIC: &str = r#"Basic realm="restricted", charset="UTF-8""#;

/// Challenge where tokens and passwords are accepted.
const BOTH: &str = r#"Bearer, Basic realm="restricted", charset="UTF-8""#;

/// Challenge of API keys, which have no registered scheme. A 401 has at least one challenge (RFC 9110 §15.5.2).
const API_KEY: &str = "ApiKey";

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

/// Decision about a request: its identity; `None`: it needs none.
pub(super) type AuthVerdict = Result<Option<Box<RequestIdentity>>, ProxyError>;

/// A check that does I/O. It has a deadline.
pub(super) type PendingCheck = Pin<Box<dyn Future<Output = AuthVerdict> + Send>>;

/// Result of a check.
pub(super) enum AuthCheck {
    Done(AuthVerdict),
    Waits(PendingCheck),
}

/// Result of the check of a credential alone.
enum CredentialCheck {
    Done(Result<Arc<Identity>, AuthFault>),
    Waits(Pin<Box<dyn Future<Output = Result<Arc<Identity>, AuthFault>> + Send>>),
}

/// A credential of a request, and its check.
struct Credential {
    check: CredentialCheck,
    /// What it is, if a browser adds it to the requests of every page.
    ambient: Option<&'static str>,
    /// Marker of a token in a subprotocol.
    subprotocol: Option<Box<str>>,
}

impl Credential {
    /// A credential that a browser adds by itself.
    fn ambient(check: CredentialCheck, what: &'static str) -> Self {
        Self { check, ambient: Some(what), subprotocol: None }
    }

    /// A credential at a place.
    fn at(place: &TokenPlace, check: CredentialCheck) -> Self {
        let subprotocol = match place {
            TokenPlace::Cookie(_) => return Self::ambient(check, "a cookie"),
            TokenPlace::Subprotocol(name) => Some(name.as_str().into()),
            TokenPlace::Header | TokenPlace::Field(_) | TokenPlace::Query(_) => None,
        };
        Self { check, ambient: None, subprotocol }
    }
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
            return AuthCheck::Done(Ok(None));
        }
        let certificate = facts.tls_info.and_then(|tls| tls.client.as_ref());
        if !self.require.allow_certificate(certificate) {
            return AuthCheck::Done(Err(denied("the client certificate does not match")));
        }
        let bound = facts.sid.and_then(|sid| self.identities.find(facts.pool, sid));
        let credential = match self.credential(request, certificate) {
            Ok(credential) => credential,
            Err(fault) => return AuthCheck::Done(self.conclude(Err(fault), bound, None)),
        };
        if let (Some(what), Some(rules)) = (credential.ambient, &self.origins)
            && let Some(origin) = origins::refused(rules, request, facts)
        {
            return AuthCheck::Done(Err(foreign(&origin, what)));
        }
        let Credential { check, subprotocol, .. } = credential;
        match check {
            CredentialCheck::Done(checked) => {
                AuthCheck::Done(self.conclude(checked, bound, subprotocol))
            }
            CredentialCheck::Waits(work) => {
                let filter = Arc::clone(self);
                AuthCheck::Waits(Box::pin(async move {
                    filter.conclude(work.await, bound, subprotocol)
                }))
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
            return Ok(Credential::at(place, check_token(jwt, token)));
        }
        if let Some(keys) = &self.api_keys
            && let Some((key, place)) = auth::presented(request, keys.places())?
        {
            let check = CredentialCheck::Done(keys.check(&key, auth::now()));
            return Ok(Credential::at(place, check));
        }
        if let Some(passwords) = &self.basic
            && let Some(credentials) = auth::basic(request)?
        {
            return Ok(Credential::ambient(check_password(passwords, credentials), "a password"));
        }
        if self.jwt.is_some() || self.api_keys.is_some() || self.basic.is_some() {
            return Err(AuthFault::Missing);
        }
        let certificate = certificate.ok_or(AuthFault::Missing)?;
        let check = CredentialCheck::Done(Ok(Arc::new(identity_of(certificate))));
        Ok(Credential::ambient(check, "a certificate"))
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
                    Err(denied("the session belongs to another identity"))
                }
                Ok(_) | Err(AuthFault::Expired(_) | AuthFault::Missing) => {
                    self.identity(session, true, subprotocol)
                }
                Err(fault) => Err(self.refusal(&fault)),
            };
        }
        match checked {
            Ok(identity) => {
                let bound = BoundSession::new(identity, &self.session);
                self.identity(bound, false, subprotocol)
            }
            Err(fault) => Err(self.refusal(&fault)),
        }
    }

    /// Passes an identity on if it meets the conditions of the route.
    fn identity(
        &self,
        bound: BoundSession,
        is_bound: bool,
        subprotocol: Option<Box<str>>,
    ) -> AuthVerdict {
        if let Some(unmet) = self.require.unmet(&bound.identity) {
            return Err(denied(unmet));
        }
        let close_code = self.session.close_code;
        Ok(Some(Box::new(RequestIdentity { bound, is_bound, close_code, subprotocol })))
    }

    /// The failure that follows from a fault of a credential.
    fn refusal(&self, fault: &AuthFault) -> ProxyError {
        let is_missing = matches!(fault, AuthFault::Missing);
        let challenge = match (&self.jwt, &self.basic) {
            (Some(_), Some(_)) => BOTH,
            (Some(_), None) if is_missing => BEARER,
            (Some(_), None) => INVALID,
            (None, Some(_)) => BASIC,
            (None, None) => API_KEY,
        };
        let (kind, retry_after) = match fault.is_ours() {
            true => (FailureKind::AuthUnavailable, Some(RETRY_AFTER)),
            false => (FailureKind::Unauthenticated(challenge), None),
        };
        let error = ProxyError::new(Side::Proxy, Phase::Select, kind);
        ProxyError { retry_after, ..error.with_source(fault.to_string()) }
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

fn denied(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProxyError {
    ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Denied).with_source(reason)
}

/// The failure of a page whose browser has added a credential.
fn foreign(origin: &str, what: &str) -> ProxyError {
    let reason = format!(
        "a page of {origin} may not use {what} of this host; add the origin to `origins` of the route"
    );
    ProxyError::new(Side::Proxy, Phase::Select, FailureKind::OriginDenied).with_source(reason)
}

fn check_token(jwt: &Arc<JwtVerifier>, token: Cow<'_, str>) -> CredentialCheck {
    let wait = match jwt.check(&token, auth::now()) {
        TokenCheck::Done(checked) => return CredentialCheck::Done(checked),
        TokenCheck::Waits(wait) => wait,
    };
    let (jwt, token) = (Arc::clone(jwt), token.into_owned());
    CredentialCheck::Waits(Box::pin(async move {
        wait.fetched().await;
        jwt.check_now(&token, auth::now())
    }))
}

fn check_password(passwords: &Arc<Passwords>, credentials: &[u8]) -> CredentialCheck {
    match passwords.check(credentials, auth::now()) {
        PasswordCheck::Done(checked) => CredentialCheck::Done(checked),
        PasswordCheck::Waits(work) => CredentialCheck::Waits(Box::pin(work.done())),
    }
}

/// The identity of a certificate that the TLS handshake has verified.
fn identity_of(certificate: &ClientCertificate) -> Identity {
    let subject = match certificate.subject.is_empty() {
        true => &certificate.fingerprint,
        false => &certificate.subject,
    };
    Identity { method: AuthMethod::Certificate, subject: subject.clone(), ..Identity::default() }
}

//! Authentication: only clients with an identity reach a backend.
//!
//! Protects, so it fails closed. A request of a bound Engine.IO session follows the session: its token may be missing
//! or expired, as browsers cannot change the query of a session, and cannot set fields on a WebSocket. A token of
//! another identity is refused.

mod credential;
mod login;
mod refusal;
mod require;

use std::{future::Future, pin::Pin, sync::Arc};

use http::Method;
use moorline_http::{FieldId, RequestHead};

pub(super) use self::refusal::AuthRefusal;
use self::{
    credential::{Credential, CredentialCheck, Proof, Proved},
    refusal::{asks_for_login, denied, foreign},
    require::Requirements,
};
use super::{origins, variables::FilterFacts};
use crate::{
    auth::{
        self, ApiKeys, AuthFault, BoundSession, ForwardAuth, ForwardGrant, Identity, JwtVerifier,
        LoginSeal, OidcLogin, Passwords, SessionIdentities, Verifiers,
    },
    config::{AuthConfig, OriginRules, SessionAuthConfig},
    error::{FailureKind, Phase, ProxyError, Side},
    net::tls::ClientCertificate,
    sticky::cookie::CookieKeys,
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
    forward: Option<Arc<ForwardAuth>>,
    login: Option<Arc<OidcLogin>>,
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
    /// Its identity; `None`: it needs none, or the server that decides names none.
    pub(super) identity: Option<Box<RequestIdentity>>,
    /// What the server that decides has given.
    pub(super) grant: Option<Arc<ForwardGrant>>,
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
    /// The place that it goes to.
    place: u64,
    /// Marker of a token in a subprotocol.
    subprotocol: Option<Box<str>>,
    /// Whether the client can show a page, and follow a redirect.
    shows_pages: bool,
    /// Whether the client could not set fields: a browser opens a WebSocket.
    is_bare: bool,
}

impl AuthFilter {
    /// Creates the filter. `origins`: pages that may use credentials that a browser adds by itself. `keys`: keys of the cookies
    /// of logins.
    pub(super) fn new(
        config: &AuthConfig,
        origins: Option<OriginRules>,
        state: &AuthState,
        keys: &CookieKeys,
    ) -> Arc<Self> {
        let AuthConfig { jwt, api_keys, basic, forward, oidc, require, session } = config;
        Arc::new(Self {
            jwt: jwt.as_ref().map(|jwt| state.verifiers.jwt(jwt)),
            api_keys: api_keys.as_ref().map(ApiKeys::new),
            basic: basic.as_ref().map(|basic| state.verifiers.basic(basic)),
            forward: forward.as_ref().map(|forward| state.verifiers.forward(forward)),
            login: oidc.as_ref().map(|oidc| {
                Arc::new(OidcLogin::new(state.verifiers.oidc(oidc), LoginSeal::new(keys)))
            }),
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
        if let Some(check) = self.login_page(request, facts) {
            return check;
        }
        let session = facts.sid.and_then(|sid| self.identities.find(facts.pool, sid));
        let has = |id| request.head.has(id);
        let mut checked = CheckedRequest {
            session,
            place: facts.place.number,
            subprotocol: None,
            shows_pages: !(facts.upgrade || facts.is_engine || wants_events(request)),
            is_bare: facts.upgrade && !has(FieldId::Authorization) && !has(FieldId::Cookie),
        };
        let credential = match self.credential(request, certificate, facts) {
            Ok(credential) => credential,
            Err(AuthFault::LoginNeeded) => return self.begin_login(request, facts),
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

    /// Checks the first credential that a request has: a token, an API key, a password, whatever another server decides
    /// by, a login, or a certificate.
    fn credential(
        &self,
        request: &RequestHead,
        certificate: Option<&ClientCertificate>,
        facts: &FilterFacts<'_>,
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
        if let Some(forward) = &self.forward {
            let check = credential::ask(forward, request, facts);
            return Ok(Credential {
                check,
                ambient: credential::added(request),
                subprotocol: None,
            });
        }
        if let Some(login) = &self.login {
            return self.login_credential(login, request, facts);
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
        let proved = proved.and_then(|proof| match &proof.identity {
            Some(identity) if self.identities.is_revoked(identity) => Err(AuthFault::Revoked),
            _ => Ok(proof),
        });
        let CheckedRequest { session, place, subprotocol, shows_pages, is_bare } = request;
        let Some(session) = session else {
            let Proof { identity, grant } =
                proved.map_err(|fault| self.refusal(fault, shows_pages))?;
            let bound =
                identity.map(|identity| (BoundSession::new(identity, place, &self.session), false));
            return self.admit(bound, grant, subprotocol);
        };
        if session.has_ended(auth::now()) {
            let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::SessionGone);
            return Err(error.with_source("the identity of the session has ended").into());
        }
        // Elsewhere, the session stands for no credential: its sid would open whatever else the pool serves.
        let stands = session.is_of(place);
        let Proof { identity, grant } = match proved {
            Ok(Proof { identity: None, .. }) if !(is_bare && stands) => {
                return Err(denied("the session has an identity, and the request has none"));
            }
            Ok(proof) => proof,
            Err(AuthFault::Expired(identity)) if stands => Proof::of(identity),
            Err(AuthFault::Missing) if stands => Proof::default(),
            Err(AuthFault::Refused(response))
                if stands && is_bare && asks_for_login(response.status()) =>
            {
                Proof::default()
            }
            Err(fault) => return Err(self.refusal(fault, shows_pages)),
        };
        if identity.is_some_and(|identity| !identity.is(&session.identity)) {
            return Err(denied("the session belongs to another identity"));
        }
        self.admit(Some((session, true)), grant, subprotocol)
    }

    /// Admits a request if its identity meets the conditions of the route. `bound`: with whether its session has the identity
    /// already.
    fn admit(
        &self,
        bound: Option<(BoundSession, bool)>,
        grant: Option<Arc<ForwardGrant>>,
        subprotocol: Option<Box<str>>,
    ) -> AuthVerdict {
        let nobody = Identity::default();
        let identity = bound.as_ref().map_or(&nobody, |(bound, _)| &bound.identity);
        if let Some(unmet) = self.require.unmet(identity) {
            return Err(denied(unmet));
        }
        let close_code = self.session.close_code;
        let identity = bound.map(|(bound, is_bound)| {
            Box::new(RequestIdentity { bound, is_bound, close_code, subprotocol })
        });
        Ok(AuthAdmission { identity, grant })
    }

    /// Gives a request the fields of the server that decides, instead of those of the client.
    pub(super) fn copy_fields(&self, grant: Option<&ForwardGrant>, request: &mut RequestHead) {
        let Some(forward) = &self.forward else { return };
        let copied = &forward.config().copy;
        if copied.is_empty() {
            return;
        }
        // Otherwise, a client could remove the fields again, by naming them in `Connection`.
        request.strip_hop_by_hop(&[FieldId::XMoorlineHops]);
        request.head.retain(|field| {
            !copied.iter().any(|name| auth::is_confusable(name.as_bytes(), field.name))
        });
        for (name, value) in grant.iter().flat_map(|grant| &grant.fields) {
            request.head.append_named(name.as_str(), value.as_bytes());
        }
    }

    /// Whether browsers log in here.
    pub(super) fn logs_in(&self) -> bool {
        self.login.is_some()
    }

    /// Removes the token from the offered subprotocols, which no backend may select, and the cookies of logins.
    pub(super) fn strip(&self, identity: &RequestIdentity, request: &mut RequestHead) {
        if self.login.is_some() {
            OidcLogin::strip(&mut request.head);
        }
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

/// Whether a browser asks for permission to send another request. It sends no credentials and no body with a preflight
/// (Fetch standard), and backends give no data for it.
fn is_preflight(request: &RequestHead) -> bool {
    request.method == Method::OPTIONS
        && !request.has_body()
        && request.head.has(FieldId::Origin)
        && request.head.has(FieldId::AccessControlRequestMethod)
}

/// Whether the client wants a stream of events.
fn wants_events(request: &RequestHead) -> bool {
    request.head.tokens(FieldId::Accept).any(|accepted| {
        let media_type = accepted.split(|&byte| byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

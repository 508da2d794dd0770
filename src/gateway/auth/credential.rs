//! The credential of a request, and what it proves.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc};

use moorline_http::{FieldId, RequestHead};

use crate::{
    auth::{
        self, AuthFault, AuthMethod, ForwardAnswer, ForwardAuth, ForwardFacts, ForwardGrant,
        Identity, JwtVerifier, PasswordCheck, Passwords, TokenCheck,
    },
    config::TokenPlace,
    gateway::variables::FilterFacts,
    net::tls::ClientCertificate,
};

/// What a credential proves: an identity, what the server that decides has given, or both.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) grant: Option<Arc<ForwardGrant>>,
}

/// Result of the check of a credential alone.
pub(super) type Proved = Result<Proof, AuthFault>;

/// A check of a credential.
pub(super) enum CredentialCheck {
    Done(Proved),
    Waits(Pin<Box<dyn Future<Output = Proved> + Send>>),
}

/// A credential of a request, and its check.
pub(super) struct Credential {
    pub(super) check: CredentialCheck,
    /// What it is, if a browser adds it to the requests of every page.
    pub(super) ambient: Option<&'static str>,
    /// Marker of a token in a subprotocol.
    pub(super) subprotocol: Option<Box<str>>,
}

impl Credential {
    /// A credential that a browser adds by itself.
    pub(super) fn ambient(check: CredentialCheck, what: &'static str) -> Self {
        Self { check, ambient: Some(what), subprotocol: None }
    }

    /// A credential at a place.
    pub(super) fn at(place: &TokenPlace, check: CredentialCheck) -> Self {
        let subprotocol = match place {
            TokenPlace::Cookie(_) => return Self::ambient(check, "a cookie"),
            TokenPlace::Subprotocol(name) => Some(name.as_str().into()),
            TokenPlace::Header | TokenPlace::Field(_) | TokenPlace::Query(_) => None,
        };
        Self { check, ambient: None, subprotocol }
    }
}

impl Proof {
    pub(super) fn of(identity: Arc<Identity>) -> Self {
        Self { identity: Some(identity), grant: None }
    }
}

pub(super) fn check_token(jwt: &Arc<JwtVerifier>, token: Cow<'_, str>) -> CredentialCheck {
    let wait = match jwt.check(&token, auth::now()) {
        TokenCheck::Done(checked) => return CredentialCheck::Done(checked.map(Proof::of)),
        TokenCheck::Waits(wait) => wait,
    };
    let (jwt, token) = (Arc::clone(jwt), token.into_owned());
    CredentialCheck::Waits(Box::pin(async move {
        wait.fetched().await;
        jwt.check_now(&token, auth::now()).map(Proof::of)
    }))
}

pub(super) fn check_password(passwords: &Arc<Passwords>, credentials: &[u8]) -> CredentialCheck {
    match passwords.check(credentials, auth::now()) {
        PasswordCheck::Done(checked) => CredentialCheck::Done(checked.map(Proof::of)),
        PasswordCheck::Waits(work) => {
            CredentialCheck::Waits(Box::pin(async move { work.done().await.map(Proof::of) }))
        }
    }
}

/// Asks another server, unless it has decided about a request like this a short while ago.
pub(super) fn ask(
    forward: &Arc<ForwardAuth>,
    request: &RequestHead,
    facts: &FilterFacts<'_>,
) -> CredentialCheck {
    let FilterFacts { client, secure, host, id, method, path, query, .. } = *facts;
    let is_engine = facts.reaches_engine();
    let about = ForwardFacts { client, secure, host, method, path, query, is_engine, id };
    let granted = |grant: Arc<ForwardGrant>| {
        let identity = grant.identity.clone();
        Ok(Proof { identity, grant: Some(grant) })
    };
    let question = match forward.decide(request, &about) {
        Ok(grant) => return CredentialCheck::Done(granted(grant)),
        Err(question) => question,
    };
    let forward = Arc::clone(forward);
    CredentialCheck::Waits(Box::pin(async move {
        match forward.ask(question).await {
            ForwardAnswer::Allowed(grant) => granted(grant),
            ForwardAnswer::Refused(response) => Err(AuthFault::Refused(Box::new(response))),
            ForwardAnswer::Unavailable(reason) => Err(AuthFault::Undecided(reason.into())),
        }
    }))
}

/// What a request has that browsers add to the requests of every page.
pub(super) fn added(request: &RequestHead) -> Option<&'static str> {
    if request.head.has(FieldId::Cookie) {
        return Some("a cookie");
    }
    let mut credentials = request.head.all(FieldId::Authorization);
    let is_bearer =
        |value: &[u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    (!credentials.all(is_bearer)).then_some("a password")
}

/// The identity of a certificate that the TLS handshake has verified.
pub(super) fn identity_of(certificate: &ClientCertificate) -> Identity {
    let subject = match certificate.subject.is_empty() {
        true => &certificate.fingerprint,
        false => &certificate.subject,
    };
    Identity { method: AuthMethod::Certificate, subject: subject.clone(), ..Identity::default() }
}

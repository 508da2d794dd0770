//! What a client gets that is not admitted.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::AuthFilter;
use crate::{
    auth::{AuthFault, LoginFault},
    error::{FailureKind, Phase, ProxyError, Side},
    gateway::{body::ReplyBody, local::LocalReply},
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

/// Challenge of logins, which have no registered scheme, either.
const LOGIN: &str = "Cookie";

/// Why a request is not admitted.
#[derive(Debug)]
pub(in crate::gateway) enum AuthRefusal {
    /// It has failed.
    Failed(ProxyError),
    /// It gets this reply.
    Answered(LocalReply),
}

impl From<ProxyError> for Box<AuthRefusal> {
    fn from(error: ProxyError) -> Self {
        Box::new(AuthRefusal::Failed(error))
    }
}

impl AuthFilter {
    /// What follows from a fault of a credential.
    pub(super) fn refusal(&self, fault: AuthFault, shows_pages: bool) -> Box<AuthRefusal> {
        match fault {
            AuthFault::Refused(response) if shows_pages => {
                Box::new(AuthRefusal::Answered(relayed(*response)))
            }
            // Other clients follow no redirect, and need the error replies of their protocol.
            AuthFault::Refused(ref response) if !asks_for_login(response.status()) => {
                denied(fault.to_string())
            }
            fault => self.failure(&fault).into(),
        }
    }

    fn failure(&self, fault: &AuthFault) -> ProxyError {
        let is_missing = matches!(fault, AuthFault::Missing);
        let challenge = match (&self.jwt, &self.basic) {
            (Some(_), Some(_)) => BOTH,
            (Some(_), None) if is_missing => BEARER,
            (Some(_), None) => INVALID,
            (None, Some(_)) => BASIC,
            (None, None) if self.api_keys.is_some() => API_KEY,
            (None, None) if self.login.is_some() => LOGIN,
            (None, None) => BEARER,
        };
        let (kind, retry_after) = match fault.is_ours() {
            true => (FailureKind::AuthUnavailable, Some(RETRY_AFTER)),
            false => (FailureKind::Unauthenticated(challenge), None),
        };
        let error = ProxyError::new(Side::Proxy, Phase::Select, kind);
        ProxyError { retry_after, ..error.with_source(fault.to_string()) }
    }
}

/// The failure of a client that is known, but may not do this.
pub(super) fn denied(
    reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Box<AuthRefusal> {
    ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Denied).with_source(reason).into()
}

/// The failure of a login.
pub(super) fn login_failed(fault: &LoginFault) -> Box<AuthRefusal> {
    let (kind, retry_after) = match fault {
        LoginFault::Failed(_) => (FailureKind::LoginFailed, None),
        LoginFault::Unavailable(_) => (FailureKind::AuthUnavailable, Some(RETRY_AFTER)),
    };
    let error = ProxyError::new(Side::Proxy, Phase::Select, kind).with_source(fault.to_string());
    ProxyError { retry_after, ..error }.into()
}

/// The failure of a page whose browser has added a credential.
pub(super) fn foreign(origin: &str, what: &str) -> Box<AuthRefusal> {
    let reason = format!(
        "a page of {origin} may not use {what} of this host; add the origin to `origins` of the route"
    );
    let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::OriginDenied);
    error.with_source(reason).into()
}

/// Whether a status asks the client to log in.
pub(super) fn asks_for_login(status: StatusCode) -> bool {
    status.is_redirection() || status == StatusCode::UNAUTHORIZED
}

/// The response of another server as the reply to the client.
fn relayed(response: Response<Bytes>) -> LocalReply {
    let (parts, body) = response.into_parts();
    let mut reply = LocalReply::new(parts.status);
    for (name, value) in &parts.headers {
        reply.fields().append_named(name.as_str(), value.as_bytes());
    }
    reply.body = ReplyBody::Bytes(body);
    reply
}

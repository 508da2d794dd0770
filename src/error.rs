//! How a stream ends: the closed vocabulary for replies, log lines and metric labels.
//!
//! [`ProxyError`] is a failure with its side, phase and kind; [`Termination`] is the end of a whole
//! stream, failed or not. Replies are created from them in `proxy/reply.rs`, labels in
//! `observe/names.rs`, and nowhere else. This module depends on no other module.

use std::{error::Error, fmt};

/// The side that caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This proxy: a limit, the configuration, or a defect.
    Proxy,
}

/// Phase that a stream has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading the PROXY header at the start of a connection.
    ProxyHeader,
    /// TLS handshake with the client or the backend, depending on the side.
    Handshake,
    /// Reading and validating the request header.
    Request,
    /// Finding a route and a backend.
    Select,
    /// Opening a connection to the backend.
    Connect,
    /// Sending the request body.
    RequestBody,
    /// Waiting for the response header.
    ResponseHeader,
    /// Relaying the response body.
    ResponseBody,
    /// Relaying an upgraded connection or a layer 4 stream.
    Tunnel,
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request violates HTTP or WebSocket rules; the text is the sentence of the reply.
    BadRequest(&'static str),
    /// A method that proxies must not relay.
    MethodNotAllowed,
    /// A WebSocket version other than 13.
    UpgradeRequired,
    /// A request header that is too large or has too many fields.
    HeaderTooLarge,
    /// A request target that is too long.
    TargetTooLong,
    /// An unsupported HTTP version.
    UnsupportedVersion,
    /// A request body with a transfer coding other than chunked.
    UnsupportedCoding,
    /// A buffered body that exceeds its limit.
    BodyTooLarge,
    /// A body with a content coding that the proxy cannot decode and must, to change or to check it.
    ContentCoding,
    /// A body with a media type that the proxy cannot change and must, or that the API description does not accept.
    MediaType,
    /// A body that cannot be changed as the route says.
    Unchangeable,
    /// No route matches the host and path.
    NoRoute,
    /// No file has the name that the path asks for.
    NoFile,
    /// The API description of the route has no such path.
    NoOperation,
    /// The API description of the route has the path, but not for this method.
    NoOperationMethod,
    /// The request does not match the API description of the route.
    InvalidRequest,
    /// The host is served on passthrough connections only.
    Misdirected,
    /// The address of the client may not use the route.
    Forbidden,
    /// The route is closed for maintenance.
    Maintenance,
    /// The rate of requests is beyond the limit of the route.
    RateLimited,
    /// The quota of requests of the route is used up.
    QuotaUsed,
    /// Too many requests or tunnels are open at once, by the limit of the route.
    TooManyAtOnce,
    /// A WebSocket message is larger than the route allows.
    MessageTooLarge,
    /// A client sends more WebSocket messages than the route allows.
    MessageRate,
    /// The request has no valid credentials; with the challenge of the reply.
    Unauthenticated(&'static str),
    /// The client is known and may not do this.
    Denied,
    /// Pages of this origin may not do this.
    OriginDenied,
    /// A browser has not finished a login as it must.
    LoginFailed,
    /// Credentials cannot be checked at present.
    AuthUnavailable,
    /// Every backend of the pool is down, or the pool is empty.
    NoBackend,
    /// The session has ended with its backend.
    SessionGone,
    /// Every allowed connection to the backend is in use.
    Saturated,
    /// Too many connections from one address.
    TooMany,
    /// The request or stream leads back to this proxy.
    Loop,
    /// Too many new sessions for the backend, for longer than a session may wait.
    NotAdmitted,
    /// The peer refused the connection.
    Refused,
    /// No local port, descriptor or route is available for a connection.
    Exhausted,
    /// A deadline has passed.
    TimedOut,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection within a message.
    Incomplete,
    /// The peer's bytes are not valid HTTP.
    Malformed,
    /// An unexpected `101`, or one without a valid `Upgrade` or `Sec-WebSocket-Accept`.
    BadUpgrade,
    /// Information from a peer that is not trusted to send it.
    Untrusted,
    /// Information that the peer must send is missing.
    Missing,
    /// The peer's bytes are not TLS.
    NotTls,
    /// The client requests a server name that is not served.
    UnknownName,
    /// The peer's certificate has expired or is not yet valid.
    CertificateExpired,
    /// The peer's certificate is for another name.
    CertificateName,
    /// The peer's certificate is not issued by a trusted authority.
    CertificateUntrusted,
    /// The peer's certificate has been revoked.
    CertificateRevoked,
    /// A required certificate is missing: the peer's, or this proxy's until one has been issued.
    CertificateMissing,
    /// The peer's certificate is invalid in another way.
    CertificateInvalid,
    /// The peer ended the handshake with an alert, or no parameters could be negotiated.
    Alert,
    /// Any other socket error.
    Io,
}

/// A failure: side, phase, kind, and the underlying error.
#[derive(Debug)]
pub struct ProxyError {
    /// Side that caused the failure.
    pub side: Side,
    /// Phase that the stream had reached.
    pub phase: Phase,
    /// Kind of the failure.
    pub kind: FailureKind,
    /// Seconds until the client should retry; `None`: the default of this kind.
    pub retry_after: Option<u32>,
    /// Underlying error, for the log.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl ProxyError {
    /// Creates a failure without an underlying error.
    pub fn new(side: Side, phase: Phase, kind: FailureKind) -> Self {
        Self { side, phase, kind, retry_after: None, source: None }
    }

    /// Adds the underlying error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the seconds until the client should retry.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Creates a failure for an invalid request, with the sentence of the reply.
    pub fn bad_request(reason: &'static str) -> Self {
        Self::new(Side::Client, Phase::Request, FailureKind::BadRequest(reason))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProxyHeader => "reading the PROXY header",
            Self::Handshake => "TLS handshake",
            Self::Request => "reading the request",
            Self::Select => "choosing a backend",
            Self::Connect => "connecting to the backend",
            Self::RequestBody => "sending the request body",
            Self::ResponseHeader => "waiting for the response",
            Self::ResponseBody => "relaying the response body",
            Self::Tunnel => "relaying the tunnel",
        })
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest(reason) => reason.trim_end_matches('.'),
            Self::MethodNotAllowed => "method not allowed",
            Self::UpgradeRequired => "unsupported WebSocket version",
            Self::HeaderTooLarge => "header too large",
            Self::TargetTooLong => "request target too long",
            Self::UnsupportedVersion => "unsupported HTTP version",
            Self::UnsupportedCoding => "unsupported transfer coding",
            Self::BodyTooLarge => "body too large",
            Self::ContentCoding => "unsupported content coding",
            Self::MediaType => "unsupported media type",
            Self::Unchangeable => "the body cannot be changed",
            Self::NoRoute => "no route matches",
            Self::NoFile => "no such file",
            Self::NoOperation => "no such path in the API",
            Self::NoOperationMethod => "no such method in the API",
            Self::InvalidRequest => "invalid request by the API",
            Self::Misdirected => "host served on passthrough connections only",
            Self::NoBackend => "no backend is available",
            Self::SessionGone => "the session has ended",
            Self::Saturated => "every allowed connection to the backend is in use",
            Self::TooMany => "too many connections from this address",
            Self::Loop => "the request leads back to this proxy",
            Self::Forbidden => "address not allowed",
            Self::Maintenance => "closed for maintenance",
            Self::RateLimited => "too many requests",
            Self::QuotaUsed => "the quota is used up",
            Self::TooManyAtOnce => "too many requests or tunnels at once",
            Self::MessageTooLarge => "message too large",
            Self::MessageRate => "too many messages",
            Self::Unauthenticated(_) => "no valid credentials",
            Self::Denied => "not allowed for this client",
            Self::OriginDenied => "not allowed for pages of this origin",
            Self::LoginFailed => "the login has failed",
            Self::AuthUnavailable => "credentials cannot be checked",
            Self::NotAdmitted => "too many new sessions for the backend",
            Self::Refused => "connection refused",
            Self::Exhausted => "no local port, descriptor or network route",
            Self::TimedOut => "timed out",
            Self::Reset => "connection reset",
            Self::Incomplete => "connection closed within a message",
            Self::Malformed => "invalid data",
            Self::BadUpgrade => "invalid upgrade",
            Self::Untrusted => "sender not trusted",
            Self::Missing => "required data missing",
            Self::NotTls => "not TLS",
            Self::UnknownName => "unknown server name",
            Self::CertificateExpired => "certificate expired or not yet valid",
            Self::CertificateName => "certificate for another name",
            Self::CertificateUntrusted => "certificate not trusted",
            Self::CertificateRevoked => "certificate revoked",
            Self::CertificateMissing => "no certificate",
            Self::CertificateInvalid => "invalid certificate",
            Self::Alert => "TLS alert",
            Self::Io => "socket error",
        })
    }
}

impl fmt::Display for ProxyError {
    /// Side, phase and kind, then the underlying error: "backend, connecting to the backend: connection refused".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.side, self.phase, self.kind)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// How a stream ended. Every stream has exactly one: one access-log line, one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// The whole response was relayed.
    Complete,
    /// The proxy answered by itself as configured, for example with a redirect.
    Answered,
    /// The stream failed.
    Failed(Side, Phase, FailureKind),
    /// A tunnel ended with FIN; this side sent it first.
    Closed(Side),
    /// No byte passed a tunnel within its idle timeout.
    Idle,
    /// No byte passed the open direction of a half-closed tunnel within its timeout.
    HalfClosed,
    /// Closed or cut by a drain of the backend or a shutdown of the process.
    Drained,
    /// A tunnel was closed because its backend had more than its share.
    Rebalanced,
    /// A tunnel was closed because it reached its maximum age.
    Aged,
    /// A tunnel was closed because its backend is down.
    BackendDown,
    /// A tunnel was closed because the identity of its client has expired.
    Expired,
    /// A tunnel was closed because the identity of its client was revoked.
    Revoked,
    /// The task of the stream panicked.
    Panicked,
}

impl From<&ProxyError> for Termination {
    fn from(error: &ProxyError) -> Self {
        Self::Failed(error.side, error.phase, error.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_described_by_side_phase_kind_and_source() {
        let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::NoBackend);
        assert_eq!(error.to_string(), "proxy, choosing a backend: no backend is available");
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::Reset)
            .with_source("os error 104");
        assert_eq!(
            error.to_string(),
            "backend, waiting for the response: connection reset: os error 104"
        );
        let error = ProxyError::bad_request("The Host field is missing.");
        assert_eq!(error.to_string(), "client, reading the request: The Host field is missing");
    }
}

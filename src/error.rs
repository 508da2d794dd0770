//! How a stream ends: the closed vocabulary that replies, log lines and metric labels are made from.
//!
//! [`ProxyError`] is a failure with its side, phase and kind; [`Termination`] is how a whole stream
//! ended, failure or not. Replies are made from them in `http/reply.rs`, labels in
//! `observe/names.rs`, and nowhere else. This module knows nobody above it.

use std::{error::Error, fmt};

/// Whose doing a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's.
    Client,
    /// The backend's.
    Backend,
    /// Ours: limits, configuration, defects.
    Proxy,
}

/// How far a stream had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading the PROXY header that a connection begins with.
    ProxyHeader,
    /// TLS handshake, with the client or with the backend, by side.
    Handshake,
    /// Reading and checking the request's header.
    Request,
    /// Finding a route and a backend.
    Select,
    /// Opening a connection to the backend.
    Connect,
    /// Sending the request's body.
    RequestBody,
    /// Waiting for the response's header.
    ResponseHeader,
    /// Relaying the response's body.
    ResponseBody,
    /// Relaying an upgraded connection, or one of layer 4.
    Tunnel,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request breaks HTTP or WebSocket rules; the text is the sentence the client gets.
    BadRequest(&'static str),
    /// The method is one that no proxy should relay.
    MethodNotAllowed,
    /// A WebSocket version other than 13.
    UpgradeRequired,
    /// A request's header is larger than it may be, or has too many fields.
    HeaderTooLarge,
    /// A request's target is longer than any may be.
    TargetTooLong,
    /// The request's version of HTTP is not supported.
    UnsupportedVersion,
    /// A request's body has a transfer coding other than chunked.
    UnsupportedCoding,
    /// A buffered body exceeds its bound.
    BodyTooLarge,
    /// No route covers the host and path.
    NoRoute,
    /// The host asked for is served by others, on connections that are passed on to them.
    Misdirected,
    /// Every backend of the pool is down, or it has none.
    NoBackend,
    /// The session's node is gone, and the session with it.
    SessionGone,
    /// Every connection allowed to the backend is in use.
    Saturated,
    /// Too many connections from one address.
    TooMany,
    /// The request or stream leads back to this proxy.
    Loop,
    /// Too many new sessions for the backend, for longer than one of them may wait.
    NotAdmitted,
    /// The peer refused the connection.
    Refused,
    /// No local port, descriptor or route left to connect with.
    Exhausted,
    /// A deadline passed.
    TimedOut,
    /// The peer reset the connection.
    Reset,
    /// The peer closed before its message was complete.
    Incomplete,
    /// The peer's bytes are no valid HTTP.
    Malformed,
    /// A `101` that was not asked for, or without a valid `Upgrade` or `Sec-WebSocket-Accept`.
    BadUpgrade,
    /// Said by a peer that is not trusted to say it.
    Untrusted,
    /// Not said by a peer that has to say it.
    Missing,
    /// The peer's bytes are no TLS.
    NotTls,
    /// The client asks for a server name that is not served.
    UnknownName,
    /// The peer's certificate is not valid any more, or not yet.
    CertificateExpired,
    /// The peer's certificate is for another name.
    CertificateName,
    /// Nobody who is trusted vouches for the peer's certificate.
    CertificateUntrusted,
    /// The peer's certificate was revoked.
    CertificateRevoked,
    /// Whoever has to show a certificate has none: the peer, or we as long as none has been issued.
    CertificateMissing,
    /// The peer's certificate is wrong in another way.
    CertificateInvalid,
    /// The peer ended the handshake with an alert, or nothing could be agreed on.
    Alert,
    /// Any other socket error.
    Io,
}

/// A failure: whose, when, what, and the error beneath it.
#[derive(Debug)]
pub struct ProxyError {
    /// Whose doing.
    pub side: Side,
    /// How far the stream had come.
    pub phase: Phase,
    /// What went wrong.
    pub kind: FailureKind,
    /// Seconds after which the client should come back; `None`: as usual for this kind.
    pub retry_after: Option<u32>,
    /// The error beneath, for the log.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl ProxyError {
    /// A failure without an error beneath it.
    pub fn new(side: Side, phase: Phase, kind: FailureKind) -> Self {
        Self { side, phase, kind, retry_after: None, source: None }
    }

    /// The same with the error beneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with the seconds after which the client should come back.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// A request that breaks the rules, with the sentence that the client gets.
    pub fn bad_request(reason: &'static str) -> Self {
        Self::new(Side::Client, Phase::Request, FailureKind::BadRequest(reason))
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} failed in {:?}: {:?}", self.side, self.phase, self.kind)?;
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

/// How a stream ended. Exactly one for each: one access-log line, one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// The whole response was relayed.
    Complete,
    /// We answered by ourselves as configured: a redirect.
    Answered,
    /// It failed.
    Failed(Side, Phase, FailureKind),
    /// A tunnel ended with FIN, and this side sent it first.
    Closed(Side),
    /// A tunnel saw no byte for its idle timeout.
    Idle,
    /// A tunnel of which one direction had ended saw no byte in the other one for as long as it may.
    HalfClosed,
    /// Closed or cut by a drain, the backend's or the process's.
    Drained,
    /// A tunnel closed because its backend had more than its share.
    Rebalanced,
    /// A tunnel closed because it had lived for as long as one may.
    Aged,
    /// A tunnel closed because its backend is down.
    BackendDown,
    /// The task that relayed it panicked.
    Panicked,
}

impl From<&ProxyError> for Termination {
    fn from(error: &ProxyError) -> Self {
        Self::Failed(error.side, error.phase, error.kind)
    }
}

//! Requests that are rejected before they are understood.
//!
//! They get what every rejected request gets: a reply with a sentence and an id, and a log line.

use moorline_http::HeadFault;
use tokio::time::Instant;

use super::{
    forwarding::RequestId,
    reply::{self, OwnReply},
};
use crate::{
    config::ErrorPages,
    error::{FailureKind, Phase, ProxyError, Side},
};

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// A rejected request: what is sent to the client and logged.
#[derive(Debug)]
pub(crate) struct RejectedRequest {
    /// Request id, also part of the reply.
    pub(crate) id: RequestId,
    /// Status of the reply; 0 if the client has left without one.
    pub(crate) status: u16,
    /// Why the request was rejected.
    pub(crate) error: ProxyError,
    /// When the first byte arrived.
    pub(crate) since: Instant,
    /// The bytes of the header, as far as they are known.
    head: Vec<u8>,
}

impl RejectedRequest {
    /// A request whose header did not arrive in time.
    pub(super) fn late(head: &[u8], since: Instant) -> Self {
        let error = ProxyError::new(Side::Client, Phase::Request, FailureKind::TimedOut);
        Self::new(error, head, since)
    }

    /// A request whose client closed the connection within the header.
    pub(super) fn incomplete(head: &[u8], since: Instant) -> Self {
        let error = ProxyError::new(Side::Client, Phase::Request, FailureKind::Incomplete);
        let error = error.with_source("The connection ended within the request header.");
        Self::new(error, head, since)
    }

    /// A request whose client reset the connection within the header.
    pub(super) fn reset(head: &[u8], since: Instant) -> Self {
        let error = ProxyError::new(Side::Client, Phase::Request, FailureKind::Reset);
        Self { status: 0, ..Self::new(error, head, since) }
    }

    /// A request that violates the rules or the limits.
    pub(super) fn invalid(fault: HeadFault, head: &[u8], since: Instant) -> Self {
        Self::new(reply::invalid_head(fault).with_source(fault.sentence()), head, since)
    }

    fn new(error: ProxyError, head: &[u8], since: Instant) -> Self {
        let status = reply::status(&error).as_u16();
        Self { id: RequestId::new(), status, error, since, head: head.to_vec() }
    }

    /// Returns the reply.
    pub(super) fn reply(&self, pages: Option<&ErrorPages>) -> OwnReply {
        let sentence = match &self.error.source {
            Some(source) => source.to_string(),
            None => "The request header did not arrive in time.".to_owned(),
        };
        reply::unparsed(&self.error, &sentence, &self.id, &self.head, pages)
    }

    /// Method and target, as far as the first line contains them.
    pub(crate) fn request_line(&self) -> (String, String) {
        let line = self.head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        if self.head.first() == Some(&TLS_HANDSHAKE) {
            return Default::default();
        }
        let line = String::from_utf8_lossy(line);
        let mut words = line.splitn(2, ' ');
        let method = words.next().unwrap_or_default().to_owned();
        let rest = words.next().unwrap_or_default();
        let target = rest.rsplit_once(" HTTP/").map_or(rest, |(target, _)| target);
        (method, target.to_owned())
    }
}

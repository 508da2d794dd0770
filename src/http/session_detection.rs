//! Detects in a backend's response the id of a new session, or that the session is unknown.
//!
//! Only the beginning of a body is read, within a limit, and is passed on to the client unchanged.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::forward::{self, BackendResponse};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    sticky::engine_io,
};

/// Maximum size of a handshake's reply that is read for its open packet. The packet comes first and
/// has a few hundred bytes; other packets may follow.
const MAX_OPEN: usize = 16 * 1024;

/// Maximum size of an Engine.IO error that is read; errors have about fifty bytes.
const MAX_ERROR: usize = 1024;

/// A session that a reply has opened.
#[derive(Debug)]
pub(super) struct DetectedSession {
    pub(super) sid: String,
    /// How long the backend keeps the session without a request of the client.
    pub(super) lifetime: Duration,
}

/// Reads the open packet of a handshake's reply. Also returns the bytes read, which come first in
/// the reply to the client.
pub(super) async fn open_packet(
    answer: &mut BackendResponse,
    pause: Duration,
) -> Result<(Option<DetectedSession>, Bytes), ProxyError> {
    let mut opened = None;
    let body = answer.response.body_mut();
    let head = read(body, MAX_OPEN, pause, |head| {
        opened = engine_io::open_packet(head);
        opened.is_some()
    })
    .await?;
    let opened = opened.map(|open| DetectedSession {
        sid: open.sid,
        lifetime: open.ping_interval + open.ping_timeout,
    });
    Ok((opened, head))
}

/// Whether a response says that the session is unknown; also returns the bytes read.
pub(super) async fn unknown_sid(
    answer: &mut BackendResponse,
    pause: Duration,
) -> Result<(bool, Bytes), ProxyError> {
    if answer.response.status() != StatusCode::BAD_REQUEST {
        return Ok((false, Bytes::new()));
    }
    let head = read(answer.response.body_mut(), MAX_ERROR, pause, |_| false).await?;
    let kind = answer.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok((engine_io::is_unknown_sid(kind, &head), head))
}

/// Reads frames until `enough`, the end of the body, or the limit.
async fn read(
    body: &mut Incoming,
    bound: usize,
    pause: Duration,
    mut enough: impl FnMut(&[u8]) -> bool,
) -> Result<Bytes, ProxyError> {
    let failed = |kind| ProxyError::new(Side::Backend, Phase::ResponseBody, kind);
    let mut head = BytesMut::new();
    while head.len() < bound && !http_body::Body::is_end_stream(body) {
        let frame = tokio::time::timeout(pause, body.frame())
            .await
            .map_err(|_| failed(FailureKind::TimedOut))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| failed(forward::kind(&error)).with_source(error))?;
        let Ok(data) = frame.into_data() else { break };
        head.extend_from_slice(&data);
        if enough(&head) {
            break;
        }
    }
    Ok(head.freeze())
}

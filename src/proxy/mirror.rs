//! Copies of requests for another pool, whose responses are dropped.
//!
//! A copy never delays or fails the request that it is a copy of. A separate task sends it, once the whole body has been
//! read from the client. How many copies a route has at a time is limited, and so is the size of their bodies: requests
//! beyond the limits are not copied.
//!
//! Requests of sessions, upgrades and held requests are never copied. The first would disturb a session or open a second
//! one, and the others would hold a copy for as long as their client stays.

use std::{io::Write as _, sync::Arc};

use moorline_http::{BodyLength, RequestHead};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    arrival::RequestState,
    detached::{DetachedRequest, Unanswered},
};
use crate::{observe::Metrics, snapshot::MirrorTarget};

/// Maximum size of a response that is read to its end, so that its connection can be kept.
const MOST_READ: usize = 1 << 20;

/// A copy of a request, whose body may still be missing.
#[derive(Debug)]
pub(super) struct MirrorCopy {
    target: Arc<MirrorTarget>,
    metrics: Arc<Metrics>,
    request: DetachedRequest,
    /// The body so far.
    body: Vec<u8>,
    /// Whether the head announces chunks.
    chunked: bool,
    /// Counts the copy until its response has been read.
    _slot: OwnedSemaphorePermit,
}

impl MirrorCopy {
    /// Copies a request with the fields for the backend. Sends the copy, unless it waits for its body and is returned.
    /// `None` also if the request is not copied.
    pub(super) fn of(
        target: &Arc<MirrorTarget>,
        request: &RequestHead,
        state: &RequestState<'_>,
        id: &str,
    ) -> Option<Box<Self>> {
        let is_session = state.engine.is_some() || state.upgrade || state.long_poll;
        if is_session || fastrand::u8(..100) >= target.share {
            return None;
        }
        let length = request.length();
        let metrics = &state.proxy.metrics;
        let fits =
            !matches!(length, BodyLength::Exactly(length) if length > target.max_body as u64);
        let slot = Arc::clone(&target.slots).try_acquire_owned().ok().filter(|_| fits);
        let Some(slot) = slot else {
            metrics.mirror_skipped.inc();
            return None;
        };
        let from = state.origin_for(&target.pool, id);
        let (pool, client) = (Arc::clone(&target.pool), state.address.ip());
        let copy = Box::new(Self {
            target: Arc::clone(target),
            metrics: Arc::clone(metrics),
            request: DetachedRequest::new(pool, request, client, from),
            body: Vec::new(),
            chunked: length == BodyLength::Chunked,
            _slot: slot,
        });
        if request.has_body() {
            return Some(copy);
        }
        copy.send();
        None
    }

    /// Adds a piece of the body; false if it becomes too large, so that the copy must be dropped.
    pub(super) fn add(&mut self, data: &[u8]) -> bool {
        if self.body.len() + data.len() > self.target.max_body {
            self.metrics.mirror_skipped.inc();
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    /// Sends the copy with another body, which has replaced that of the client.
    pub(super) fn send_with(mut self: Box<Self>, request: &RequestHead, body: &[u8]) {
        self.request.replace_head(request, BodyLength::Exactly(body.len() as u64));
        self.chunked = false;
        if self.add(body) {
            self.send();
        }
    }

    /// Sends the complete copy by another task.
    pub(super) fn send(self: Box<Self>) {
        tokio::spawn(async move {
            match self.exchange().await {
                Ok(()) => self.metrics.mirror_sent.inc(),
                Err(Unanswered) => self.metrics.mirror_failed.inc(),
            };
        });
    }

    /// Sends the copy and reads its response.
    async fn exchange(&self) -> Result<(), Unanswered> {
        let mut size = Vec::new();
        let end: &[u8] = match (self.chunked, self.body.is_empty()) {
            (false, _) => b"",
            (true, true) => b"0\r\n\r\n",
            (true, false) => {
                write!(size, "{:x}\r\n", self.body.len())?;
                b"\r\n0\r\n\r\n"
            }
        };
        let response = self.request.send(&[&size, &self.body, end]).await?;
        let mut read = 0;
        let whole = response.read_body(|piece| {
            read += piece.len();
            read <= MOST_READ
        });
        whole.await.map(|_| ())
    }
}

//! Copies of requests for another pool, whose responses are dropped.
//!
//! A copy never delays or fails the request that it is a copy of. A separate task sends it, once the whole body has been
//! read from the client. How many copies a route has at a time is limited, and so is the size of their bodies: requests
//! beyond the limits are not copied.
//!
//! Requests of sessions, upgrades and held requests are never copied. The first would disturb a session or open a second
//! one, and the others would hold a copy for as long as their client stays.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use http::Method;
use moorline_http::{
    BodyDecoder, BodyLength, Buffer, ChunkedOutput, HeadLimits, RequestHead, ResponseHead,
    ResponseParser,
};
use tokio::{
    io::AsyncWriteExt as _,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    arrival::RequestState,
    backend::{self, Lease, RequestSlot, SendOptions},
};
use crate::{
    config::HeaderLimits,
    net::proxy_protocol::ConnectionOrigin,
    observe::Metrics,
    snapshot::MirrorTarget,
    upstream::{Acquired, source},
};

/// Maximum size of a response that is read to its end, so that its connection can be kept.
const MOST_READ: usize = 1 << 20;

/// A copy of a request, whose body may still be missing.
#[derive(Debug)]
pub(super) struct MirrorCopy {
    target: Arc<MirrorTarget>,
    metrics: Arc<Metrics>,
    method: Method,
    /// The head, as it is sent.
    head: Box<[u8]>,
    /// The body so far.
    body: Vec<u8>,
    /// Whether the head announces chunks.
    chunked: bool,
    client: IpAddr,
    from: ConnectionOrigin,
    /// Counts the copy until its response has been read.
    _slot: OwnedSemaphorePermit,
}

/// Why a copy was not sent, or has no response. It is not reported: health checks watch the backends of the pool.
struct NotMirrored;

impl From<io::Error> for NotMirrored {
    fn from(_: io::Error) -> Self {
        Self
    }
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
        let mut head = Buffer::new();
        request.write(&mut head, length, None);
        let copy = Box::new(Self {
            target: Arc::clone(target),
            metrics: Arc::clone(metrics),
            method: request.method.clone(),
            head: head.filled().into(),
            body: Vec::new(),
            chunked: length == BodyLength::Chunked,
            client: state.address.ip(),
            from: state.origin_for(&target.pool, id),
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

    /// Sends the complete copy by another task.
    pub(super) fn send(self: Box<Self>) {
        tokio::spawn(async move {
            let timeouts = &self.target.pool.config().timeouts;
            let until = Instant::now() + timeouts.connect + timeouts.response_header;
            match timeout_at(until, self.exchange()).await {
                Ok(Ok(())) => self.metrics.mirror_sent.inc(),
                _ => self.metrics.mirror_failed.inc(),
            };
        });
    }

    /// Sends the copy and reads its response.
    async fn exchange(&self) -> Result<(), NotMirrored> {
        let pool = &self.target.pool;
        let backend = pool.upstream.pick(&source(self.client), &[]).ok_or(NotMirrored)?;
        let options = SendOptions {
            backend: &backend,
            pool,
            from: &self.from,
            timeouts: &pool.config().timeouts,
            began: Instant::now(),
            header: None,
            upgrade: false,
            once: true,
            fresh: false,
            bound: false,
        };
        let mut lease = connect(&options).await?;
        let stream = lease.stream();
        stream.write_all(&self.head).await?;
        if self.chunked {
            let mut size = Vec::new();
            if !self.body.is_empty() {
                write!(size, "{:x}\r\n", self.body.len())?;
            }
            stream.write_all(&size).await?;
            stream.write_all(&self.body).await?;
            let end: &[u8] = if self.body.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
            stream.write_all(end).await?;
        } else {
            stream.write_all(&self.body).await?;
        }
        stream.flush().await?;
        let (head, input) = self.response(&mut lease).await?;
        if drop_body(&mut lease, &head, input).await? {
            lease.keep_for(&options, &head);
            lease.give_back();
        }
        Ok(())
    }

    /// Reads the head of the final response; also returns the bytes behind it.
    async fn response(
        &self,
        lease: &mut Lease,
    ) -> Result<(ResponseHead, Option<Buffer>), NotMirrored> {
        let HeaderLimits { size, fields } = self.target.pool.config().response_header;
        let (mut parser, mut input) = (ResponseParser::default(), None);
        loop {
            let limits = HeadLimits { size, fields };
            match parser.parse(&mut input, limits, &self.method).map_err(|_| NotMirrored)? {
                Some(head) if head.is_interim() => {}
                Some(head) => return Ok((head, input)),
                None => fill(lease, &mut input).await?,
            }
        }
    }
}

/// Takes a kept connection, or opens one.
async fn connect(options: &SendOptions<'_>) -> Result<Lease, NotMirrored> {
    let slot = RequestSlot::try_acquire(options.backend).ok_or(NotMirrored)?;
    let acquired = match backend::take_kept(options) {
        Some(connection) => Acquired::Idle(connection),
        None => backend::acquire(options, options.until()).await.ok_or(NotMirrored)?,
    };
    let connection = match acquired {
        Acquired::Idle(connection) => connection,
        Acquired::Permit(permit) => {
            backend::open(options, permit).await.map_err(|_| NotMirrored)?
        }
    };
    Ok(slot.lease(options.backend, connection))
}

/// Reads the body of a response. Returns whether the connection can be used again.
async fn drop_body(
    lease: &mut Lease,
    head: &ResponseHead,
    mut input: Option<Buffer>,
) -> Result<bool, NotMirrored> {
    if head.length() == BodyLength::UntilClose {
        return Ok(false);
    }
    let mut decoder = BodyDecoder::new(head.length(), ChunkedOutput::Decoded);
    let mut read = 0;
    loop {
        if let Some(mut piece) = input.take() {
            read += piece.len();
            let decoded = decoder.decode(piece.filled_mut(), |_| ()).map_err(|_| NotMirrored)?;
            let consumed = decoded.consumed;
            input = piece.split_off(consumed);
        }
        if decoder.is_ended() {
            return Ok(input.is_none());
        }
        if read > MOST_READ {
            return Ok(false);
        }
        fill(lease, &mut input).await?;
    }
}

/// Reads more bytes.
async fn fill(lease: &mut Lease, input: &mut Option<Buffer>) -> Result<(), NotMirrored> {
    let mut buffer = input.take().unwrap_or_default();
    if buffer.is_full() {
        buffer.reserve(buffer.capacity());
    }
    let read = poll_fn(|cx| buffer.poll_fill(cx, lease.stream())).await?;
    *input = Some(buffer);
    if read == 0 { Err(NotMirrored) } else { Ok(()) }
}

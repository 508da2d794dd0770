//! Requests without a client: a task of their own sends them.
//!
//! There is one try, on one backend. A failure is not repeated and not reported: health checks watch the backends of the
//! pool. A connection whose response was read to its end is kept.
//!
//! This module must not know why a request is sent.

use std::{future::poll_fn, io, net::IpAddr, sync::Arc};

use http::Method;
use moorline_http::{
    BodyDecoder, BodyLength, Buffer, ChunkedOutput, HeadLimits, RequestHead, ResponseHead,
    ResponseParser,
};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout_at},
};

use super::backend::{self, Lease, RequestSlot, SendOptions};
use crate::{
    config::HeaderLimits,
    net::proxy_protocol::ConnectionOrigin,
    snapshot::PoolSnapshot,
    upstream::{Acquired, source},
};

/// A request with the fields for the backend.
#[derive(Debug)]
pub(super) struct DetachedRequest {
    pool: Arc<PoolSnapshot>,
    method: Method,
    /// The head, as it is sent.
    head: Box<[u8]>,
    client: IpAddr,
    from: ConnectionOrigin,
}

/// The response to a request, whose body is still to be read.
pub(super) struct DetachedResponse {
    pub(super) head: ResponseHead,
    lease: Lease,
    /// Bytes behind the head.
    input: Option<Buffer>,
    until: Instant,
}

/// Why there is no whole response.
#[derive(Debug)]
pub(super) struct Unanswered;

impl From<io::Error> for Unanswered {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl DetachedRequest {
    /// Prepares a request for a pool. `client` and `from` are those of the request that caused it.
    pub(super) fn new(
        pool: Arc<PoolSnapshot>,
        request: &RequestHead,
        client: IpAddr,
        from: ConnectionOrigin,
    ) -> Self {
        let mut head = Buffer::new();
        request.write(&mut head, request.length(), None);
        Self { pool, method: request.method.clone(), head: head.filled().into(), client, from }
    }

    /// Replaces the head, for a body of another length.
    pub(super) fn replace_head(&mut self, request: &RequestHead, length: BodyLength) {
        let mut head = Buffer::new();
        request.write(&mut head, length, None);
        self.head = head.filled().into();
    }

    /// Sends the request, with a body as it is framed for the backend, and reads the head of the response.
    ///
    /// # Errors
    /// The pool has no backend, or the backend has not answered in time.
    pub(super) async fn send(&self, body: &[&[u8]]) -> Result<DetachedResponse, Unanswered> {
        let timeouts = &self.pool.config().timeouts;
        let until = Instant::now() + timeouts.connect + timeouts.response_header;
        timeout_at(until, self.exchange(body, until)).await.map_err(|_| Unanswered)?
    }

    async fn exchange(
        &self,
        body: &[&[u8]],
        until: Instant,
    ) -> Result<DetachedResponse, Unanswered> {
        let pool = &self.pool;
        let backend = pool.upstream.pick(&source(self.client), &[]).ok_or(Unanswered)?;
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
        for piece in body {
            stream.write_all(piece).await?;
        }
        stream.flush().await?;
        let (head, input) = self.response(&mut lease).await?;
        lease.keep_for(&options, &head);
        Ok(DetachedResponse { head, lease, input, until })
    }

    /// Reads the head of the final response; also returns the bytes behind it.
    async fn response(
        &self,
        lease: &mut Lease,
    ) -> Result<(ResponseHead, Option<Buffer>), Unanswered> {
        let HeaderLimits { size, fields } = self.pool.config().response_header;
        let (mut parser, mut input) = (ResponseParser::default(), None);
        loop {
            let limits = HeadLimits { size, fields };
            match parser.parse(&mut input, limits, &self.method).map_err(|_| Unanswered)? {
                Some(head) if head.is_interim() => {}
                Some(head) => return Ok((head, input)),
                None => fill(lease, &mut input).await?,
            }
        }
    }
}

impl DetachedResponse {
    /// Reads the body in pieces, until it ends or `take` returns false, within the time that was left for the head. Returns
    /// whether it was read to its end.
    ///
    /// # Errors
    /// The body was cut off.
    pub(super) async fn read_body(
        self,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<bool, Unanswered> {
        let until = self.until;
        timeout_at(until, self.read(take)).await.map_err(|_| Unanswered)?
    }

    async fn read(self, mut take: impl FnMut(&[u8]) -> bool) -> Result<bool, Unanswered> {
        let Self { head, mut lease, mut input, .. } = self;
        if head.length() == BodyLength::UntilClose {
            return Ok(false);
        }
        let mut decoder = BodyDecoder::new(head.length(), ChunkedOutput::Decoded);
        let mut wanted = true;
        while wanted {
            if let Some(mut piece) = input.take() {
                let decoded = decoder
                    .decode(piece.filled_mut(), |run| wanted = wanted && take(run))
                    .map_err(|_| Unanswered)?;
                let consumed = decoded.consumed;
                input = piece.split_off(consumed);
            }
            if decoder.is_ended() {
                if input.is_none() {
                    lease.give_back(true);
                }
                return Ok(wanted);
            }
            if wanted {
                fill(&mut lease, &mut input).await?;
            }
        }
        Ok(false)
    }
}

/// Takes a kept connection, or opens one.
async fn connect(options: &SendOptions<'_>) -> Result<Lease, Unanswered> {
    let slot = RequestSlot::try_acquire(options.backend).ok_or(Unanswered)?;
    let acquired = match backend::take_kept(options) {
        Some(connection) => Acquired::Idle(connection),
        None => backend::acquire(options, options.until()).await.ok_or(Unanswered)?,
    };
    let connection = match acquired {
        Acquired::Idle(connection) => connection,
        Acquired::Permit(permit) => backend::open(options, permit).await.map_err(|_| Unanswered)?,
    };
    Ok(slot.lease(options.backend, connection))
}

/// Reads more bytes.
async fn fill(lease: &mut Lease, input: &mut Option<Buffer>) -> Result<(), Unanswered> {
    let mut buffer = input.take().unwrap_or_default();
    if buffer.is_full() {
        buffer.reserve(buffer.capacity());
    }
    let read = poll_fn(|cx| buffer.poll_fill(cx, lease.stream())).await?;
    *input = Some(buffer);
    if read == 0 { Err(Unanswered) } else { Ok(()) }
}

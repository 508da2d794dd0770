//! Whole bodies in memory: of requests that several backends are asked with, and of messages that are changed.
//!
//! Every such body has a limit, and takes its share of a limit for the whole process. A body that turns out to be too large
//! can be put back, so that it passes as if it had not been read.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use moorline_http::{BodyDecoder, BodyFault, BodyLength, Buffer, ChunkedOutput};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    client::ClientSide,
    exchange::{BackendResponse, read_error},
    outgoing::Outgoing,
    upload::{body_failure, body_fault},
};
use crate::error::{FailureKind, Phase, ProxyError, Side};

/// A share of a memory limit for the whole process.
#[derive(Debug, Default)]
pub(super) struct MemoryShare(Option<Box<OwnedSemaphorePermit>>);

impl MemoryShare {
    /// Makes the share large enough for this many bytes; `memory` counts KiB.
    ///
    /// # Errors
    /// Too much is held already.
    pub(super) fn reach(&mut self, bytes: u64, memory: &Arc<Semaphore>) -> Result<(), ProxyError> {
        let held = self.0.as_ref().map_or(0, |held| held.num_permits());
        let needed = usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX);
        let missing = u32::try_from(needed.saturating_sub(held)).unwrap_or(u32::MAX);
        let share = Arc::clone(memory).try_acquire_many_owned(missing).map_err(|_| {
            ProxyError::new(Side::Proxy, Phase::RequestBody, FailureKind::Saturated)
        })?;
        match &mut self.0 {
            Some(held) => held.merge(share),
            None => self.0 = Some(Box::new(share)),
        }
        Ok(())
    }
}

/// A body that has been read.
pub(super) enum ReadBody {
    /// All of it, decoded.
    Whole(Vec<u8>),
    /// It is too large. What was read has been put back, if it was kept.
    TooLarge,
}

/// The pieces of a body that are in memory.
struct CollectedBody {
    decoder: BodyDecoder,
    bytes: Vec<u8>,
    /// What was read, with its framing; `None`: it is not kept.
    raw: Option<Vec<u8>>,
    until: Instant,
    pause: Duration,
}

impl CollectedBody {
    fn new(length: BodyLength, pause: Duration, keeps: bool) -> Self {
        Self {
            decoder: BodyDecoder::new(length, ChunkedOutput::Decoded),
            bytes: Vec::new(),
            raw: keeps.then(Vec::new),
            until: Instant::now() + pause,
            pause,
        }
    }

    /// Takes a piece, and returns what is behind the body.
    fn take(&mut self, mut piece: Buffer) -> Result<Option<Buffer>, BodyFault> {
        self.until = Instant::now() + self.pause;
        let before = self.raw.as_ref().map_or(0, Vec::len);
        if let Some(raw) = &mut self.raw {
            raw.extend_from_slice(piece.filled());
        }
        let bytes = &mut self.bytes;
        let decoded =
            self.decoder.decode(piece.filled_mut(), |run| bytes.extend_from_slice(run))?;
        let consumed = decoded.consumed;
        if let Some(raw) = &mut self.raw {
            raw.truncate(before + consumed);
        }
        Ok(piece.split_off(consumed))
    }

    /// Puts back what was read, before what is still there.
    fn put_back(&mut self, input: &mut Option<Buffer>) {
        let Some(mut raw) = self.raw.take() else { return };
        if let Some(rest) = input.take() {
            raw.extend_from_slice(rest.filled());
        }
        *input = (!raw.is_empty()).then(|| Buffer::of(&raw));
    }

    /// Reads one piece of a request; true at the end of the body.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
    ) -> Poll<Result<bool, ProxyError>> {
        let _ = client.poll_output(cx);
        if client.input.is_none() {
            match client.poll_input(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Err(body_failure(FailureKind::Incomplete)));
                }
                Poll::Ready(Err(source)) => {
                    return Poll::Ready(Err(body_failure(FailureKind::Reset).with_source(source)));
                }
                Poll::Pending => {
                    ready!(client.timer.poll_until(cx, self.until));
                    return Poll::Ready(Err(body_failure(FailureKind::TimedOut)));
                }
            }
        }
        let Some(piece) = client.input.take() else { return Poll::Ready(Ok(false)) };
        client.input = self.take(piece).map_err(body_fault)?;
        Poll::Ready(Ok(self.decoder.is_ended()))
    }

    /// Reads one piece of a response; true at the end of the body. The rest of the request moves to the backend meanwhile.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        (client, outgoing): (&mut ClientSide, &mut Outgoing),
        answer: &mut BackendResponse,
    ) -> Poll<Result<bool, ProxyError>> {
        let mut uploading = false;
        if let Some(upload) = outgoing.current() {
            // A client that breaks off its body here may still want the response.
            uploading = upload.poll(cx, client, answer.lease.stream()).is_pending();
        }
        if let Some(piece) = answer.input.take().filter(|input| !input.is_empty()) {
            answer.input = self.take(piece).map_err(response_fault)?;
            return Poll::Ready(Ok(self.decoder.is_ended()));
        }
        if self.decoder.is_ended() {
            return Poll::Ready(Ok(true));
        }
        let mut piece = Buffer::new();
        match piece.poll_fill(cx, answer.lease.stream()) {
            Poll::Ready(Ok(0)) => {
                Poll::Ready(self.decoder.end().map(|()| true).map_err(response_fault))
            }
            Poll::Ready(Ok(_)) => {
                answer.input = Some(piece);
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(ProxyError { phase: Phase::ResponseBody, ..read_error(error) }))
            }
            Poll::Pending => {
                if !uploading && let Poll::Ready(kind) = client.poll_departure(cx) {
                    client.has_left = true;
                    return Poll::Ready(Err(ProxyError::new(
                        Side::Client,
                        Phase::ResponseBody,
                        kind,
                    )));
                }
                ready!(client.timer.poll_until(cx, self.until));
                Poll::Ready(Err(response_failure(FailureKind::TimedOut)))
            }
        }
    }
}

/// Limits of a body in memory.
pub(super) struct BodyLimits<'a> {
    /// Maximum size, in bytes.
    pub(super) most: u64,
    /// Maximum time without a byte.
    pub(super) pause: Duration,
    /// The limit for the whole process, in KiB.
    pub(super) memory: &'a Arc<Semaphore>,
    /// Put a body back that is too large.
    pub(super) keeps: bool,
}

/// Reads the body of a request from the client.
pub(super) async fn of_request(
    client: &mut ClientSide,
    length: BodyLength,
    limits: &BodyLimits<'_>,
    share: &mut MemoryShare,
) -> Result<ReadBody, ProxyError> {
    let mut body = CollectedBody::new(length, limits.pause, limits.keeps);
    loop {
        let ended = poll_fn(|cx| body.poll_request(cx, client)).await?;
        if body.bytes.len() as u64 > limits.most {
            body.put_back(&mut client.input);
            return Ok(ReadBody::TooLarge);
        }
        share.reach(body.bytes.len() as u64, limits.memory)?;
        if ended {
            return Ok(ReadBody::Whole(body.bytes));
        }
    }
}

/// Reads the body of a response from the backend. If it is put back, it has its framing.
pub(super) async fn of_response(
    sides: (&mut ClientSide, &mut Outgoing),
    answer: &mut BackendResponse,
    limits: &BodyLimits<'_>,
) -> Result<ReadBody, ProxyError> {
    let (client, outgoing) = sides;
    if let Some(upload) = outgoing.current() {
        // The backend will not send `100 Continue` any more.
        upload.open_gate();
    }
    let mut body = CollectedBody::new(answer.head.length(), limits.pause, limits.keeps);
    loop {
        let ended = poll_fn(|cx| body.poll_response(cx, (client, outgoing), answer)).await?;
        if body.bytes.len() as u64 > limits.most {
            body.put_back(&mut answer.input);
            return Ok(ReadBody::TooLarge);
        }
        let reached = outgoing.memory.reach(body.bytes.len() as u64, limits.memory);
        reached.map_err(|error| ProxyError { phase: Phase::ResponseBody, ..error })?;
        if ended {
            return Ok(ReadBody::Whole(body.bytes));
        }
    }
}

fn response_failure(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Backend, Phase::ResponseBody, kind)
}

fn response_fault(fault: BodyFault) -> ProxyError {
    match fault {
        BodyFault::Incomplete => response_failure(FailureKind::Incomplete),
        fault => response_failure(FailureKind::Malformed).with_source(fault),
    }
}

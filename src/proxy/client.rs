//! The client's side of a connection: its stream, the bytes that were read ahead, and its departure.
//!
//! While a request is served, the stream is read only for its body and for the end of the input. A client that
//! closes its sending side has either left, or only finished sending: both look alike. Some requests therefore
//! allow the client to be half-closed ([`HalfClose::MayWait`]); a long poll does not, because its session ends with its
//! client. A client that resets its connection has always left.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::StatusCode;
use moorline_http::{
    BodyLength, Buffer, ClientConnection, HEAD_SIZE, HttpVersion, RequestHead, ResponseHead,
};
use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep},
};

use super::timer::Timer;
use crate::{
    error::FailureKind,
    net::stream::{ByteStream as _, ClientStream},
};

/// Interim response sent to a half-closed client. A waiting client ignores it (RFC 9110 §15.2); a client that
/// has closed its socket answers with a reset.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Time after the end of the input before the first check: most responses are complete by then.
const FIRST_CHECK_AFTER: Duration = Duration::from_secs(1);

/// First and longest interval between two checks.
const CHECK_INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Bytes that are read ahead while the backend of a request is unreachable.
const READ_AHEAD: usize = 64 * 1024;

/// What the end of the input means during a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HalfClose {
    /// The client has left.
    HasLeft,
    /// The client may still wait for its response.
    MayWait {
        /// Whether an interim response may check that the client is still there.
        probed: bool,
    },
}

/// The client's side of a connection.
#[derive(Debug)]
pub(super) struct ClientSide {
    pub(super) stream: ClientStream,
    /// Bytes that were read and not consumed.
    pub(super) input: Option<Buffer>,
    /// Bytes to write before anything else: interim responses.
    pub(super) output: Option<Buffer>,
    /// What the end of the input means now.
    pub(super) half_close: HalfClose,
    /// The client has closed its sending side.
    pub(super) ended: bool,
    /// Bytes of the response have been written.
    pub(super) answering: bool,
    /// The client has left before its response.
    pub(super) has_left: bool,
    /// The version of the current request.
    pub(super) version: HttpVersion,
    /// The client waits for `100 Continue`.
    wants_continue: bool,
    /// The timer for all deadlines.
    pub(super) timer: Timer,
    /// Checks whether a half-closed client is still connected.
    probe: Option<Box<ClientProbe>>,
}

/// State of the check started by [`PROBE`].
#[derive(Debug)]
struct ClientProbe {
    /// Time until the next check; `None` before the probe is sent.
    pause: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

impl ClientSide {
    /// `until`: the first deadline.
    pub(super) fn new(stream: ClientStream, until: Instant) -> Self {
        Self {
            stream,
            input: None,
            output: None,
            half_close: HalfClose::HasLeft,
            ended: false,
            answering: false,
            has_left: false,
            version: HttpVersion::Http11,
            wants_continue: false,
            timer: Timer::new(until),
            probe: None,
        }
    }

    /// Begins a request.
    pub(super) fn begin(&mut self, request: &RequestHead, half_close: HalfClose) {
        self.half_close = half_close;
        self.answering = false;
        self.version = request.version;
        self.wants_continue = request.expects_continue();
    }

    /// Whether the client has closed its sending side, and no request of it is left.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.input.is_none()
    }

    /// Reads more input behind the bytes that are there; false at the end of the input. Holds no buffer while
    /// nothing arrives.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let mut buffer = self.input.take().unwrap_or_default();
        if buffer.is_full() {
            buffer.reserve(HEAD_SIZE);
        }
        let read = buffer.poll_fill(cx, &mut self.stream);
        self.input = (!buffer.is_empty()).then_some(buffer);
        if self.stream.has_unsent_tls() {
            // An error is found by the next read or write.
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
        match ready!(read) {
            Ok(0) => {}
            Ok(_) => return Poll::Ready(Ok(true)),
            // A TLS client that closes without close_notify has also closed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        self.ended = true;
        Poll::Ready(Ok(false))
    }

    /// Ready once the client has left while its request waits for a response; what it sends meanwhile is kept.
    pub(super) fn poll_departure(&mut self, cx: &mut Context<'_>) -> Poll<FailureKind> {
        self.poll_gone(cx, HEAD_SIZE, self.half_close)
    }

    /// Like [`poll_departure`](Self::poll_departure) for a request that has not been sent: a half-closed client has
    /// left, too. Up to 64 KiB of its body are read ahead, because the end of the input is behind them.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<FailureKind> {
        self.poll_gone(cx, READ_AHEAD, HalfClose::HasLeft)
    }

    /// Resolves once the client has left or closed its sending side, before its request has been sent.
    pub(super) async fn left(&mut self) {
        poll_fn(|cx| self.poll_left(cx)).await;
        self.has_left = true;
    }

    /// Resolves once the client has left while its request waits for a filter. Some half-closed clients still wait.
    pub(super) async fn departed(&mut self) {
        poll_fn(|cx| self.poll_departure(cx)).await;
        self.has_left = true;
    }

    fn poll_gone(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        half_close: HalfClose,
    ) -> Poll<FailureKind> {
        loop {
            if self.ended {
                return match half_close {
                    HalfClose::HasLeft => Poll::Ready(FailureKind::Incomplete),
                    HalfClose::MayWait { probed: true } => self.poll_probe(cx),
                    HalfClose::MayWait { probed: false } => Poll::Pending,
                };
            }
            if self.input.as_ref().is_some_and(|input| input.len() >= most) {
                return Poll::Pending;
            }
            if ready!(self.poll_input(cx)).is_err() {
                return Poll::Ready(FailureKind::Reset);
            }
        }
    }

    /// Ready once a half-closed client turns out to be gone.
    fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<FailureKind> {
        // Once a response is being written, its own writes detect a lost client.
        if self.answering {
            return Poll::Pending;
        }
        let probe = self.probe.get_or_insert_with(|| {
            Box::new(ClientProbe { pause: None, timer: Box::pin(sleep(FIRST_CHECK_AFTER)) })
        });
        while probe.timer.as_mut().poll(cx).is_ready() {
            let pause = match probe.pause {
                None => {
                    // A write of the first bytes either succeeds at once or the connection is unusable.
                    match Pin::new(&mut self.stream).poll_write(cx, PROBE) {
                        Poll::Ready(Ok(count)) if count == PROBE.len() => {}
                        _ => return Poll::Ready(FailureKind::Reset),
                    }
                    if let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx) {
                        return Poll::Ready(FailureKind::Reset);
                    }
                    CHECK_INTERVALS.0
                }
                Some(_) if self.stream.has_failed() => return Poll::Ready(FailureKind::Reset),
                Some(pause) => (pause * 2).min(CHECK_INTERVALS.1),
            };
            probe.pause = Some(pause);
            probe.timer.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }

    /// Queues an interim response for the client. HTTP/1.0 has none.
    pub(super) fn queue_interim(&mut self, head: &ResponseHead) {
        if self.version == HttpVersion::Http10 {
            return;
        }
        if head.status == StatusCode::CONTINUE {
            self.wants_continue = false;
        }
        let connection = ClientConnection { version: self.version, closes: false, upgrade: None };
        let output = self.output.get_or_insert_default();
        head.write(output, BodyLength::Exactly(0), connection);
    }

    /// Queues `100 Continue` if the client waits for it.
    pub(super) fn queue_continue(&mut self) {
        if std::mem::take(&mut self.wants_continue) {
            self.output.get_or_insert_default().push(PROBE);
        }
    }

    /// Writes queued output, and pushes it through TLS.
    pub(super) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(output) = &mut self.output else { return Poll::Ready(Ok(())) };
        ready!(output.poll_drain(cx, &mut self.stream))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.output = None;
        Poll::Ready(Ok(()))
    }
}

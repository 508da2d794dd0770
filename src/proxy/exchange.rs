//! One request to one backend, up to the header of the response.
//!
//! [`send_request`] tries once, and repeats only what a backend cannot notice: a kept-alive
//! connection that turns out to be closed before anything was written is replaced without an error. Every other
//! failure is returned to the caller, which decides whether to try another backend. The connection is driven by the
//! task of the request, without another task or a channel.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, StatusCode};
use moorline_http::{Buffer, HeadFault, HeadLimits, ResponseHead, ResponseParser};
use tokio::time::Instant;

use super::{
    backend::{self, Lease, RequestSlot, SendOptions, YOUNG},
    client::ClientSide,
    upload::Upload,
};
use crate::{
    config::HeaderLimits,
    error::{FailureKind, Phase, ProxyError, Side},
    net::tls,
    upstream::{Acquired, Backend, KeptConnection, Permit},
};

/// Responses that a backend sent before it hung may still arrive for this time.
const LATE: Duration = Duration::from_millis(200);

/// Response of a backend; the body is still to be read.
#[derive(Debug)]
pub(super) struct BackendResponse {
    pub(super) head: ResponseHead,
    /// Bytes that were read behind the head.
    pub(super) input: Option<Buffer>,
    pub(super) lease: Lease,
    /// Time that connecting took; `None` on a kept-alive connection.
    pub(super) connected: Option<Duration>,
    /// When the head arrived.
    pub(super) at: Instant,
}

/// A try that failed without a response.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: ProxyError,
    /// The connection was a kept-alive one that the backend may have closed meanwhile.
    pub(super) kept: bool,
    /// When connecting, or waiting for the response, began.
    pub(super) began: std::time::Instant,
    /// The request was sent, but the backend was hung or unreachable and closed the connection as
    /// idle: the backend did not read the request.
    pub(super) unread: bool,
}

impl SendError {
    /// A failure at this moment.
    pub(super) fn now(error: ProxyError) -> Self {
        Self { error, kept: false, began: std::time::Instant::now(), unread: false }
    }
}

/// Sends a request to the backend and waits for the header of the response.
pub(super) fn send_request<'a>(
    options: &'a SendOptions<'a>,
    method: &'a Method,
    upload: &'a mut Upload,
    client: &'a mut ClientSide,
) -> impl Future<Output = Result<BackendResponse, SendError>> + Send {
    let mut sending = Sending { options, method, upload, client };
    async move {
        // Ends here: the next wait must not hold the room of a response.
        let (permit, slot) = match sending.on_kept_connection().await? {
            KeptOutcome::Answered(answer) => return Ok(answer),
            KeptOutcome::NoneKept(permit, slot) => (permit, slot),
        };
        sending.on_new_connection(permit, slot).await
    }
}

/// A request that is sent to one backend.
struct Sending<'a> {
    options: &'a SendOptions<'a>,
    method: &'a Method,
    upload: &'a mut Upload,
    client: &'a mut ClientSide,
}

/// Outcome of sending on kept connections.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum KeptOutcome {
    Answered(BackendResponse),
    /// No kept connection is left; the request may open a connection.
    NoneKept(Permit, RequestSlot),
}

impl Sending<'_> {
    /// Sends the request on kept connections, one after the other, until a connection is not closed before anything
    /// was written.
    fn on_kept_connection(
        &mut self,
    ) -> impl Future<Output = Result<KeptOutcome, SendError>> + Send {
        async move {
            let options = self.options;
            let mut began = options.began;
            // Boxed: most requests find a connection at once, and a held poll must not pay for the other ways.
            let mut slot = match RequestSlot::try_acquire(options.backend) {
                Some(slot) => slot,
                None => {
                    let acquired = Box::pin(RequestSlot::acquire(options, options.until()));
                    while_present(self.client, acquired).await?.ok_or_else(saturated)?
                }
            };
            loop {
                let acquired = match backend::take_kept(options) {
                    Some(connection) => Acquired::Idle(connection),
                    None => {
                        let acquired = Box::pin(backend::acquire(options, options.until()));
                        while_present(self.client, acquired).await?.ok_or_else(saturated)?
                    }
                };
                let connection = match acquired {
                    Acquired::Idle(connection) => connection,
                    Acquired::Permit(permit) => return Ok(KeptOutcome::NoneKept(permit, slot)),
                };
                let mut lease = slot.lease(options.backend, connection);
                match Exchange::new(self, &mut lease, began).response().await {
                    Ok((head, input)) => {
                        return answered(options, head, input, lease, None)
                            .map(KeptOutcome::Answered);
                    }
                    // The backend has closed the connection before anything was written.
                    Err(failure)
                        if failure.error.side == Side::Backend && !self.upload.has_written() => {}
                    Err(failure) => {
                        let kept = lease.connection();
                        let unread =
                            options.once && is_unread(kept, options.backend, &failure.error);
                        return Err(SendError { kept: true, unread, ..failure });
                    }
                }
                began = Instant::now();
                self.upload.restart(began);
                slot = lease.into_slot();
            }
        }
    }

    /// Opens a connection and sends the request on it.
    fn on_new_connection(
        &mut self,
        permit: Permit,
        slot: RequestSlot,
    ) -> impl Future<Output = Result<BackendResponse, SendError>> + Send {
        async move {
            let started = Instant::now();
            let opened = Box::pin(backend::open(self.options, permit));
            let connection = while_present(self.client, opened).await?.map_err(|error| {
                SendError { began: started.into_std(), ..SendError::now(error) }
            })?;
            let connected = started.elapsed();
            let mut lease = slot.lease(self.options.backend, connection);
            let began = Instant::now();
            // A body that waits for `100 Continue` waits from now on.
            self.upload.restart(began);
            let (head, input) = Exchange::new(self, &mut lease, began).response().await?;
            answered(self.options, head, input, lease, Some(connected))
        }
    }
}

/// Runs a step before anything is sent. Fails if the client leaves meanwhile.
async fn while_present<T>(
    client: &mut ClientSide,
    mut step: Pin<Box<impl Future<Output = T>>>,
) -> Result<T, SendError> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = step.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        client.poll_departure(cx).map(|kind| {
            client.has_left = true;
            Err(SendError::now(ProxyError::new(Side::Client, Phase::Connect, kind)))
        })
    })
    .await
}

fn saturated() -> SendError {
    SendError::now(ProxyError::new(Side::Proxy, Phase::Connect, FailureKind::Saturated))
}

fn answered(
    options: &SendOptions<'_>,
    head: ResponseHead,
    input: Option<Buffer>,
    mut lease: Lease,
    connected: Option<Duration>,
) -> Result<BackendResponse, SendError> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS && !options.upgrade {
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::BadUpgrade);
        return Err(SendError::now(error));
    }
    lease.keep_for(options, &head);
    lease.responds();
    Ok(BackendResponse { head, input, lease, connected, at: Instant::now() })
}

/// Whether the backend closed the connection without reading the request that failed on it.
///
/// A backend that hangs, or has lost its network, counts the connection as idle meanwhile. It
/// closes the connection as soon as it recovers, before it reads anything. This is the case if
/// the connection has outlived the backend's idle timeout since its last response, and the
/// backend was silent on all connections from the request until now. A server that has read the
/// request has stopped its idle timer and answers. An unknown timeout proves nothing. A quiet
/// backend looks like a hung one unless health checks run more often than its idle timeout.
fn is_unread(connection: &KeptConnection, backend: &Backend, error: &ProxyError) -> bool {
    if (error.side, error.phase) != (Side::Backend, Phase::ResponseHeader)
        || !matches!(error.kind, FailureKind::Reset | FailureKind::Incomplete | FailureKind::Io)
    {
        return false;
    }
    let limit = connection.limit.or_else(|| backend.idle().observed_limit());
    let Some((limit, answered)) = limit.zip(connection.answered()) else { return false };
    let now = std::time::Instant::now();
    // The request was sent within `YOUNG` of the last response.
    now.saturating_duration_since(answered) >= limit
        && backend.was_unresponsive(answered + YOUNG + LATE, now)
}

/// The wait for the response of one backend.
struct Exchange<'e, 'a> {
    sending: &'e mut Sending<'a>,
    lease: &'e mut Lease,
    input: Option<Buffer>,
    parser: ResponseParser,
    started: Instant,
    /// An interim response was read since the deadline was last checked.
    interim: bool,
}

impl<'e, 'a> Exchange<'e, 'a> {
    fn new(sending: &'e mut Sending<'a>, lease: &'e mut Lease, started: Instant) -> Self {
        let (input, parser) = (None, ResponseParser::default());
        Self { sending, lease, input, parser, started, interim: false }
    }

    /// Waits for the head of the final response; also returns the bytes behind it.
    fn response(
        mut self,
    ) -> impl Future<Output = Result<(ResponseHead, Option<Buffer>), SendError>> {
        poll_fn(move |cx| {
            let head = ready!(self.poll_response(cx))?;
            Poll::Ready(Ok((head, self.input.take())))
        })
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendError>> {
        let stream = self.lease.stream();
        let Sending { upload, client, .. } = &mut *self.sending;
        let uploaded = match upload.poll(cx, client, stream) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(SendError::now(error))),
            Poll::Pending => false,
        };
        while self.sending.client.poll_output(cx).is_ready() {
            match self.poll_head(cx) {
                Poll::Ready(Ok(Some(head))) => return Poll::Ready(Ok(head)),
                Poll::Ready(Ok(None)) => self.interim = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendError::now(error))),
                Poll::Pending => break,
            }
        }
        if uploaded && let Poll::Ready(kind) = self.sending.client.poll_departure(cx) {
            self.sending.client.has_left = true;
            let left = ProxyError::new(Side::Client, Phase::ResponseHeader, kind);
            return Poll::Ready(Err(SendError::now(left)));
        }
        self.poll_deadline(cx)
    }

    /// Reads until a head is complete; `None` after an interim response.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<ResponseHead>, ProxyError>> {
        let HeaderLimits { size, fields } = self.sending.options.config().response_header;
        let limits = HeadLimits { size, fields };
        loop {
            match self.parser.parse(&mut self.input, limits, self.sending.method) {
                Ok(Some(head)) if head.is_interim() => {
                    if self.relay_interim(head) {
                        // The body may pass now.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Ready(Ok(None));
                }
                Ok(Some(head)) => return Poll::Ready(Ok(Some(head))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(malformed(fault))),
            }
            let mut buffer = self.input.take().unwrap_or_default();
            if buffer.is_full() {
                buffer.reserve(buffer.capacity());
            }
            let read = buffer.poll_fill(cx, self.lease.stream());
            let begun = !buffer.is_empty();
            self.input = begun.then_some(buffer);
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ended(begun))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(read_error(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Passes an interim response to the client. True if the body was waiting for it.
    fn relay_interim(&mut self, mut head: ResponseHead) -> bool {
        head.strip_hop_by_hop();
        self.sending.client.queue_interim(&head);
        head.status == StatusCode::CONTINUE && self.sending.upload.open_gate()
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendError>> {
        let over = self.sending.upload.is_over();
        let last = self.sending.upload.moved_at().max(self.started);
        let limit = if over {
            self.sending.options.header
        } else {
            Some(self.sending.options.timeouts.body_idle)
        };
        let until = limit.map(|limit| last + limit);
        let gate = self.sending.upload.gate();
        let Some(next) = until.into_iter().chain(gate).min() else { return Poll::Pending };
        // A backend that never stops to send interim responses keeps the task from polling its timer.
        let late = std::mem::take(&mut self.interim) && Instant::now() >= next;
        if !late && self.sending.client.timer.poll_until(cx, next).is_pending() {
            return Poll::Pending;
        }
        if gate.is_some_and(|gate| gate <= next) {
            // The backend ignores `Expect`.
            self.sending.upload.open_gate();
            self.sending.client.queue_continue();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (side, phase) = match over {
            // The client does not take interim responses, so the backend is not read.
            _ if self.sending.client.output.is_some() => (Side::Client, Phase::ResponseHeader),
            true => (Side::Backend, Phase::ResponseHeader),
            false if self.sending.upload.waits_for_backend() => (Side::Backend, Phase::RequestBody),
            false => (Side::Client, Phase::RequestBody),
        };
        let error = ProxyError::new(side, phase, FailureKind::TimedOut);
        Poll::Ready(Err(SendError { began: last.into_std(), ..SendError::now(error) }))
    }
}

fn failed(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Backend, Phase::ResponseHeader, kind)
}

/// The backend has closed its connection before the response, or within its head.
fn ended(begun: bool) -> ProxyError {
    let error = failed(FailureKind::Incomplete);
    if begun {
        return error.with_source("connection closed before message completed");
    }
    error.with_source(
        "connection closed before message completed; see the backend's log; if it uses TLS on this port, set `tls = true` in the pool",
    )
}

fn malformed(fault: HeadFault) -> ProxyError {
    match fault {
        HeadFault::TooLarge | HeadFault::TooManyFields => failed(FailureKind::HeaderTooLarge),
        HeadFault::StatusLine => failed(FailureKind::Malformed).with_source(format!(
            "{fault} Check that the backend serves HTTP/1.1 on this port; if it uses TLS, set `tls = true` in the pool"
        )),
        fault => failed(FailureKind::Malformed).with_source(fault),
    }
}

/// Classifies an error of the backend's stream.
pub(super) fn read_error(error: io::Error) -> ProxyError {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => FailureKind::Incomplete,
        _ => tls::kind(&error),
    };
    match error.get_ref() {
        // The text of rustls.
        Some(tls) if tls.is::<rustls::Error>() => failed(kind).with_source(tls.to_string()),
        _ => failed(kind).with_source(error),
    }
}

//! One request to one backend: a connection, kept alive or new, and the response's header.
//!
//! [`exchange`] makes one try and never a second one that a backend could notice: a kept-alive
//! connection that proves closed before anything was sent on it is replaced quietly, every other
//! failure goes back to the caller, with the request where it was not sent. Whether to try elsewhere
//! is the caller's to decide.

use std::{
    error::Error as _,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    body::{BodyProgress, RequestBody},
    deadline, framing, headers,
    kept::{H1Connection, IdleSince, YOUNG},
};
use crate::{
    config::HeaderLimits,
    error::{FailureKind, Phase, ProxyError, Side},
    net::{
        answer_first::AnswerFirst, proxy_protocol::ConnectionOrigin, stream::BackendStream, tls,
    },
    observe::Metrics,
    shared,
    upstream::{ANY_AGE, Acquired, Backend, ConnectError, Dial, InFlight, InUse, Permit, Reusable},
};

/// Least size of hyper's buffers.
const BUFFER: usize = 64 * 1024;

/// Pause before the next try where a descriptor or port is short.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// What [`exchange`] needs beside the request.
#[derive(Debug)]
pub(super) struct ForwardOptions<'a> {
    pub(super) backend: &'a Arc<Backend>,
    /// How it is reached, and for whom.
    pub(super) dial: &'a Dial,
    pub(super) from: &'a ConnectionOrigin,
    /// Deadline of opening a connection.
    pub(super) connect: Duration,
    /// Deadline of the response's header, from the end of the request; `None`: unlimited.
    pub(super) header: Option<Duration>,
    /// Longest time that the backend may leave the request's body unread.
    pub(super) body_idle: Duration,
    /// Limits of the response's header.
    pub(super) limits: HeaderLimits,
    /// How long a connection may be kept for reuse.
    pub(super) keep: Duration,
    /// How far the request's body has come.
    pub(super) progress: &'a Arc<BodyProgress>,
    /// The request asks for a WebSocket: it gets a connection of its own.
    pub(super) upgrade: bool,
    /// The request cannot be sent twice: only a connection that cannot be closing will do.
    pub(super) once: bool,
    /// Open a connection even if one is kept.
    pub(super) fresh: bool,
    /// The session is known to be there: it is worth waiting until a connection is free.
    pub(super) bound: bool,
}

/// A backend's response, its body still to come.
#[derive(Debug)]
pub(super) struct BackendResponse {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// How long connecting took; `None` on a kept-alive connection.
    pub(super) connected: Option<Duration>,
}

/// A try that brought no response.
#[derive(Debug)]
pub(super) struct ForwardError {
    pub(super) error: ProxyError,
    /// It happened on a connection that had been kept alive, and may have been closed under us.
    pub(super) kept: bool,
    /// When it was begun to connect, or to wait for the answer.
    pub(super) began: std::time::Instant,
    /// The request, where no byte of it was sent.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
    /// It was sent, but the backend was hung or out of reach and has closed the connection as an idle one:
    /// it has not read the request.
    pub(super) unread: bool,
}

impl ForwardError {
    /// One that took no time, with the request sent.
    fn now(error: ProxyError) -> Self {
        let began = std::time::Instant::now();
        Self { error, kept: false, began, unsent: None, unread: false }
    }
}

/// A connection to a backend while a response is read from it. Dropped, it closes the connection;
/// [given back](Lease::give_back) after the last byte, it is kept alive.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Box<H1Connection>,
    verdict: OutlierSample,
    progress: Arc<BodyProgress>,
    keep: Option<Duration>,
    in_use: InUse,
    _in_flight: InFlight,
}

/// What an answer says about its backend, counted towards an ejection: a body that the backend breaks off
/// is a failure, everything else a success. Dropped, it counts as a success.
#[derive(Debug)]
struct OutlierSample {
    backend: Arc<Backend>,
    /// Whether it has been counted.
    counted: AtomicBool,
}

impl OutlierSample {
    /// Whether it is still to be counted; it is not any more.
    fn take(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }
}

impl Drop for OutlierSample {
    fn drop(&mut self) {
        if self.take() {
            // A success ejects no backend: there is nothing to report.
            self.backend.note(false);
        }
    }
}

impl ForwardOptions<'_> {
    /// Whether the request needs a connection of its own.
    fn needs_own_connection(&self) -> bool {
        self.upgrade || self.fresh || !self.dial.is_shared()
    }
}

/// Sends `request` to the backend and waits for the response's header.
pub(super) async fn send_request(
    options: &ForwardOptions<'_>,
    mut request: Request<RequestBody>,
) -> Result<BackendResponse, ForwardError> {
    let in_flight = options.backend.request();
    let until = Instant::now() + options.connect;
    let Some(in_use) = connection(options, until).await else { return Err(saturated(request)) };
    let counted = (in_flight, in_use);
    let permit = loop {
        let mut connection = match acquire(options, until).await {
            Some(Acquired::Kept(connection)) => connection,
            Some(Acquired::Fresh(permit)) => break permit,
            None => return Err(saturated(request)),
        };
        if options.needs_own_connection() || connection.dial != options.dial.serial() {
            continue;
        }
        let ready = timeout(options.connect, connection.sender.ready());
        if !matches!(ready.await, Ok(Ok(()))) {
            continue;
        }
        match send(options, &mut connection, request).await {
            Ok(response) => return answer(options, connection, response, counted, None),
            Err(ForwardError { unsent: Some(unsent), .. }) => request = *unsent,
            Err(failure) => {
                let unread = options.once && connection.is_unread(options.backend, &failure.error);
                return Err(ForwardError { kept: true, unread, ..failure });
            }
        }
    };
    let started = Instant::now();
    options.backend.make_room();
    let mut connection = match open(options, permit).await {
        Ok(connection) => connection,
        Err(error) => {
            let (began, unsent) = (started.into_std(), Some(Box::new(request)));
            return Err(ForwardError { began, unsent, ..ForwardError::now(error) });
        }
    };
    let connected = started.elapsed();
    let response = send(options, &mut connection, request).await?;
    answer(options, connection, response, counted, Some(connected))
}

/// The right to use one of the backend's connections. Only who is known to have a session there waits
/// for it.
async fn connection(options: &ForwardOptions<'_>, until: Instant) -> Option<InUse> {
    let backend = options.backend;
    match backend.connection() {
        None if options.bound => {
            let _pending = backend.pending()?;
            timeout_at(until, backend.free_connection()).await.ok()
        }
        at_once => at_once,
    }
}

/// A kept connection, or the right to open one; `None` where neither is to be had in time, or where too
/// many wait for it.
async fn acquire(options: &ForwardOptions<'_>, until: Instant) -> Option<Acquired<H1Connection>> {
    let idle = options.backend.idle();
    let age = if options.once && !options.needs_own_connection() { YOUNG } else { ANY_AGE };
    let acquired = async {
        tokio::select! {
            biased;
            // A kept connection is of no use then, but one that is dropped leaves its permit.
            permit = idle.permit(), if options.needs_own_connection() => Acquired::Fresh(permit),
            acquired = idle.acquire::<H1Connection>(age) => acquired,
        }
    };
    let mut acquired = pin!(acquired);
    // Most do not wait, and need no place among those who do.
    let at_once = poll_fn(|cx| Poll::Ready(acquired.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(acquired) => Some(acquired),
        Poll::Pending => {
            let _pending = options.backend.pending()?;
            timeout_at(until, acquired).await.ok()
        }
    }
}

fn saturated(request: Request<RequestBody>) -> ForwardError {
    let error = ProxyError::new(Side::Proxy, Phase::Connect, FailureKind::Saturated);
    ForwardError { unsent: Some(Box::new(request)), ..ForwardError::now(error) }
}

async fn send(
    options: &ForwardOptions<'_>,
    connection: &mut H1Connection,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, ForwardError> {
    let sending = connection.sender.try_send_request(request);
    let in_time = deadline::in_time(options.header, options.body_idle, options.progress, sending);
    let outcome = in_time.await.map_err(|phase| {
        let error = ProxyError::new(Side::Backend, phase, FailureKind::TimedOut);
        let now = std::time::Instant::now();
        let began = options.header.and_then(|limit| now.checked_sub(limit)).unwrap_or(now);
        ForwardError { began, ..ForwardError::now(error) }
    })?;
    outcome.map_err(|mut failed| {
        let unsent = failed.take_message().map(Box::new);
        let source = failed.into_error();
        let error = match options.progress.failure() {
            Some(kind) => ProxyError::new(Side::Client, Phase::RequestBody, kind),
            None => ProxyError::new(Side::Backend, Phase::ResponseHeader, kind(&source)),
        };
        ForwardError { unsent, ..ForwardError::now(describe(error, source)) }
    })
}

fn answer(
    options: &ForwardOptions<'_>,
    mut connection: Box<H1Connection>,
    mut response: Response<Incoming>,
    (in_flight, in_use): (InFlight, InUse),
    connected: Option<Duration>,
) -> Result<BackendResponse, ForwardError> {
    let fields = response.headers_mut();
    if let Err(fault) = framing::response(fields) {
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::Malformed);
        return Err(ForwardError::now(error.with_source(fault)));
    }
    let ambiguous = fields.contains_key(header::TRANSFER_ENCODING)
        && fields.remove(header::CONTENT_LENGTH).is_some();
    // A second before the peer closes: the request must not meet the FIN.
    connection.limit = headers::keep_alive_timeout(fields);
    let peer = connection.limit.map(|limit| limit.saturating_sub(Duration::from_secs(1)));
    let keep = peer.map_or(options.keep, |peer| peer.min(options.keep));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !options.upgrade {
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::BadUpgrade);
        return Err(ForwardError::now(error));
    }
    let lease = Lease {
        connection,
        verdict: OutlierSample {
            backend: Arc::clone(options.backend),
            counted: AtomicBool::new(false),
        },
        progress: Arc::clone(options.progress),
        keep: (!ambiguous && !options.upgrade && options.dial.is_shared() && !keep.is_zero())
            .then_some(keep),
        in_use,
        _in_flight: in_flight,
    };
    Ok(BackendResponse { response, lease, connected })
}

/// Opens a connection and leaves its driver to a task of its own.
async fn open(
    options: &ForwardOptions<'_>,
    permit: Permit,
) -> Result<Box<H1Connection>, ProxyError> {
    let epoch = options.backend.idle().epoch();
    let stream = connect(options).await?;
    let idle_since = IdleSince::new();
    let backend = (!options.upgrade).then(|| (options.backend, Arc::clone(&idle_since)));
    let (sender, driver) = handshake(stream, options.limits, backend).await.map_err(|source| {
        ProxyError::new(Side::Backend, Phase::Connect, FailureKind::Io).with_source(source)
    })?;
    let dial = options.dial.serial();
    let limit = None;
    Ok(Box::new(H1Connection { sender, dial, epoch, idle_since, limit, driver, _permit: permit }))
}

/// Connects; a shortage of descriptors or ports is waited out within the deadline.
async fn connect(options: &ForwardOptions<'_>) -> Result<BackendStream, ConnectError> {
    let until = Instant::now() + options.connect;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match options.dial.open(options.backend, options.from, left).await {
            Err(ConnectError::Exhausted) if left > SHORTAGE_PAUSE => sleep(SHORTAGE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Leaves a connection to its driver. `backend` learns when it closes the connection while that is idle;
/// `None`: the connection is to be upgraded.
async fn handshake(
    stream: BackendStream,
    limits: HeaderLimits,
    backend: Option<(&Arc<Backend>, Arc<IdleSince>)>,
) -> Result<(SendRequest<RequestBody>, Option<AbortHandle>), hyper::Error> {
    let HeaderLimits { size, fields } = limits;
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(size.max(BUFFER))
        .max_header_size(size)
        .max_headers(fields)
        .handshake(TokioIo::new(AnswerFirst::new(stream)))
        .await?;
    // What the driver sees, the sender is told as well; here it is only worth a look.
    let log_end = |outcome: Result<(), hyper::Error>| {
        if let Err(error) = outcome {
            tracing::debug!(%error, "backend connection ended");
        }
    };
    let Some((backend, idle_since)) = backend else {
        tokio::spawn(async move { log_end(connection.with_upgrades().await) });
        return Ok((sender, None));
    };
    // The backend keeps the connection, and must not be kept by it.
    let backend = Arc::downgrade(backend);
    let driver = tokio::spawn(async move {
        log_end(connection.await);
        // The backend's doing: a connection that is dropped here takes its driver with it.
        if let (Some(age), Some(backend)) = (idle_since.age(), backend.upgrade()) {
            backend.idle().closed_after(age);
        }
    });
    Ok((sender, Some(driver.abort_handle())))
}

impl Lease {
    /// The backend that answers.
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.verdict.backend
    }

    /// The answer counts as a failure of the backend, and has been counted as such.
    pub(super) fn failed(&self) {
        self.verdict.take();
    }

    /// The backend has broken the body off.
    pub(super) fn broke_off(&mut self, metrics: &Metrics) {
        if self.verdict.take() {
            shared::note(metrics, &self.verdict.backend, true);
        }
    }

    /// Whether the request's body has closed a polling session.
    pub(super) fn closes_session(&self) -> bool {
        self.progress.closes_session()
    }

    /// The connection has left HTTP, and goes on being in use.
    pub(super) fn into_connection(self) -> InUse {
        self.in_use
    }

    /// Bytes of the request's body that the client has sent.
    pub(super) fn request_bytes(&self) -> u64 {
        self.progress.bytes()
    }

    /// Whether the request's body has been read to its end.
    pub(super) fn has_whole_request(&self) -> bool {
        self.progress.is_done()
    }

    /// The response has been read to its end: keeps the connection for the next request, unless the
    /// request's body is still on its way or the framing was in doubt.
    pub(super) fn give_back(self) {
        if let Some(keep) = self.keep
            && self.progress.is_done()
            && self.connection.is_open()
        {
            let epoch = self.connection.epoch;
            self.verdict.backend.idle().put_back(self.connection, keep, epoch);
        }
    }
}

/// What a hyper error means in our vocabulary.
pub(super) fn kind(error: &hyper::Error) -> FailureKind {
    if error.is_parse_too_large() {
        return FailureKind::HeaderTooLarge;
    }
    if error.is_parse() || error.is_parse_status() {
        return FailureKind::Malformed;
    }
    if error.is_timeout() {
        return FailureKind::TimedOut;
    }
    if let Some(io) = io_source(error) {
        return tls::kind(io);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return FailureKind::Incomplete;
    }
    FailureKind::Io
}

/// The failure with what is beneath it: a fault of TLS in the words of TLS, which hyper's hide.
fn describe(failure: ProxyError, error: hyper::Error) -> ProxyError {
    match io_source(&error).and_then(io::Error::get_ref) {
        Some(tls) if tls.is::<rustls::Error>() => failure.with_source(tls.to_string()),
        _ => match advice(&error) {
            Some(advice) => failure.with_source(format!("{error}; {advice}")),
            None => failure.with_source(error),
        },
    }
}

/// What to check when a backend sends no valid response.
fn advice(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse() && !error.is_parse_too_large() {
        return Some(
            "check that the backend serves HTTP/1.1 on this port; if it uses TLS, set `tls = true` in the pool",
        );
    }
    let ended = error.is_incomplete_message() && io_source(error).is_none();
    ended.then_some(
        "see the backend's log; if it uses TLS on this port, set `tls = true` in the pool",
    )
}

/// The socket's own error.
fn io_source(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}

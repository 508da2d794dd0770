//! One request to one backend, up to the header of the response.
//!
//! [`send_request`] tries once, and repeats only what a backend cannot notice: a kept-alive
//! connection that turns out to be closed before anything was sent is replaced without an error. Every other
//! failure is returned to the caller, with the request if no byte of it was sent. The caller decides
//! whether to try another backend.

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
    upstream::{
        ANY_AGE, Acquired, Backend, BackendConnector, ConnectError, ConnectionGuard, Permit,
        RequestGuard,
    },
};

/// Minimum size of hyper's buffers.
const BUFFER: usize = 64 * 1024;

/// Pause before the next try if descriptors or ports are exhausted.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Options of [`send_request`].
#[derive(Debug)]
pub(super) struct ForwardOptions<'a> {
    pub(super) backend: &'a Arc<Backend>,
    /// How to connect, and for which client.
    pub(super) connector: &'a BackendConnector,
    pub(super) from: &'a ConnectionOrigin,
    /// Deadline for opening a connection.
    pub(super) connect: Duration,
    /// Deadline for the header of the response, from the end of the request; `None`: no limit.
    pub(super) header: Option<Duration>,
    /// Maximum time that the backend may leave the request body unread.
    pub(super) body_idle: Duration,
    /// Limits of the response header.
    pub(super) limits: HeaderLimits,
    /// How long a connection may be kept for reuse.
    pub(super) keep: Duration,
    /// How far the request body has come.
    pub(super) progress: &'a Arc<BodyProgress>,
    /// The request is a WebSocket handshake: it needs a new connection.
    pub(super) upgrade: bool,
    /// The request cannot be repeated: use only a connection that cannot be closing.
    pub(super) once: bool,
    /// Open a connection even if one is kept.
    pub(super) fresh: bool,
    /// The backend owns the session: wait until a connection is free.
    pub(super) bound: bool,
}

/// Response of a backend; the body is still to be read.
#[derive(Debug)]
pub(super) struct BackendResponse {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// Time that connecting took; `None` on a kept-alive connection.
    pub(super) connected: Option<Duration>,
}

/// A try that failed without a response.
#[derive(Debug)]
pub(super) struct ForwardError {
    pub(super) error: ProxyError,
    /// The connection was a kept-alive one that the backend may have closed meanwhile.
    pub(super) kept: bool,
    /// When connecting, or waiting for the response, began.
    pub(super) began: std::time::Instant,
    /// The request, if no byte of it was sent.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
    /// The request was sent, but the backend was hung or unreachable and closed the connection as
    /// idle: the backend did not read the request.
    pub(super) unread: bool,
}

impl ForwardError {
    /// A failure at this moment, with the request sent.
    fn now(error: ProxyError) -> Self {
        let began = std::time::Instant::now();
        Self { error, kept: false, began, unsent: None, unread: false }
    }
}

/// A connection to a backend while a response is read from it. Dropping it closes the connection;
/// [returning it](Lease::give_back) after the last byte keeps the connection alive.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Box<H1Connection>,
    sample: OutlierSample,
    progress: Arc<BodyProgress>,
    keep: Option<Duration>,
    in_use: ConnectionGuard,
    _in_flight: RequestGuard,
}

/// Counts a response towards the backend's ejection: a body that the backend aborts is a failure,
/// everything else a success. Dropping it counts a success.
#[derive(Debug)]
struct OutlierSample {
    backend: Arc<Backend>,
    /// Whether the response has been counted.
    counted: AtomicBool,
}

impl OutlierSample {
    /// Marks the response as counted; true if it was not counted before.
    fn take(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }
}

impl Drop for OutlierSample {
    fn drop(&mut self) {
        if self.take() {
            // A success never ejects a backend: no event to report.
            self.backend.record_outcome(false);
        }
    }
}

impl ForwardOptions<'_> {
    /// Whether the request needs a new connection.
    fn needs_own_connection(&self) -> bool {
        self.upgrade || self.fresh || !self.connector.is_shared()
    }
}

/// Sends `request` to the backend and waits for the header of the response.
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
            Some(Acquired::Idle(connection)) => connection,
            Some(Acquired::Permit(permit)) => break permit,
            None => return Err(saturated(request)),
        };
        if options.needs_own_connection() || connection.connector != options.connector.serial() {
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

/// Acquires the right to use one of the backend's connections. Only requests of sessions that the
/// backend owns wait for it.
async fn connection(options: &ForwardOptions<'_>, until: Instant) -> Option<ConnectionGuard> {
    let backend = options.backend;
    match backend.connection() {
        None if options.bound => {
            let _pending = backend.pending()?;
            timeout_at(until, backend.wait_for_connection()).await.ok()
        }
        at_once => at_once,
    }
}

/// Acquires a kept connection or the right to open one. `None` if neither is available in time, or
/// if too many requests wait.
async fn acquire(options: &ForwardOptions<'_>, until: Instant) -> Option<Acquired<H1Connection>> {
    let idle = options.backend.idle();
    let age = if options.once && !options.needs_own_connection() { YOUNG } else { ANY_AGE };
    let acquired = async {
        tokio::select! {
            biased;
            // A kept connection cannot be used, but dropping one frees its permit.
            permit = idle.permit(), if options.needs_own_connection() => Acquired::Permit(permit),
            acquired = idle.acquire::<H1Connection>(age) => acquired,
        }
    };
    let mut acquired = pin!(acquired);
    // Most requests do not wait and need no place in the queue.
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
    (in_flight, in_use): (RequestGuard, ConnectionGuard),
    connected: Option<Duration>,
) -> Result<BackendResponse, ForwardError> {
    let fields = response.headers_mut();
    if let Err(fault) = framing::response(fields) {
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::Malformed);
        return Err(ForwardError::now(error.with_source(fault)));
    }
    let ambiguous = fields.contains_key(header::TRANSFER_ENCODING)
        && fields.remove(header::CONTENT_LENGTH).is_some();
    // One second before the backend closes: the request must not cross the FIN.
    connection.limit = headers::keep_alive_timeout(fields);
    let peer = connection.limit.map(|limit| limit.saturating_sub(Duration::from_secs(1)));
    let keep = peer.map_or(options.keep, |peer| peer.min(options.keep));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !options.upgrade {
        let error = ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::BadUpgrade);
        return Err(ForwardError::now(error));
    }
    let lease = Lease {
        connection,
        sample: OutlierSample {
            backend: Arc::clone(options.backend),
            counted: AtomicBool::new(false),
        },
        progress: Arc::clone(options.progress),
        keep: (!ambiguous && !options.upgrade && options.connector.is_shared() && !keep.is_zero())
            .then_some(keep),
        in_use,
        _in_flight: in_flight,
    };
    Ok(BackendResponse { response, lease, connected })
}

/// Opens a connection and spawns its driver.
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
    let connector = options.connector.serial();
    let limit = None;
    Ok(Box::new(H1Connection {
        sender,
        connector,
        epoch,
        idle_since,
        limit,
        driver,
        _permit: permit,
    }))
}

/// Connects; waits within the deadline if descriptors or ports are exhausted.
async fn connect(options: &ForwardOptions<'_>) -> Result<BackendStream, ConnectError> {
    let until = Instant::now() + options.connect;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match options.connector.open(options.backend, options.from, left).await {
            Err(ConnectError::Exhausted) if left > SHORTAGE_PAUSE => sleep(SHORTAGE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Spawns the driver of a connection. `backend` is informed when it closes the connection while
/// idle; `None` if the connection will be upgraded.
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
    // The sender reports the same errors; the driver only logs them.
    let log_end = |outcome: Result<(), hyper::Error>| {
        if let Err(error) = outcome {
            tracing::debug!(%error, "backend connection ended");
        }
    };
    let Some((backend, idle_since)) = backend else {
        tokio::spawn(async move { log_end(connection.with_upgrades().await) });
        return Ok((sender, None));
    };
    // The backend owns the connection: a strong reference back would be a cycle.
    let backend = Arc::downgrade(backend);
    let driver = tokio::spawn(async move {
        log_end(connection.await);
        // Closed by the backend: if the proxy drops a connection, the driver is aborted.
        if let (Some(age), Some(backend)) = (idle_since.age(), backend.upgrade()) {
            backend.idle().closed_after(age);
        }
    });
    Ok((sender, Some(driver.abort_handle())))
}

impl Lease {
    /// Backend that sends the response.
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.sample.backend
    }

    /// Marks the response as a failure that has already been counted.
    pub(super) fn failed(&self) {
        self.sample.take();
    }

    /// Counts a body that the backend aborted.
    pub(super) fn aborted(&mut self, metrics: &Metrics) {
        if self.sample.take() {
            shared::note(metrics, &self.sample.backend, true);
        }
    }

    /// Whether the request body has closed a polling session.
    pub(super) fn closes_session(&self) -> bool {
        self.progress.closes_session()
    }

    /// Keeps counting the connection as in use after an upgrade.
    pub(super) fn into_connection(self) -> ConnectionGuard {
        self.in_use
    }

    /// Number of request body bytes that the client has sent.
    pub(super) fn request_bytes(&self) -> u64 {
        self.progress.bytes()
    }

    /// Whether the whole request body has been read.
    pub(super) fn has_whole_request(&self) -> bool {
        self.progress.is_done()
    }

    /// Keeps the connection for the next request after the response was read, unless the request
    /// body is still being sent or the framing was ambiguous.
    pub(super) fn give_back(self) {
        if let Some(keep) = self.keep
            && self.progress.is_done()
            && !self.connection.sender.is_closed()
        {
            let epoch = self.connection.epoch;
            self.sample.backend.idle().put_back(self.connection, keep, epoch);
        }
    }
}

/// Classifies a hyper error.
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

/// Attaches the cause to a failure: the error text of rustls if TLS failed, which hyper's text
/// hides.
fn describe(failure: ProxyError, error: hyper::Error) -> ProxyError {
    match io_source(&error).and_then(io::Error::get_ref) {
        Some(tls) if tls.is::<rustls::Error>() => failure.with_source(tls.to_string()),
        _ => match advice(&error) {
            Some(advice) => failure.with_source(format!("{error}; {advice}")),
            None => failure.with_source(error),
        },
    }
}

/// Advice for a backend that sends no valid response.
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

/// Returns the error of the socket.
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

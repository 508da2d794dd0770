//! Request bodies on their way to a backend: streamed, counted, and never waited for without a
//! deadline.
//!
//! Nothing is buffered: the next frame is read from the client when the backend has taken the last
//! one. The code that waits for the response sees how far the body has come through
//! [`BodyProgress`].

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::headers::strip_trailers;
use crate::{
    error::{FailureKind, Phase, Side, Termination},
    net::half_close::ClientSignal,
    sticky::engine_io::CloseScan,
};

/// Why a relayed body was aborted; hyper then closes the connection that the body was written to.
#[derive(Debug)]
pub(super) struct BodyError(pub(super) Termination);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "body aborted: {:?}", self.0)
    }
}

impl std::error::Error for BodyError {}

/// Body of a request on its way to the backend.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// In memory: empty, or buffered so that it can be sent again.
    Buffered(Full<Bytes>),
    /// Streamed from the client.
    Streamed(Box<InboundBody>),
}

/// Body of a client's request, streamed.
#[derive(Debug)]
pub(super) struct InboundBody {
    incoming: Incoming,
    progress: Arc<BodyProgress>,
    pause: BodyTimer,
    gate: Option<ContinueGate>,
    /// Receives a copy of the data.
    copy: Option<Arc<BodyCopy>>,
    /// Frames that were read ahead of the backend.
    ahead: VecDeque<Frame<Bytes>>,
    /// Scans the body for a packet that closes a polling session.
    scan: Option<CloseScan>,
    /// Signals that the client has closed its sending side.
    client_signal: Arc<ClientSignal>,
}

/// How far a request body has come; shared with the code that waits for the response.
#[derive(Debug)]
pub(super) struct BodyProgress {
    bytes: AtomicU64,
    state: AtomicU8,
    closes: AtomicBool,
    /// The proxy waits for the client to send more of the body.
    waits_for_client: AtomicBool,
    began: Instant,
    /// Time of the last progress, in microseconds since `began`.
    last_moved: AtomicU64,
    /// Wakes the task that waits for the end of the body.
    waker: AtomicWaker,
}

/// States of [`BodyProgress`]; 0 means in progress.
const DONE: u8 = 1;
const BROKEN: u8 = 2;
const STALLED: u8 = 3;

/// Copy of a small body; its frames share memory with the frames that are sent.
#[derive(Debug, Default)]
pub(super) struct BodyCopy(Mutex<Frames>);

#[derive(Debug, Default)]
struct Frames {
    data: Vec<Bytes>,
    length: usize,
}

impl BodyCopy {
    fn add(&self, data: &Bytes) {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.length += data.len();
        if frames.length <= MAX_AHEAD {
            frames.data.push(data.clone());
        } else {
            frames.data.clear();
        }
    }

    /// Returns the whole body; `None` if the body was too large.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (frames.length <= MAX_AHEAD).then(|| frames.data.concat().into())
    }
}

/// Holds a body back until the backend sends `100 Continue` or a response, or a timeout passes.
#[derive(Debug)]
struct ContinueGate {
    signal: Arc<ContinueSignal>,
    /// Starts when the backend could take the body.
    timeout: Option<Pin<Box<Sleep>>>,
}

/// Signals the `100 Continue` of the backend.
#[derive(Debug, Default)]
pub(super) struct ContinueSignal {
    is_open: AtomicBool,
    waker: AtomicWaker,
}

/// Maximum number of body bytes that are copied, or read ahead while the backend is unreachable.
const MAX_AHEAD: usize = 64 * 1024;

/// A backend that ignores `Expect` gets the body after this time (RFC 9110 §10.1.1: do not wait
/// indefinitely).
const EXPECT_TIMEOUT: Duration = Duration::from_secs(1);

impl RequestBody {
    /// Creates an empty body.
    pub(super) fn empty() -> Self {
        Self::buffered(Bytes::new())
    }

    /// Creates a body that is in memory.
    pub(super) fn buffered(bytes: Bytes) -> Self {
        Self::Buffered(Full::new(bytes))
    }

    /// Creates a body that is streamed from the client.
    pub(super) fn streamed(inbound: InboundBody) -> Self {
        Self::Streamed(Box::new(inbound))
    }

    /// Resolves when the client aborts the body, otherwise never. Up to 64 KiB of the body are read
    /// meanwhile and sent later.
    pub(super) async fn left(&mut self) {
        match self {
            Self::Buffered(_) => std::future::pending().await,
            Self::Streamed(inbound) => poll_fn(|cx| inbound.poll_left(cx)).await,
        }
    }
}

impl Default for BodyProgress {
    /// Progress of a body of which nothing has arrived.
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            state: AtomicU8::new(0),
            closes: AtomicBool::new(false),
            waits_for_client: AtomicBool::new(false),
            began: Instant::now(),
            last_moved: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }
    }
}

impl BodyProgress {
    /// Progress of an empty body.
    pub(super) fn done() -> Arc<Self> {
        Self::buffered(0)
    }

    /// Progress of a body that is in memory.
    pub(super) fn buffered(bytes: u64) -> Arc<Self> {
        let progress = Self::default();
        progress.bytes.store(bytes, Ordering::Relaxed);
        progress.state.store(DONE, Ordering::Release);
        Arc::new(progress)
    }

    /// Progress of this body after it was read into memory.
    pub(super) fn buffered_whole(&self, bytes: u64) -> Arc<Self> {
        let whole = Self::buffered(bytes);
        whole.closes.store(self.closes_session(), Ordering::Relaxed);
        whole
    }

    /// Whether the body has closed a polling session; known once the whole body has been read.
    pub(super) fn closes_session(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    /// Time of the last progress: the time of the last byte once the body is complete.
    pub(super) fn last_progress(&self) -> Instant {
        self.began + Duration::from_micros(self.last_moved.load(Ordering::Relaxed))
    }

    /// Records progress at the current time.
    pub(super) fn note_progress(&self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_moved.store(micros, Ordering::Relaxed);
    }

    /// Whether the proxy waits for the client to send more of the body.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Ordering::Relaxed)
    }

    /// Waits until the whole body has been read. Supports one waiter at a time.
    pub(super) async fn done_reading(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.is_done() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Number of bytes read from the client.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body has been read.
    pub(super) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// How the client failed, if it did.
    pub(super) fn failure(&self) -> Option<FailureKind> {
        match self.state.load(Ordering::Acquire) {
            BROKEN => Some(FailureKind::Incomplete),
            STALLED => Some(FailureKind::TimedOut),
            _ => None,
        }
    }

    fn set(&self, state: u8) {
        self.note_progress();
        self.state.store(state, Ordering::Release);
        self.waker.wake();
    }
}

impl ContinueSignal {
    /// Lets the body pass.
    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl ContinueGate {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.signal.waker.register(cx.waker());
        if self.signal.is_open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let wait = || Box::pin(tokio::time::sleep(EXPECT_TIMEOUT));
        self.timeout.get_or_insert_with(wait).as_mut().poll(cx)
    }
}

impl InboundBody {
    /// Creates a body that reports to `progress` and allows at most `pause` between two frames.
    pub(super) fn new(
        incoming: Incoming,
        progress: Arc<BodyProgress>,
        pause: Duration,
        client_signal: Arc<ClientSignal>,
    ) -> Self {
        let (pause, ahead) = (BodyTimer::new(Some(pause)), VecDeque::new());
        Self { incoming, progress, pause, gate: None, copy: None, ahead, scan: None, client_signal }
    }

    /// Scans the body for a packet that closes the session, if a scan is given.
    pub(super) fn scanned(mut self, scan: Option<CloseScan>) -> Self {
        self.scan = scan;
        self
    }

    /// Records the end of the body.
    fn done(&self) {
        if self.scan.is_some_and(|scan| scan.closes()) {
            self.progress.closes.store(true, Ordering::Relaxed);
        }
        self.progress.set(DONE);
    }

    /// Copies the data of the body to `copy`.
    pub(super) fn copied(mut self, copy: Option<Arc<BodyCopy>>) -> Self {
        self.copy = copy;
        self
    }

    /// Holds the body back until `signal` is opened.
    pub(super) fn gated(mut self, signal: Arc<ContinueSignal>) -> Self {
        self.gate = Some(ContinueGate { signal, timeout: None });
        self
    }

    /// Polls for the next frame; an error if the client aborts or stalls.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        if let Some(frame) = self.ahead.pop_front() {
            self.progress.waits_for_client.store(false, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(frame)));
        }
        self.poll_client(cx)
    }

    /// Size of the rest of the body.
    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let ahead = self.ahead.iter().filter_map(Frame::data_ref).map(Bytes::len);
        let ahead: usize = ahead.sum();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead as u64);
        }
        hint
    }

    /// Reads ahead while no backend takes the body, because an EOF behind an unread body would go
    /// unnoticed. Ready if the client has aborted.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.is_some() {
            return Poll::Pending;
        }
        let held = |ahead: &VecDeque<Frame<Bytes>>| -> usize {
            ahead.iter().filter_map(Frame::data_ref).map(Bytes::len).sum()
        };
        while !self.progress.is_done() && held(&self.ahead) < MAX_AHEAD {
            match ready!(self.poll_client(cx)) {
                Some(Ok(frame)) => self.ahead.push_back(frame),
                Some(Err(_)) => return Poll::Ready(()),
                None => break,
            }
        }
        Poll::Pending
    }

    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let broken = |kind| BodyError(Termination::Failed(Side::Client, Phase::RequestBody, kind));
        // Read before polling: `incoming` then holds everything that arrived before the end.
        let ended = self.client_signal.ended();
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.pause.over();
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                if let (Some(copy), Some(data)) = (&self.copy, frame.data_ref()) {
                    copy.add(data);
                }
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.progress.waits_for_client.store(false, Ordering::Relaxed);
                self.progress.note_progress();
                self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
                if let (Some(scan), Some(data)) = (&mut self.scan, frame.data_ref()) {
                    scan.feed(data);
                }
                // hyper does not poll again after trailers, or once it knows that this was the last
                // frame.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.done();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                self.progress.set(BROKEN);
                Poll::Ready(Some(Err(broken(FailureKind::Incomplete))))
            }
            Poll::Ready(None) => {
                self.done();
                Poll::Ready(None)
            }
            Poll::Pending if ended => {
                self.progress.set(BROKEN);
                Poll::Ready(Some(Err(broken(FailureKind::Incomplete))))
            }
            Poll::Pending => {
                self.progress.waits_for_client.store(true, Ordering::Relaxed);
                self.client_signal.wake_at_end(cx);
                ready!(self.pause.poll_exceeded(cx));
                self.progress.set(STALLED);
                Poll::Ready(Some(Err(broken(FailureKind::TimedOut))))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Buffered(full) => Pin::new(full).poll_frame(cx).map_err(never),
            Self::Streamed(inbound) => inbound.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Buffered(full) => full.is_end_stream(),
            Self::Streamed(inbound) => inbound.ahead.is_empty() && inbound.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Buffered(full) => full.size_hint(),
            Self::Streamed(inbound) => inbound.size_hint(),
        }
    }
}

/// Timeout between two frames of a body. Costs nothing while frames are available.
#[derive(Debug)]
pub(super) struct BodyTimer {
    /// `None`: no limit.
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl BodyTimer {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, timer: None, running: false }
    }

    pub(super) fn over(&mut self) {
        self.running = false;
    }

    /// Ready once no frame has arrived within the limit.
    pub(super) fn poll_exceeded(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let deadline = || Instant::now() + limit;
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.running {
                    timer.as_mut().reset(deadline());
                }
                timer
            }
            None => {
                let timer = Box::pin(tokio::time::sleep_until(deadline()));
                self.timer.insert(timer)
            }
        };
        self.running = true;
        timer.as_mut().poll(cx)
    }
}

pub(super) fn never(error: Infallible) -> BodyError {
    match error {}
}

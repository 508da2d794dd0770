//! Kept-alive connections to backends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    upstream::{Backend, Permit, Reusable},
};

/// Maximum idle time of a connection for a request that cannot be repeated: half of the shortest
/// idle timeout of common servers, which is gunicorn's 2 s.
pub(super) const YOUNG: Duration = Duration::from_secs(1);

/// Responses that a backend sent before it hung may still arrive for this time.
const LATE: Duration = Duration::from_millis(200);

/// A kept-alive HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct H1Connection {
    pub(super) sender: SendRequest<RequestBody>,
    /// [`BackendConnector::serial`](crate::upstream::BackendConnector::serial) of the settings that opened the connection.
    pub(super) connector: u64,
    /// Epoch of the backend's idle connections when the connection was opened.
    pub(super) epoch: u64,
    pub(super) idle_since: Arc<IdleSince>,
    /// Idle timeout of the backend, from the last response.
    pub(super) limit: Option<Duration>,
    /// Task that drives the connection; the driver of an upgraded connection outlives it.
    pub(super) driver: Option<AbortHandle>,
    pub(super) _permit: Permit,
}

impl Drop for H1Connection {
    /// Stops the driver: hyper would continue to send a body after its response, uncounted and
    /// without a way to stop it.
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

impl H1Connection {
    /// Whether the backend closed the connection without reading the request that failed on it.
    ///
    /// A backend that hangs, or has lost its network, counts the connection as idle meanwhile. It
    /// closes the connection as soon as it recovers, before it reads anything. This is the case if
    /// the connection has outlived the backend's idle timeout since its last response, and the
    /// backend was silent on all connections from the request until now. A server that has read the
    /// request has stopped its idle timer and answers. An unknown timeout proves nothing. A quiet
    /// backend looks like a hung one unless health checks run more often than its idle timeout.
    pub(super) fn is_unread(&self, backend: &Backend, error: &ProxyError) -> bool {
        if (error.side, error.phase) != (Side::Backend, Phase::ResponseHeader)
            || !matches!(error.kind, FailureKind::Reset | FailureKind::Incomplete | FailureKind::Io)
        {
            return false;
        }
        let Some(limit) = self.limit.or_else(|| backend.idle().observed_limit()) else {
            return false;
        };
        let (answered, now) = (self.idle_since.last(), Instant::now());
        // The request was sent within `YOUNG` of the last response.
        now.saturating_duration_since(answered) >= limit
            && backend.was_unresponsive(answered + YOUNG + LATE, now)
    }
}

impl Reusable for H1Connection {
    /// The driver records a close.
    fn is_open(&mut self, _close: &mut Context<'_>) -> bool {
        !self.sender.is_closed()
    }

    fn set_idle(&mut self, since: Option<Instant>) {
        self.idle_since.set(since);
    }
}

/// Idle time of a connection; shared with its driver, which sees the close.
#[derive(Debug)]
pub(super) struct IdleSince {
    opened: Instant,
    /// Nanoseconds from `opened` to the start of the idle time, plus 1; 0: in use.
    nanos: AtomicU64,
    /// When the connection last became idle, in nanoseconds since `opened`.
    last: AtomicU64,
}

impl IdleSince {
    pub(super) fn new() -> Arc<Self> {
        let (nanos, last) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { opened: Instant::now(), nanos, last })
    }

    fn set(&self, since: Option<Instant>) {
        if let Some(since) = since {
            self.last.store(self.nanos(since), Ordering::Relaxed);
        }
        let nanos = since.map_or(0, |since| self.nanos(since) + 1);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// When the connection last became idle.
    fn last(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// How long the connection has been idle; `None` while in use.
    pub(super) fn age(&self) -> Option<Duration> {
        let since = self.nanos.load(Ordering::Relaxed).checked_sub(1)?;
        let now = self.nanos(Instant::now());
        Some(Duration::from_nanos(now.saturating_sub(since)))
    }

    fn nanos(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.opened).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1)
    }
}

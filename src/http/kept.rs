//! A connection to a backend that is kept for more than one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    upstream::{Backend, Permit, Reusable},
};

/// How long a connection may have been idle that gets what cannot be sent twice: half of the shortest
/// limit that common servers have, gunicorn's 2 s.
pub(super) const YOUNG: Duration = Duration::from_secs(1);

/// How long answers may still come that a node gave before it hung.
const LATE: Duration = Duration::from_millis(200);

/// A kept-alive HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct H1Connection {
    pub(super) sender: SendRequest<RequestBody>,
    /// [`Dial::serial`] of what it was opened by.
    pub(super) dial: u64,
    /// [`Idle::epoch`] when it was opened.
    pub(super) epoch: u64,
    pub(super) idle_since: Arc<IdleSince>,
    /// After how long the backend closes it when idle, as the last response said.
    pub(super) limit: Option<Duration>,
    /// What moves its bytes; an upgraded connection's outlives it.
    pub(super) driver: Option<AbortHandle>,
    pub(super) _permit: Permit,
}

impl Drop for H1Connection {
    /// hyper would go on sending a body after its response, with nobody to count or to stop it.
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

impl H1Connection {
    /// Whether the backend has closed the connection without having read the request that failed on it.
    ///
    /// A node that hangs, or whose network is away, counts the connection as idle meanwhile, and closes it
    /// as soon as it goes on, before it reads anything. That is what has happened if the connection has
    /// outlived the backend's idle limit since its last response, and if the backend was silent on all
    /// connections from the request until now. A server that has read the request has stopped to count,
    /// and answers. A limit that is not known proves nothing. A quiet backend looks like a hung one unless
    /// health checks ask it more often than the limit.
    pub(super) fn is_unread(&self, backend: &Backend, error: &ProxyError) -> bool {
        if (error.side, error.phase) != (Side::Backend, Phase::ResponseHeader)
            || !matches!(error.kind, FailureKind::Reset | FailureKind::Incomplete | FailureKind::Io)
        {
            return false;
        }
        let Some(limit) = self.limit.or_else(|| backend.idle().shown_limit()) else { return false };
        let (answered, now) = (self.idle_since.last(), Instant::now());
        // The request came within `YOUNG` of the last response.
        now.saturating_duration_since(answered) >= limit
            && backend.was_silent(answered + YOUNG + LATE, now)
    }
}

impl Reusable for H1Connection {
    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    fn set_idle(&self, since: Option<Instant>) {
        self.idle_since.set(since);
    }
}

/// Since when a connection is idle; shared with its driver, which sees it closed.
#[derive(Debug)]
pub(super) struct IdleSince {
    opened: Instant,
    /// Nanoseconds since then, and 1; 0: in use.
    nanos: AtomicU64,
    /// When it last became idle, in nanoseconds since it was opened.
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

    /// When it last became idle.
    fn last(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// How long it has been idle; `None`: it is in use.
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

//! Connections to a backend for requests: kept ones and new ones, and how they are given back.

use std::{future::poll_fn, mem, pin::pin, sync::Arc, task::Poll, time::Duration};

use moorline_http::ResponseHead;
use tokio::time::{Instant, timeout_at};

use crate::{
    config::{PoolConfig, Timeouts},
    error::ProxyError,
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    observe::Metrics,
    shared,
    snapshot::PoolSnapshot,
    upstream::{
        ANY_AGE, Acquired, Backend, BackendConnector, ConnectionGuard, KeptConnection, Permit,
        RequestGuard, reach,
    },
};

/// Maximum idle time of a connection for a request that cannot be repeated: half of the shortest
/// idle timeout of common servers, which is gunicorn's 2 s.
pub(super) const YOUNG: Duration = Duration::from_secs(1);

/// How a request is sent to a backend.
#[derive(Debug)]
pub(super) struct SendOptions<'a> {
    pub(super) backend: &'a Arc<Backend>,
    /// How to connect, with the limits of the pool.
    pub(super) pool: &'a PoolSnapshot,
    /// For which client.
    pub(super) from: &'a ConnectionOrigin,
    /// Time limits of the route, or those of the pool.
    pub(super) timeouts: &'a Timeouts,
    /// When the try began.
    pub(super) began: Instant,
    /// Deadline for the header of the response, from the end of the request; `None`: no limit.
    pub(super) header: Option<Duration>,
    /// The request is a WebSocket handshake: it needs a new connection.
    pub(super) upgrade: bool,
    /// The request cannot be repeated: use only a connection that cannot be closing.
    pub(super) once: bool,
    /// Open a connection even if one is kept.
    pub(super) fresh: bool,
    /// The backend owns the session: wait until a connection is free.
    pub(super) bound: bool,
}

impl<'a> SendOptions<'a> {
    /// Configuration of the pool.
    pub(super) fn config(&self) -> &'a PoolConfig {
        self.pool.config()
    }

    fn connector(&self) -> &'a BackendConnector {
        self.pool.connector()
    }

    /// Whether the request needs a new connection.
    fn needs_own_connection(&self) -> bool {
        self.upgrade || self.fresh || !self.connector().is_shared()
    }

    /// Deadline for a connection that a request waits for from now on.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.config().timeouts.connect
    }

    /// Maximum idle time of a kept connection for this request.
    fn oldest(&self) -> Duration {
        if self.once && !self.needs_own_connection() { YOUNG } else { ANY_AGE }
    }
}

/// A connection to a backend while a request uses it. Dropping it closes the connection;
/// [giving it back](Lease::give_back) after the last byte keeps the connection open.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Box<KeptConnection>,
    /// Taken when the outcome is counted.
    sample: OutlierSample,
    /// How long the connection may be kept; `None`: not at all.
    pub(super) keep: Option<Duration>,
    in_use: ConnectionGuard,
    in_flight: RequestGuard,
}

/// Counts a response towards the backend's ejection: a body that the backend aborts is a failure,
/// everything else a success. Dropping it counts a success.
#[derive(Debug)]
struct OutlierSample {
    backend: Arc<Backend>,
    /// Whether the response has been counted, or there is none yet.
    counted: bool,
}

impl OutlierSample {
    /// Marks the response as counted; true if it was not counted before.
    fn take(&mut self) -> bool {
        !mem::replace(&mut self.counted, true)
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

/// The right to use one of the backend's connections, counted.
pub(super) struct RequestSlot {
    in_flight: RequestGuard,
    in_use: ConnectionGuard,
}

impl RequestSlot {
    /// Takes the right to use a connection; `None` if all are in use.
    pub(super) fn try_acquire(backend: &Arc<Backend>) -> Option<Self> {
        let in_flight = backend.request();
        Some(Self { in_flight, in_use: backend.connection()? })
    }

    /// Waits for the right to use a connection. Only requests of sessions that the backend owns wait for it.
    pub(super) async fn acquire(options: &SendOptions<'_>, until: Instant) -> Option<Self> {
        if !options.bound {
            return None;
        }
        let backend = options.backend;
        let in_flight = backend.request();
        let _pending = backend.pending()?;
        let in_use = timeout_at(until, backend.wait_for_connection()).await.ok()?;
        Some(Self { in_flight, in_use })
    }

    /// Uses the connection for a request whose outcome is not counted yet.
    pub(super) fn lease(self, backend: &Arc<Backend>, connection: Box<KeptConnection>) -> Lease {
        let sample = OutlierSample { backend: Arc::clone(backend), counted: true };
        Lease { connection, sample, keep: None, in_use: self.in_use, in_flight: self.in_flight }
    }
}

/// Takes a kept connection; `None` if there is none, or the request needs its own.
pub(super) fn take_kept(options: &SendOptions<'_>) -> Option<Box<KeptConnection>> {
    if options.needs_own_connection() {
        return None;
    }
    let idle = options.backend.idle();
    loop {
        let connection = idle.take::<KeptConnection>(options.oldest())?;
        if connection.connector == options.connector().serial() {
            return Some(connection);
        }
    }
}

/// Takes a kept connection or the right to open one. `None` if neither is available in time, or
/// if too many requests wait.
pub(super) async fn acquire(
    options: &SendOptions<'_>,
    until: Instant,
) -> Option<Acquired<KeptConnection>> {
    let (idle, age) = (options.backend.idle(), options.oldest());
    let acquired = async {
        loop {
            let acquired = tokio::select! {
                biased;
                // A kept connection cannot be used, but dropping one frees its permit.
                permit = idle.permit(), if options.needs_own_connection() => Acquired::Permit(permit),
                acquired = idle.acquire::<KeptConnection>(age) => acquired,
            };
            match acquired {
                Acquired::Idle(connection)
                    if options.needs_own_connection()
                        || connection.connector != options.connector().serial() => {}
                acquired => return acquired,
            }
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

/// Opens a connection.
pub(super) async fn open(
    options: &SendOptions<'_>,
    permit: Permit,
) -> Result<Box<KeptConnection>, ProxyError> {
    options.backend.make_room();
    let epoch = options.backend.idle().epoch();
    let SendOptions { backend, from, .. } = options;
    let deadline = options.config().timeouts.connect;
    let stream = reach::connect(options.connector(), backend, from, deadline).await?;
    Ok(Box::new(KeptConnection::new(stream, options.connector().serial(), epoch, permit)))
}

impl Lease {
    /// Backend of the connection.
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.sample.backend
    }

    /// The connection's stream.
    pub(super) fn stream(&mut self) -> &mut BackendStream {
        &mut self.connection.stream
    }

    /// The connection.
    pub(super) fn connection(&mut self) -> &mut KeptConnection {
        &mut self.connection
    }

    /// Decides how long the connection may be kept after this response.
    pub(super) fn keep_for(&mut self, options: &SendOptions<'_>, head: &ResponseHead) {
        let limit = head.keep_alive_timeout();
        self.connection.limit = limit;
        // One second before the backend closes: the request must not cross the FIN.
        let peer = limit.map(|limit| limit.saturating_sub(Duration::from_secs(1)));
        let most = options.config().reuse.idle_timeout;
        let keep = peer.map_or(most, |peer| peer.min(most));
        let is_kept = !head.closes()
            && !options.upgrade
            && options.connector().is_shared()
            && !keep.is_zero();
        self.keep = is_kept.then_some(keep);
    }

    /// The response has begun: its end is counted.
    pub(super) fn responds(&mut self) {
        self.sample.counted = false;
    }

    /// Marks the response as a failure that has already been counted.
    pub(super) fn failed(&mut self) {
        self.sample.take();
    }

    /// Counts a body that the backend aborted.
    pub(super) fn aborted(&mut self, metrics: &Metrics) {
        if self.sample.take() {
            shared::note(metrics, &self.sample.backend, true);
        }
    }

    /// Returns the stream of a tunnel, which counts as a connection in use.
    pub(super) fn into_tunnel(self) -> (BackendStream, ConnectionGuard) {
        (self.connection.into_stream(), self.in_use)
    }

    /// Closes the connection, and returns the right to use another one.
    pub(super) fn into_slot(self) -> RequestSlot {
        RequestSlot { in_flight: self.in_flight, in_use: self.in_use }
    }

    /// Keeps the connection for the next request, after a response that was read to its end. `written`: the whole request
    /// was written; otherwise the connection is closed, as the next request would pass as the rest of this one.
    pub(super) fn give_back(self, written: bool) {
        if let Some(keep) = self.keep.filter(|_| written) {
            let epoch = self.connection.epoch;
            self.sample.backend.idle().put_back(self.connection, keep, epoch);
        }
    }
}

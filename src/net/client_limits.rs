//! Limits over all clients of the process: open connections, and TLS handshakes at the same time.
//!
//! At the limit of connections the accept loops pause. Further connections wait in the kernel's queue, as
//! with HAProxy's `maxconn`: clients see a slow connection instead of an error, and balancers in front
//! can use another proxy. Handshakes beyond their limit wait in order, within the deadline that each
//! connection has for its handshake. A thousand handshakes at once would all be slow; in order, most of
//! them are fast.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::listener::due;

/// Maximum number of descriptors for everything but clients: listeners, logs, timers, health checks.
const RESERVED: u64 = 64;

/// Default maximum of TLS handshakes for each processor core. A core completes several thousand handshakes
/// per second, and a client on another continent takes 300 ms for each, most of it on the way.
const HANDSHAKES_PER_CORE: usize = 1024;

/// Metrics of the limits.
#[derive(Clone, Debug, Default)]
pub struct ClientLimitMetrics {
    /// Client connections that are open.
    pub connections: Gauge,
    /// Maximum number of open client connections.
    pub max_connections: Gauge,
    /// Pauses of accepting at the maximum.
    pub pauses: Counter,
    /// TLS handshakes in progress.
    pub handshakes: Gauge,
    /// TLS handshakes that wait.
    pub handshakes_waiting: Gauge,
}

/// The limits, and what counts against them.
#[derive(Debug)]
pub struct ClientLimits {
    connections: Arc<OpenConnections>,
    handshakes: ArcSwap<Semaphore>,
    /// Maximum of `handshakes`; locked while it changes.
    max_handshakes: Mutex<usize>,
    metrics: ClientLimitMetrics,
}

#[derive(Debug)]
struct OpenConnections {
    open: AtomicUsize,
    max: AtomicUsize,
    /// Accept loops that pause.
    paused: AtomicUsize,
    /// Notified when a connection ends, if accept loops pause.
    ended: Notify,
    gauge: Gauge,
}

/// A client connection, counted as open until this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<OpenConnections>);

/// A TLS handshake, counted as in progress until this is dropped.
#[derive(Debug)]
pub struct HandshakeSlot(#[expect(dead_code, reason = "held for its drop")] Box<RunningHandshake>);

#[derive(Debug)]
struct RunningHandshake {
    _permit: OwnedSemaphorePermit,
    _counted: GaugeCount,
}

/// Counts 1 in a gauge until it is dropped.
#[derive(Debug)]
struct GaugeCount(Gauge);

impl ClientLimits {
    /// Creates the limits; `None`: the default.
    pub fn new(
        connections: Option<usize>,
        handshakes: Option<usize>,
        metrics: ClientLimitMetrics,
    ) -> Self {
        let max_handshakes = handshakes.unwrap_or_else(default_handshakes);
        let limits = Self {
            connections: Arc::new(OpenConnections {
                open: AtomicUsize::new(0),
                max: AtomicUsize::new(0),
                paused: AtomicUsize::new(0),
                ended: Notify::new(),
                gauge: metrics.connections.clone(),
            }),
            handshakes: ArcSwap::from_pointee(Semaphore::new(max_handshakes)),
            max_handshakes: Mutex::new(max_handshakes),
            metrics,
        };
        limits.change(connections, handshakes);
        limits
    }

    /// Changes the limits; `None`: the default. Open connections count against a changed limit and are not
    /// closed. Handshakes that have begun do not count against a changed limit.
    pub fn change(&self, connections: Option<usize>, handshakes: Option<usize>) {
        let connections = connections.unwrap_or_else(default_connections);
        self.connections.max.store(connections, SeqCst);
        self.metrics.max_connections.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.connections.ended.notify_waiters();
        let handshakes = handshakes.unwrap_or_else(default_handshakes);
        let mut max = self.max_handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        if *max != handshakes {
            *max = handshakes;
            let before = self.handshakes.swap(Arc::new(Semaphore::new(handshakes)));
            // Waiting handshakes continue at the new limit.
            before.close();
        }
    }

    /// Waits until a connection may be accepted. Several accept loops that wait for their next connection
    /// at the same time may together accept one connection each beyond the limit. Cancel-safe.
    pub async fn below_connection_limit(&self) {
        let connections = &self.connections;
        if connections.is_below() {
            return;
        }
        self.metrics.pauses.inc();
        connections.warn_rate_limited();
        let _paused = Paused::new(connections);
        loop {
            let mut ended = pin!(connections.ended.notified());
            ended.as_mut().enable();
            if connections.is_below() {
                return;
            }
            ended.await;
        }
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.connections.open.load(SeqCst)
    }

    /// Counts a connection that was accepted.
    pub fn connection(&self) -> ConnectionSlot {
        self.connections.open.fetch_add(1, SeqCst);
        self.connections.gauge.inc();
        ConnectionSlot(Arc::clone(&self.connections))
    }

    /// Begins a TLS handshake; `None` if it must [wait](Self::handshake).
    pub fn try_handshake(&self) -> Option<HandshakeSlot> {
        let permit = self.handshakes.load_full().try_acquire_owned().ok()?;
        Some(self.begun(permit))
    }

    /// Waits until a TLS handshake may begin, after all handshakes that came before.
    pub async fn handshake(&self) -> HandshakeSlot {
        let _waiting = GaugeCount::new(&self.metrics.handshakes_waiting);
        loop {
            // An error means that the limit has changed.
            if let Ok(permit) = self.handshakes.load_full().acquire_owned().await {
                return self.begun(permit);
            }
        }
    }

    fn begun(&self, permit: OwnedSemaphorePermit) -> HandshakeSlot {
        let _counted = GaugeCount::new(&self.metrics.handshakes);
        HandshakeSlot(Box::new(RunningHandshake { _permit: permit, _counted }))
    }
}

impl OpenConnections {
    fn is_below(&self) -> bool {
        self.open.load(SeqCst) < self.max.load(SeqCst)
    }

    fn warn_rate_limited(&self) {
        static WARNED: Mutex<Option<Instant>> = Mutex::new(None);
        if due(&mut WARNED.lock().unwrap_or_else(PoisonError::into_inner), Instant::now()) {
            let max = self.max.load(SeqCst);
            tracing::warn!(
                max,
                "the maximum number of client connections is open; further connections wait in the kernel's queue; \
                 raise `limits.connections`, and the limit of open files if it is too low"
            );
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let connections = &self.0;
        connections.open.fetch_sub(1, SeqCst);
        connections.gauge.dec();
        if connections.paused.load(SeqCst) > 0 {
            connections.ended.notify_waiters();
        }
    }
}

/// An accept loop that pauses.
struct Paused<'a>(&'a OpenConnections);

impl<'a> Paused<'a> {
    fn new(connections: &'a OpenConnections) -> Self {
        connections.paused.fetch_add(1, SeqCst);
        Self(connections)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.paused.fetch_sub(1, SeqCst);
    }
}

impl GaugeCount {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How many client connections fit into this limit of open files, if each has a connection to a backend.
pub fn fitting(descriptors: u64) -> u64 {
    (descriptors - RESERVED.min(descriptors / 4)) / 2
}

/// Default maximum of client connections, from the limit of open files.
fn default_connections() -> usize {
    let fitting = getrlimit(Resource::Nofile).current.map(fitting);
    fitting.and_then(|fitting| usize::try_from(fitting).ok()).unwrap_or(usize::MAX).max(1)
}

/// Default maximum of TLS handshakes.
fn default_handshakes() -> usize {
    HANDSHAKES_PER_CORE * std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn limits(connections: usize, handshakes: usize) -> ClientLimits {
        ClientLimits::new(Some(connections), Some(handshakes), ClientLimitMetrics::default())
    }

    #[test]
    fn accepting_pauses_at_the_limit_until_a_connection_ends() {
        let limits = limits(2, 1);
        let mut context = Context::from_waker(Waker::noop());
        let (first, _second) = (limits.connection(), limits.connection());
        let (mut one, mut other) =
            (pin!(limits.below_connection_limit()), pin!(limits.below_connection_limit()));
        assert!(one.as_mut().poll(&mut context).is_pending());
        assert!(other.as_mut().poll(&mut context).is_pending());
        drop(first);
        // Which of the loops has a connection to accept is not known.
        assert!(one.as_mut().poll(&mut context).is_ready());
        assert!(other.as_mut().poll(&mut context).is_ready());
        assert_eq!((limits.metrics.pauses.get(), limits.metrics.connections.get()), (2, 1));
        assert_eq!(limits.connections.paused.load(SeqCst), 0);
    }

    #[test]
    fn a_changed_limit_of_connections_counts_those_that_are_open() {
        let limits = limits(3, 1);
        let mut context = Context::from_waker(Waker::noop());
        let (_first, _second) = (limits.connection(), limits.connection());
        limits.change(Some(2), Some(1));
        let mut loop_ = pin!(limits.below_connection_limit());
        assert!(loop_.as_mut().poll(&mut context).is_pending());
        limits.change(Some(3), Some(1));
        assert!(loop_.as_mut().poll(&mut context).is_ready());
        assert_eq!(limits.metrics.max_connections.get(), 3);
    }

    #[test]
    fn handshakes_wait_in_order_and_survive_a_change() {
        let limits = limits(9, 1);
        let mut context = Context::from_waker(Waker::noop());
        let first = limits.try_handshake().unwrap();
        assert!(limits.try_handshake().is_none());
        let (mut second, mut third) = (pin!(limits.handshake()), pin!(limits.handshake()));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert_eq!(limits.metrics.handshakes_waiting.get(), 2);
        drop(first);
        assert!(third.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(second) = second.as_mut().poll(&mut context) else {
            panic!("it has waited longest")
        };
        limits.change(Some(9), Some(2));
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(second);
        let metrics = &limits.metrics;
        assert_eq!((metrics.handshakes.get(), metrics.handshakes_waiting.get()), (0, 0));
    }

    #[test]
    fn the_default_leaves_descriptors_for_everything_else() {
        assert_eq!([0, 4, 64, 1024, 20_000].map(fitting), [0, 1, 24, 480, 9_968]);
        assert!(default_connections() > 0 && default_handshakes() >= HANDSHAKES_PER_CORE);
    }
}

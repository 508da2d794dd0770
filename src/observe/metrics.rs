//! The metrics: typed handles to count with, and one text for scrapers.
//!
//! Streams are counted in plain atomics of their listener ([`ListenerMetrics`]), which is looked up
//! once and not per stream. The state of backends and certificates is read at each scrape, so that
//! no gauge can become stale. Labels are bounded: names from the configuration, and the closed sets
//! of [`names`]. Counters never decrease, not even on a reload.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    encoding::text,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

mod scrape;

pub use prometheus_client::metrics::counter::Counter;

pub use self::scrape::{BackendSample, CacheSample, CertificateSample};
use self::scrape::{register_backends, register_cache, register_certificates};

use super::names::{self, ChosenBy, metric};
use crate::{error::Termination, gateway::CacheMetrics, net::client_limits::ClientLimitMetrics};

/// Media type of the text that [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, String); N];

/// Metrics of the process, shared by all of its parts.
pub struct Metrics {
    /// Pauses of accepting.
    pub accept_pauses: Counter,
    /// Client connections and handshakes, and their limits.
    pub client_limits: ClientLimitMetrics,
    /// Access-log lines lost.
    pub access_log_dropped: Counter,
    /// Tasks that panicked.
    pub panics: Counter,
    /// Times that a worker of the runtime was stuck in one task.
    pub stalls: Counter,
    /// Workers that are stuck now.
    pub stalled_workers: Gauge,
    /// Requests tried again, on another backend or a new connection.
    pub retries: Counter,
    /// Reloads that took effect.
    pub reloads_ok: Counter,
    /// Reloads that were rejected.
    pub reloads_refused: Counter,
    /// Owner searches that found the session's backend.
    pub owner_found: Counter,
    /// Owner searches that found no backend.
    pub owner_unknown: Counter,
    /// Backends ejected for consecutive failures.
    pub ejections_consecutive: Counter,
    /// Backends ejected for their failure rate.
    pub ejections_rate: Counter,
    /// New sessions that waited for admission.
    pub admission_queued: Counter,
    /// New sessions that were refused admission.
    pub admission_refused: Counter,
    /// New sessions sent to the backend of the client's recent session.
    pub memory_followed: Counter,
    /// New sessions for which recent sessions on several backends match.
    pub memory_ambiguous: Counter,
    /// Copies of requests for another pool that got a response.
    pub mirror_sent: Counter,
    /// Copies of requests without a response.
    pub mirror_failed: Counter,
    /// Requests that were not copied because of a limit.
    pub mirror_skipped: Counter,
    /// Stored responses.
    pub(crate) cache: CacheMetrics,
    /// Certificates ordered by ACME.
    pub acme_ok: Counter,
    /// ACME orders that failed.
    pub acme_failed: Counter,
    registry: Registry,
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerMetrics>>>,
}

impl Metrics {
    /// Creates the metrics, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(names::PREFIX);
        let reloads = by_result(&mut registry, metric::RELOADS, "Reloads by result");
        let searches =
            by_result(&mut registry, metric::OWNER_SEARCHES, "Owner searches, by result");
        let ejections =
            by("reason", &mut registry, metric::EJECTIONS, "Backends ejected, by reason");
        let waits = by_result(
            &mut registry,
            metric::ADMISSION,
            "New sessions that waited for admission or were refused it",
        );
        let recalls = by_result(
            &mut registry,
            metric::MEMORY,
            "New sessions without a cookie whose client had a recent session",
        );
        let copies = by_result(
            &mut registry,
            metric::MIRROR,
            "Copies of requests for other pools, and requests that a limit has left out",
        );
        let orders =
            by_result(&mut registry, metric::ACME_ORDERS, "ACME certificate orders, by result");
        registry.register(
            metric::PROCESS_LOG_DROPPED,
            "Process-log lines dropped because standard error is slow or failing",
            super::log::dropped(),
        );
        Self {
            accept_pauses: plain(
                &mut registry,
                metric::ACCEPT_PAUSES,
                "Pauses of accepting because descriptors or memory are exhausted",
            ),
            client_limits: client_limits(&mut registry),
            access_log_dropped: plain(
                &mut registry,
                metric::ACCESS_LOG_DROPPED,
                "Access-log lines dropped because the sink is slow or failing",
            ),
            panics: plain(&mut registry, metric::PANICS, "Tasks that panicked"),
            stalls: plain(
                &mut registry,
                metric::STALLS,
                "Times that a worker of the runtime was stuck in one task",
            ),
            stalled_workers: level(
                &mut registry,
                metric::STALLED_WORKERS,
                "Workers of the runtime that are stuck in one task",
            ),
            retries: plain(
                &mut registry,
                metric::RETRIES,
                "Requests tried again, on another backend or a new connection",
            ),
            reloads_ok: reloads("ok"),
            reloads_refused: reloads("refused"),
            owner_found: searches("found"),
            owner_unknown: searches("unknown"),
            ejections_consecutive: ejections("consecutive"),
            ejections_rate: ejections("rate"),
            admission_queued: waits("queued"),
            admission_refused: waits("refused"),
            memory_followed: recalls("followed"),
            memory_ambiguous: recalls("ambiguous"),
            mirror_sent: copies("sent"),
            mirror_failed: copies("failed"),
            mirror_skipped: copies("skipped"),
            cache: cache(&mut registry),
            acme_ok: orders("ok"),
            acme_failed: orders("failed"),
            registry,
            listeners: Mutex::default(),
        }
    }

    /// Returns the counters of the listener with this name, always the same for one name. Call once
    /// when a listener starts, not per connection. The name must come from the configuration.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listeners.get(name) {
            return known.clone();
        }
        let listener = Arc::new(ListenerMetrics::new(name));
        listeners.insert(listener.name.clone(), listener.clone());
        listener
    }

    /// Number of open connections, over all listeners.
    pub fn connections(&self) -> u64 {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let open = listeners.values().map(|listener| listener.connections.get());
        u64::try_from(open.sum::<i64>()).unwrap_or_default()
    }

    /// Encodes all metrics as OpenMetrics text of type [`CONTENT_TYPE`]. `backends`,
    /// `certificates` and `cache` give the current state.
    pub fn encode(
        &self,
        backends: impl Iterator<Item = BackendSample>,
        certificates: impl Iterator<Item = CertificateSample>,
        cache: impl Iterator<Item = CacheSample>,
    ) -> String {
        let mut scraped = Registry::with_prefix(names::PREFIX);
        self.register_listeners(&mut scraped);
        register_backends(&mut scraped, backends);
        register_certificates(&mut scraped, certificates);
        register_cache(&mut scraped, cache);
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        let _ = text::encode(&mut out, &scraped);
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counters of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    name: Arc<str>,
    /// Indexed by [`names::termination_index`].
    streams: Box<[AtomicU64]>,
    /// In the order of [`ChosenBy::ALL`].
    chosen: [AtomicU64; ChosenBy::ALL.len()],
    accepted: AtomicU64,
    handshakes_new: AtomicU64,
    handshakes_resumed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    connections: Gauge,
    tunnels: Gauge,
}

impl ListenerMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            streams: (0..names::TERMINATIONS).map(|_| AtomicU64::new(0)).collect(),
            chosen: Default::default(),
            accepted: AtomicU64::default(),
            handshakes_new: AtomicU64::default(),
            handshakes_resumed: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            connections: Gauge::default(),
            tunnels: Gauge::default(),
        }
    }

    /// Name of the listener.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts an accepted connection, as open while the guard lives.
    pub fn accept(&self) -> GaugeGuard {
        self.accepted.fetch_add(1, Relaxed);
        GaugeGuard::new(&self.connections)
    }

    /// Counts a TLS handshake that succeeded.
    pub fn handshake(&self, resumed: bool) {
        let counter = if resumed { &self.handshakes_resumed } else { &self.handshakes_new };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a tunnel as open while the guard lives.
    pub fn tunnel(&self) -> GaugeGuard {
        GaugeGuard::new(&self.tunnels)
    }

    /// Counts an ended stream; call exactly once per stream.
    pub fn ended(&self, how: &Termination, by: ChosenBy, bytes_in: u64, bytes_out: u64) {
        if let Some(counter) = self.streams.get(names::termination_index(how)) {
            counter.fetch_add(1, Relaxed);
        }
        if let Some(counter) = self.chosen.get(by as usize) {
            counter.fetch_add(1, Relaxed);
        }
        self.bytes_in.fetch_add(bytes_in, Relaxed);
        self.bytes_out.fetch_add(bytes_out, Relaxed);
    }
}

/// Counts 1 in a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn client_limits(registry: &mut Registry) -> ClientLimitMetrics {
    ClientLimitMetrics {
        connections: level(
            registry,
            metric::CLIENT_CONNECTIONS,
            "Client connections open, tunnels included",
        ),
        max_connections: level(
            registry,
            metric::CLIENT_CONNECTIONS_MAX,
            "Maximum of open client connections",
        ),
        pauses: plain(
            registry,
            metric::CONNECTION_LIMIT_PAUSES,
            "Pauses of accepting because the maximum of client connections is open",
        ),
        handshakes: level(
            registry,
            metric::HANDSHAKES_IN_PROGRESS,
            "TLS handshakes with clients in progress",
        ),
        handshakes_waiting: level(
            registry,
            metric::HANDSHAKES_WAITING,
            "TLS handshakes with clients that wait for their turn",
        ),
    }
}

fn cache(registry: &mut Registry) -> CacheMetrics {
    let requests = by_result(
        registry,
        metric::CACHE_REQUESTS,
        "GET and HEAD requests of routes with a cache, by what the cache did",
    );
    let evictions = by(
        "store",
        registry,
        metric::CACHE_EVICTIONS,
        "URLs whose stored responses made room for others",
    );
    let writes = by_result(
        registry,
        metric::CACHE_DISK_WRITES,
        "Responses for the disk, also those that the disk was too slow for",
    );
    CacheMetrics {
        hits: requests("hit"),
        stale: requests("stale"),
        revalidated: requests("revalidated"),
        misses: requests("miss"),
        waits: plain(
            registry,
            metric::CACHE_WAITS,
            "Requests that waited for the response to another one",
        ),
        renewals: plain(
            registry,
            metric::CACHE_RENEWALS,
            "Stale responses that are renewed after the reply",
        ),
        stored: plain(registry, metric::CACHE_STORED, "Responses stored or renewed"),
        evicted: evictions("memory"),
        disk_evicted: evictions("disk"),
        disk_written: writes("ok"),
        disk_dropped: writes("dropped"),
        disk_failed: writes("failed"),
        purges: plain(registry, metric::CACHE_PURGES, "Commands that removed stored responses"),
    }
}

fn plain(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn level(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// Registers a counter by result; the returned function gives the counter of a result.
fn by_result(registry: &mut Registry, name: &str, help: &str) -> impl Fn(&str) -> Counter + use<> {
    by("result", registry, name, help)
}

/// Registers a counter by `label`; the returned function gives the counter of a value.
fn by(
    label: &'static str,
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> impl Fn(&str) -> Counter + use<> {
    let family = Family::<Labels<1>, Counter>::default();
    registry.register(name, help, family.clone());
    move |value| family.get_or_create(&[(label, value.to_owned())]).clone()
}

#[cfg(test)]
mod tests;

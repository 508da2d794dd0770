//! Metrics that are read from their owners at each scrape.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Counter, Labels, Metrics};
use crate::observe::names::{self, ChosenBy, metric};

impl Metrics {
    pub(super) fn register_listeners(&self, registry: &mut Registry) {
        let streams =
            CounterFamily::new(registry, metric::STREAMS, "Streams ended, by termination");
        let chosen = CounterFamily::new(
            registry,
            metric::CHOSEN,
            "Streams ended, by how the backend was chosen",
        );
        let accepted = CounterFamily::new(registry, metric::ACCEPTED, "Connections accepted");
        let handshakes =
            CounterFamily::new(registry, metric::HANDSHAKES, "TLS handshakes that succeeded");
        let bytes = CounterFamily::new(
            registry,
            metric::BYTES,
            "Bytes relayed, counted when a stream ends",
        );
        let connections = levels(registry, metric::CONNECTIONS, "Connections open");
        let tunnels = levels(registry, metric::TUNNELS, "Tunnels open");

        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.values() {
            let name = || ("listener", listener.name.to_string());
            let with = |key, value: &str| [name(), (key, value.to_owned())];
            for (index, count) in listener.streams.iter().enumerate() {
                let count = count.load(Relaxed);
                if let Some(label) = names::termination_at(index).filter(|_| count > 0) {
                    streams.add(with("termination", label), count);
                }
            }
            for (by, count) in ChosenBy::ALL.into_iter().zip(&listener.chosen) {
                chosen.add(with("by", by.label()), count.load(Relaxed));
            }
            accepted.add([name()], listener.accepted.load(Relaxed));
            handshakes.add(with("session", "new"), listener.handshakes_new.load(Relaxed));
            handshakes.add(with("session", "resumed"), listener.handshakes_resumed.load(Relaxed));
            bytes.add(with("direction", "in"), listener.bytes_in.load(Relaxed));
            bytes.add(with("direction", "out"), listener.bytes_out.load(Relaxed));
            connections.get_or_create(&[name()]).set(listener.connections.get());
            tunnels.get_or_create(&[name()]).set(listener.tunnels.get());
        }
    }
}

/// State of a backend at a scrape; the names come from the configuration.
#[derive(Clone, Debug)]
pub struct BackendSample {
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend, unique within the pool.
    pub name: String,
    /// Whether the backend is up.
    pub up: bool,
    /// Whether the backend drains: it keeps its sessions but takes no new ones.
    pub draining: bool,
    /// Whether the backend is ejected for failures under traffic.
    pub ejected: bool,
    /// Fraction of the weight that is used, up to 1; lower during slow start.
    pub ramp: f64,
    /// Live sessions and tunnels.
    pub sessions: usize,
    /// Requests in flight.
    pub requests: usize,
    /// Idle connections that are kept.
    pub idle: usize,
    /// Connections in use, tunnels included.
    pub connections: usize,
    /// Requests waiting for a connection.
    pub pending: usize,
    /// New sessions waiting for admission.
    pub waiting: usize,
}

pub(super) fn register_backends(
    registry: &mut Registry,
    backends: impl Iterator<Item = BackendSample>,
) {
    let up = levels(registry, metric::BACKEND_UP, "Whether the backend is up");
    let draining = levels(
        registry,
        metric::BACKEND_DRAINING,
        "Whether the backend drains: it keeps its sessions but takes no new ones",
    );
    let ejected = levels(
        registry,
        metric::BACKEND_EJECTED,
        "Whether the backend is ejected for failures under traffic",
    );
    let ramp = Family::<Labels<2>, Gauge<f64, AtomicU64>>::default();
    registry.register(
        metric::BACKEND_RAMP,
        "Fraction of the backend's weight that is used during slow start",
        ramp.clone(),
    );
    let in_use = levels(registry, metric::BACKEND_CONNECTIONS, "Connections in use");
    let pending = levels(registry, metric::BACKEND_PENDING, "Requests waiting for a connection");
    let waiting = levels(registry, metric::BACKEND_WAITING, "New sessions waiting for admission");
    let sessions = levels(registry, metric::BACKEND_SESSIONS, "Live sessions and tunnels");
    let requests = levels(registry, metric::BACKEND_REQUESTS, "Requests in flight");
    let idle = levels(registry, metric::BACKEND_IDLE, "Idle connections that are kept");
    for backend in backends {
        let labels = [("pool", backend.pool), ("backend", backend.name)];
        up.get_or_create(&labels).set(backend.up.into());
        draining.get_or_create(&labels).set(backend.draining.into());
        ejected.get_or_create(&labels).set(backend.ejected.into());
        ramp.get_or_create(&labels).set(backend.ramp);
        let set = |family: &Family<Labels<2>, Gauge>, value: usize| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&sessions, backend.sessions);
        set(&requests, backend.requests);
        set(&idle, backend.idle);
        set(&in_use, backend.connections);
        set(&pending, backend.pending);
        set(&waiting, backend.waiting);
    }
}

/// A certificate of a listener at a scrape.
#[derive(Clone, Debug)]
pub struct CertificateSample {
    /// Name of the listener.
    pub listener: String,
    /// First name in the certificate; empty if it has none.
    pub name: String,
    /// When it expires.
    pub expires: SystemTime,
}

pub(super) fn register_certificates(
    registry: &mut Registry,
    certificates: impl Iterator<Item = CertificateSample>,
) {
    let expiry = levels(
        registry,
        metric::CERTIFICATE_EXPIRY,
        "Expiry time of the certificate, in seconds of Unix time",
    );
    let mut all: Vec<CertificateSample> = certificates.collect();
    // Of several certificates for one name, the first to expire is shown.
    all.sort_by_key(|certificate| std::cmp::Reverse(certificate.expires));
    for CertificateSample { listener, name, expires } in all {
        let since = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let labels = [("listener", listener), ("certificate", name)];
        expiry.get_or_create(&labels).set(i64::try_from(since).unwrap_or(i64::MAX));
    }
}

/// A store of responses at a scrape.
#[derive(Clone, Copy, Debug)]
pub struct CacheSample {
    /// Name of the store, of a fixed set.
    pub store: &'static str,
    /// Bytes in use.
    pub bytes: u64,
    /// URLs with stored responses.
    pub entries: u64,
}

pub(super) fn register_cache(registry: &mut Registry, stores: impl Iterator<Item = CacheSample>) {
    let bytes = levels(registry, metric::CACHE_BYTES, "Bytes that stored responses use");
    let entries = levels(registry, metric::CACHE_ENTRIES, "URLs with stored responses");
    for sample in stores {
        let labels = [("store", sample.store.to_owned())];
        let set = |family: &Family<Labels<1>, Gauge>, value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&bytes, sample.bytes);
        set(&entries, sample.entries);
    }
}

/// A family of counters that is filled for one scrape.
struct CounterFamily<const N: usize>(Family<Labels<N>, Counter>);

impl<const N: usize> CounterFamily<N> {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    fn add(&self, labels: Labels<N>, count: u64) {
        self.0.get_or_create(&labels).inc_by(count);
    }
}

fn levels<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<Labels<N>, Gauge> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

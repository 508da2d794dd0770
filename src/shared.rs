//! State that all streams of a process share.

use std::{
    error::Error as _,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::{
    acme::Challenges,
    config,
    error::{FailureKind, Phase, ProxyError},
    gateway::{AuthState, CacheStore, Limiters},
    net::client_limits::ClientLimits,
    observe::{AccessLog, Metrics},
    snapshot::Current,
    sticky, tunnel,
    upstream::{Backend, EjectionReason},
};

/// State that all streams of a process share.
#[derive(Debug)]
pub struct SharedState {
    /// The effective configuration, prepared for the data path.
    pub snapshot: Current,
    /// Which backend holds which session.
    pub sids: Arc<sticky::SessionTable>,
    /// Where backends serve Engine.IO.
    pub(crate) engine_paths: sticky::EnginePaths,
    /// Recently ended sessions, and their backends.
    pub memory: Arc<sticky::RecentSessions>,
    /// Open tunnels.
    pub tunnels: Arc<tunnel::TunnelRegistry>,
    /// Stored responses.
    pub(crate) cache: ArcSwap<CacheStore>,
    /// Authentication: verifiers, and the identities of sessions.
    pub(crate) auth: AuthState,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub log: Arc<ArcSwap<AccessLog>>,
    /// Memory for request bodies during owner searches, in KiB, for the whole process.
    pub search_memory: Arc<Semaphore>,
    /// Memory for bodies that are changed as a whole, in KiB, for the whole process.
    pub body_memory: Arc<Semaphore>,
    /// Limits over all clients.
    pub limits: ClientLimits,
    /// Challenge responses for ACME servers.
    pub challenges: Arc<Challenges>,
    /// The limits of routes, with their counters.
    pub(crate) limiters: Limiters,
    /// New clients should go to another proxy: this process shuts down, or all its backends drain.
    pub not_ready: AtomicBool,
}

impl SharedState {
    /// Counts a failure under traffic. Only probes count successes: a successful request must not hide
    /// what the probes find. Without probes, nothing could bring the backend up again, so failures are
    /// not counted. The failed attempt began at `began`: overlapping failures count once.
    pub(crate) fn record_failure(
        &self,
        backend: &Backend,
        health: &config::HealthConfig,
        error: &ProxyError,
        began: Instant,
    ) {
        if health.probe == config::ProbeConfig::Off {
            return;
        }
        let reason = reason(error);
        backend.diagnosis().failed(&reason);
        if let Some(transition) = backend.record_failure(began, health.rise, health.fall) {
            let (pool, backend) = (backend.pool(), backend.name());
            tracing::warn!(pool, backend, ?transition, reason, "backend failed under traffic");
        }
    }

    /// Counts an attempt towards the ejection of the backend.
    pub(crate) fn note(&self, backend: &Backend, failed: bool) {
        note(&self.metrics, backend, failed);
    }
}

/// Counts an attempt towards the ejection of the backend.
pub(crate) fn note(metrics: &Metrics, backend: &Backend, failed: bool) {
    let Some(reason) = backend.record_outcome(failed) else { return };
    let (pool, name) = (backend.pool(), backend.name());
    backend.diagnosis().ejected(reason.words());
    tracing::warn!(pool, backend = name, reason = reason.words(), "backend ejected");
    match reason {
        EjectionReason::Consecutive => metrics.ejections_consecutive.inc(),
        EjectionReason::Rate => metrics.ejections_rate.inc(),
    };
}

/// Returns why a request counts as a failed check.
fn reason(error: &ProxyError) -> String {
    let what = match (error.phase, error.kind) {
        (Phase::Connect, FailureKind::Refused) => "connection refused",
        (Phase::Connect, FailureKind::TimedOut) => "connecting timed out",
        (Phase::Handshake, _) => "TLS handshake failed",
        (Phase::ResponseHeader, FailureKind::TimedOut) => "no response header in time",
        _ => return format!("request: {error}"),
    };
    match error.source() {
        Some(source) => format!("request: {what}: {source}"),
        None => format!("request: {what}"),
    }
}

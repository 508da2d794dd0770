//! What the streams of a process have in common.

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
    observe::{AccessLog, Metrics},
    snapshot::Current,
    sticky, tunnel,
    upstream::{Backend, Reason},
};

/// What every stream of a process shares.
#[derive(Debug)]
pub struct SharedState {
    /// The configuration in force.
    pub snapshot: Current,
    /// Which backend holds which session.
    pub sids: Arc<sticky::SessionTable>,
    /// Which backend the sessions were on that ended a moment ago.
    pub memory: Arc<sticky::RecentSessions>,
    /// Open tunnels.
    pub tunnels: Arc<tunnel::TunnelRegistry>,
    /// Where numbers are told.
    pub metrics: Arc<Metrics>,
    /// Where endings are told.
    pub log: Arc<ArcSwap<AccessLog>>,
    /// KiB that bodies may take, all together, while the owners of their sessions are looked for.
    pub search_memory: Arc<Semaphore>,
    /// What ACME servers are to find here.
    pub challenges: Arc<Challenges>,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
}

impl SharedState {
    /// Counts a failure under traffic. Only probes count successes: an answer here must not make good
    /// what they find wrong. Without probes nothing would bring a backend up, so nothing takes it
    /// down. The attempt that failed began at `began`: failures that overlap count once.
    pub(crate) fn mark_failed(
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
        if let Some(transition) = backend.mark_failed(began, health.rise, health.fall) {
            let (pool, backend) = (backend.pool(), backend.name());
            tracing::warn!(pool, backend, ?transition, reason, "backend failed under traffic");
        }
    }

    /// Counts a try towards the backend's ejection.
    pub(crate) fn note(&self, backend: &Backend, failed: bool) {
        note(&self.metrics, backend, failed);
    }
}

/// Counts a try towards the backend's ejection.
pub(crate) fn note(metrics: &Metrics, backend: &Backend, failed: bool) {
    let Some(reason) = backend.note(failed) else { return };
    let (pool, name) = (backend.pool(), backend.name());
    backend.diagnosis().ejected(reason.words());
    tracing::warn!(pool, backend = name, reason = reason.words(), "backend ejected");
    match reason {
        Reason::Consecutive => metrics.ejections_consecutive.inc(),
        Reason::Rate => metrics.ejections_rate.inc(),
    };
}

/// Why a request counts as a failed check.
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

//! Active health probes: one task a backend.
//!
//! A probe ends at its deadline, whatever the backend does, and reads a bounded answer. Verdicts go
//! through the same hysteresis as failures under traffic. What each probe says is its module's:
//! [`http`] looks at a status, [`websocket`] shakes hands, [`engine_io`] has a whole session.

mod engine_io;
mod http;
mod websocket;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use humantime::format_duration;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::http::ProbeTarget;

use crate::{
    config::{HealthConfig, ProbeConfig},
    upstream::{Backend, BackendConnector, Transition},
};

/// The probes of one backend; dropped, they end.
#[derive(Debug)]
pub(super) struct Probing {
    terms: HealthConfig,
    connector: Arc<BackendConnector>,
    task: AbortOnDropHandle<()>,
}

impl Probing {
    /// Starts them. `new`: the backend has just come, and nobody knows how it is.
    pub(super) fn start(
        backend: &Arc<Backend>,
        connector: &Arc<BackendConnector>,
        terms: &HealthConfig,
        new: bool,
    ) -> Self {
        let (terms, connector) = (terms.clone(), Arc::clone(connector));
        let task = watch(Arc::clone(backend), Arc::clone(&connector), terms.clone(), new);
        Self { terms, connector, task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Ends them.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Whether they go by these terms already.
    pub(super) fn goes_by(&self, terms: &HealthConfig, connector: &Arc<BackendConnector>) -> bool {
        self.terms == *terms && Arc::ptr_eq(&self.connector, connector)
    }
}

/// Probes until it is dropped, each time by a connection that `connector` opens.
async fn watch(
    backend: Arc<Backend>,
    connector: Arc<BackendConnector>,
    terms: HealthConfig,
    new: bool,
) {
    if terms.probe == ProbeConfig::Off {
        // Nothing else would bring it up again.
        backend.record_check(true, 1, 1);
        return;
    }
    // A new backend that fails its first probe was never up: it need not fall first. One that has
    // served under other terms has to.
    let mut fall = if new { 1 } else { terms.fall };
    loop {
        let began = Instant::now();
        let outcome = timeout(terms.timeout, probe(&backend, &connector, &terms)).await;
        match &outcome {
            // The kernel accepts connections for a process that hangs: only an answer shows that it runs.
            Ok(Ok(())) if terms.probe == ProbeConfig::Tcp => backend.record_connect(),
            Ok(Ok(())) => backend.record_response(),
            Err(_) => backend.record_no_response(began),
            // It refused, or answered something else.
            Ok(Err(_)) => {}
        }
        let late = || Err(format!("no answer within {}", format_duration(terms.timeout)));
        let verdict = outcome.unwrap_or_else(|_| late());
        let verdict = verdict.map_err(|wrong| format!("{}: {wrong}", spoken(&terms.probe)));
        judge(&backend, &verdict, terms.rise, fall);
        fall = terms.fall;
        sleep(jittered(terms.interval)).await;
    }
}

/// Counts a probe, and logs what an operator does not know yet: a change of health, and another reason
/// while the backend is down.
fn judge(backend: &Backend, verdict: &Result<(), String>, rise: u32, fall: u32) {
    let (pool, name) = (backend.pool(), backend.name());
    let is_new = backend.diagnosis().probed(verdict.as_ref().copied().map_err(String::as_str));
    let since = backend.diagnosis().since();
    let transition = backend.record_check(verdict.is_ok(), rise, fall);
    match (transition, verdict) {
        (Some(Transition::Down), Err(reason)) => {
            tracing::warn!(pool, backend = name, reason, "backend is down");
        }
        (Some(_), _) => {
            let down = since.elapsed().unwrap_or_default().as_secs();
            let down = format_duration(Duration::from_secs(down));
            tracing::info!(pool, backend = name, %down, "backend is up again");
        }
        (None, Err(reason)) if is_new && !backend.is_up() => {
            tracing::warn!(
                pool,
                backend = name,
                reason,
                "backend is still down, for another reason"
            );
        }
        (None, _) => {}
    }
}

/// What a probe does, for its verdict.
fn spoken(probe: &ProbeConfig) -> String {
    match probe {
        ProbeConfig::Off => String::new(),
        ProbeConfig::Tcp => "TCP probe".to_owned(),
        ProbeConfig::Http { path, .. } => format!("HTTP probe GET {path}"),
        ProbeConfig::EngineIo { path, .. } => format!("Engine.IO probe {path}"),
        ProbeConfig::WebSocket { path, .. } => format!("WebSocket probe {path}"),
    }
}

/// ±10 %, so that probes of many backends, or by many proxies, do not fall into step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn probe(
    backend: &Backend,
    connector: &BackendConnector,
    terms: &HealthConfig,
) -> Result<(), String> {
    let target = |host: &Option<String>| ProbeTarget {
        backend,
        connector,
        within: terms.timeout,
        host: host.clone().unwrap_or_else(|| backend.address().to_string()),
    };
    match &terms.probe {
        ProbeConfig::Off => Ok(()),
        ProbeConfig::Tcp => target(&None).connect().await.map(drop),
        ProbeConfig::Http { path, host, status } => http::probe(target(host), path, *status).await,
        ProbeConfig::EngineIo { path, host } => engine_io::probe(target(host), path).await,
        ProbeConfig::WebSocket { path, host } => websocket::probe(target(host), path).await,
    }
}

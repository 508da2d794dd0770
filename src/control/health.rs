//! Active health checks: one task per backend.
//!
//! A probe ends at its timeout, whatever the backend does, and reads a limited amount of data. `rise` and
//! `fall` apply to probes and to failures under traffic alike. [`http`] checks a status, [`websocket`] a
//! handshake, [`engine_io`] a whole session.

mod engine_io;
mod error;
mod http;
mod websocket;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use humantime::format_duration;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::{error::ProbeError, http::ProbeTarget};
use crate::{
    config::{HealthConfig, ProbeConfig},
    upstream::{Backend, BackendConnector, Transition},
};

/// The health check of one backend; dropping it ends the check.
#[derive(Debug)]
pub(super) struct Probing {
    config: HealthConfig,
    connector: Arc<BackendConnector>,
    task: AbortOnDropHandle<()>,
}

impl Probing {
    /// Starts the check. `new`: the backend was just added, and its health is unknown.
    pub(super) fn start(
        backend: &Arc<Backend>,
        connector: &Arc<BackendConnector>,
        config: &HealthConfig,
        new: bool,
    ) -> Self {
        let (config, connector) = (config.clone(), Arc::clone(connector));
        let task = run(Arc::clone(backend), Arc::clone(&connector), config.clone(), new);
        Self { config, connector, task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Ends the check.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Whether the check uses this configuration already.
    pub(super) fn uses(&self, config: &HealthConfig, connector: &Arc<BackendConnector>) -> bool {
        self.config == *config && Arc::ptr_eq(&self.connector, connector)
    }
}

/// Probes until the task is aborted. `connector` opens a connection for each probe.
async fn run(
    backend: Arc<Backend>,
    connector: Arc<BackendConnector>,
    config: HealthConfig,
    new: bool,
) {
    if config.probe == ProbeConfig::Off {
        // Nothing else would mark the backend as up again.
        backend.record_check(true, 1, 1);
        return;
    }
    // The first failure marks a new backend as down. A backend that has served before needs `fall` failures.
    let mut fall = if new { 1 } else { config.fall };
    loop {
        let start = Instant::now();
        let outcome = timeout(config.timeout, probe(&backend, &connector, &config)).await;
        match &outcome {
            // The kernel accepts connections for a process that hangs: only an answer shows that it runs.
            Ok(Ok(())) if config.probe == ProbeConfig::Tcp => backend.record_connect(),
            Ok(Ok(())) => backend.record_response(Instant::now()),
            Err(_) => backend.record_no_response(start),
            // Connection refused, or an unexpected answer.
            Ok(Err(_)) => {}
        }
        let outcome = outcome.unwrap_or(Err(ProbeError::Timeout(config.timeout)));
        let failure = outcome.err().map(|error| format!("{}: {error}", description(&config.probe)));
        record(&backend, failure.as_deref(), config.rise, fall);
        fall = config.fall;
        sleep(jittered(config.interval)).await;
    }
}

/// Counts a probe. Logs a change of health, and a new reason while the backend is down. `failure` says why
/// the probe failed.
fn record(backend: &Backend, failure: Option<&str>, rise: u32, fall: u32) {
    let (pool, name) = (backend.pool(), backend.name());
    let is_new = backend.diagnosis().probed(failure.map_or(Ok(()), Err));
    let since = backend.diagnosis().since();
    let transition = backend.record_check(failure.is_none(), rise, fall);
    match (transition, failure) {
        (Some(Transition::Down), Some(reason)) => {
            tracing::warn!(pool, backend = name, reason, "backend is down");
        }
        (Some(_), _) => {
            let down = since.elapsed().unwrap_or_default().as_secs();
            let down = format_duration(Duration::from_secs(down));
            tracing::info!(pool, backend = name, %down, "backend is up again");
        }
        (None, Some(reason)) if is_new && !backend.is_up() => {
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

/// Names the probe at the beginning of a failure's reason.
fn description(probe: &ProbeConfig) -> String {
    match probe {
        ProbeConfig::Off => String::new(),
        ProbeConfig::Tcp => "TCP probe".to_owned(),
        ProbeConfig::Http { path, .. } => format!("HTTP probe GET {path}"),
        ProbeConfig::EngineIo { path, .. } => format!("Engine.IO probe {path}"),
        ProbeConfig::WebSocket { path, .. } => format!("WebSocket probe {path}"),
    }
}

/// Adds ±10 %, so that the probes of many backends or proxies do not synchronize.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn probe(
    backend: &Backend,
    connector: &BackendConnector,
    config: &HealthConfig,
) -> Result<(), ProbeError> {
    let target = |host: &Option<String>| ProbeTarget {
        backend,
        connector,
        connect_timeout: config.timeout,
        host: host.clone().unwrap_or_else(|| match backend.address().unix_path() {
            Some(_) => "localhost".to_owned(),
            None => backend.address().to_string(),
        }),
    };
    match &config.probe {
        ProbeConfig::Off => Ok(()),
        ProbeConfig::Tcp => target(&None).connect().await.map(drop),
        ProbeConfig::Http { path, host, status } => http::probe(target(host), path, *status).await,
        ProbeConfig::EngineIo { path, host } => engine_io::probe(target(host), path).await,
        ProbeConfig::WebSocket { path, host } => websocket::probe(target(host), path).await,
    }
}

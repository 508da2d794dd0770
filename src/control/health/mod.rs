//! Active health probes: one task a backend.
//!
//! A probe ends at its deadline, whatever the backend does, and reads a bounded answer. Verdicts go
//! through the same hysteresis as failures under traffic. What each probe says is its module's:
//! [`http`] looks at a status, [`websocket`] shakes hands, [`engine_io`] has a whole session.

mod engine_io;
mod http;
mod websocket;

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use self::http::Dial;

use crate::{
    config::{Health, Probe},
    upstream::{Backend, connect},
};

/// Probes until it is dropped. `new`: the backend has just come, and nobody knows how it is.
pub(super) async fn watch(backend: Arc<Backend>, terms: Health, new: bool) {
    if terms.probe == Probe::Off {
        // Nothing else would bring it up again.
        backend.mark(true, 1, 1);
        return;
    }
    // A new backend that fails its first probe was never up: it need not fall first. One that has
    // served under other terms has to.
    let mut fall = if new { 1 } else { terms.fall };
    loop {
        let outcome = timeout(terms.timeout, probe(&backend, &terms)).await;
        let verdict = outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (pool, name) = (backend.pool(), backend.name());
        if let Some(transition) = backend.mark(verdict.is_ok(), terms.rise, fall) {
            let reason = verdict.err().unwrap_or_default();
            tracing::warn!(pool, backend = name, ?transition, reason, "health changed");
        }
        fall = terms.fall;
        sleep(jittered(terms.interval)).await;
    }
}

/// ±10 %, so that probes of many backends, or by many proxies, do not fall into step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn probe(backend: &Backend, terms: &Health) -> Result<(), String> {
    let host =
        |host: &Option<String>| host.clone().unwrap_or_else(|| backend.address().to_string());
    let within = terms.timeout;
    match &terms.probe {
        Probe::Off => Ok(()),
        Probe::Tcp => connect(backend, within).await.map(drop).map_err(|error| error.to_string()),
        Probe::Http { path, host: typed, status } => {
            http::probe(Dial { backend, within, host: host(typed) }, path, *status).await
        }
        Probe::EngineIo { path, host: typed } => {
            engine_io::probe(Dial { backend, within, host: host(typed) }, path).await
        }
        Probe::WebSocket { path, host: typed } => {
            websocket::probe(Dial { backend, within, host: host(typed) }, path).await
        }
    }
}

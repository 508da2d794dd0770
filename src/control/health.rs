//! Active health probes: one task a backend.
//!
//! A probe ends at its deadline, whatever the backend does, and reads no body. Verdicts go through
//! the same hysteresis as failures under traffic.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};

use crate::{
    config::{Health, Probe},
    upstream::{Backend, connect},
};

/// Largest response header of a probe.
const MAX_HEADER: usize = 16 * 1024;

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
    let stream = connect(backend, terms.timeout).await.map_err(|error| error.to_string())?;
    let Probe::Http { path, host, status } = &terms.probe else { return Ok(()) };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEADER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let address = backend.address().to_string();
    let request = Request::get(path)
        .header(HOST, host.as_deref().unwrap_or(&address))
        .header("user-agent", "moorline-health")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let response = tokio::select! {
        response = &mut answer => response,
        ended = connection => {
            ended.map_err(|error| error.to_string())?;
            // A server that closes at once ends the connection in the very step that brings the answer.
            answer.await
        }
    }
    .map_err(|error| error.to_string())?;
    let (lowest, highest) = *status;
    match response.status().as_u16() {
        code if (lowest..=highest).contains(&code) => Ok(()),
        code => Err(format!("status {code}")),
    }
}

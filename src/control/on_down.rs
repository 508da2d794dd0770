//! Closes the tunnels of backends that are down, in pools with `on_down`.
//!
//! A backend that hangs keeps its tunnels open, and its clients wait until their own heartbeat fails. With
//! `on_down`, the proxy closes these tunnels with status 1012, so that the clients connect to other
//! backends. The closes are spread like those of a drain, and stop when the backend is up again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::drain::ClosePace;
use crate::{
    config,
    shared::SharedState,
    tunnel::CloseReason,
    upstream::{Backend, Lifecycle},
};

/// Backends whose tunnels are being closed, by serial.
#[derive(Debug, Default)]
pub(super) struct OnDown(HashMap<u64, DownClosing>);

/// The closes of one backend's tunnels.
#[derive(Debug)]
struct DownClosing {
    /// When the backend went down.
    since: std::time::Instant,
    spread: Duration,
    pace: ClosePace,
}

impl OnDown {
    /// Closes the tunnels that are due.
    pub(super) fn tick(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let mut closings = std::mem::take(&mut self.0);
        if pools.iter().all(|pool| pool.on_down.is_none()) {
            return;
        }
        let now = Instant::now();
        // If too few backends of the pool are healthy, health is ignored here as well.
        let down = |backend: &&Arc<Backend>| {
            backend.lifecycle() != Lifecycle::Evicted && !backend.keeps_sessions()
        };
        for backend in backends.iter().filter(down) {
            let pool = pools.iter().find(|pool| pool.name == backend.pool());
            let Some(spread) = pool.and_then(|pool| pool.on_down) else { continue };
            let Some(since) = backend.down_since() else { continue };
            let serial = backend.serial();
            let current = closings.remove(&serial);
            let current = current.filter(|it| (it.since, it.spread) == (since, spread));
            let mut closing =
                current.unwrap_or_else(|| DownClosing::begin(backend, since, spread, proxy));
            let count = closing.pace.due(proxy.tunnels.staying(serial), now);
            closing.pace.record(proxy.tunnels.close(serial, count, CloseReason::Down));
            self.0.insert(serial, closing);
        }
    }
}

impl DownClosing {
    fn begin(
        backend: &Backend,
        since: std::time::Instant,
        spread: Duration,
        proxy: &SharedState,
    ) -> Self {
        let (pool, name) = (backend.pool(), backend.name());
        let tunnels = proxy.tunnels.staying(backend.serial());
        tracing::info!(
            pool,
            backend = name,
            tunnels,
            ?spread,
            "backend is down; closing its tunnels"
        );
        Self { since, spread, pace: ClosePace::new(Instant::now() + spread, spread) }
    }
}

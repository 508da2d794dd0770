//! Closes the tunnels of backends that are down, in pools with `on_down`.
//!
//! A node that hangs keeps its tunnels open, and its clients wait for their own heartbeat to fail. A pool
//! can have them closed with status 1012 instead, so that the clients connect again, to other
//! backends. The closes are spread over a time, as those of a drain are, and stop if the backend comes
//! back up.

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
    /// Since when the backend has been down.
    since: std::time::Instant,
    spread: Duration,
    pace: ClosePace,
}

impl OnDown {
    /// Closes what is due.
    pub(super) fn tick(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let mut before = std::mem::take(&mut self.0);
        if pools.iter().all(|pool| pool.on_down.is_none()) {
            return;
        }
        let now = Instant::now();
        // Where too few of a pool are healthy, health is ignored here as well.
        let down = |backend: &&Arc<Backend>| {
            backend.lifecycle() != Lifecycle::Evicted && !backend.keeps_sessions()
        };
        for backend in backends.iter().filter(down) {
            let pool = pools.iter().find(|pool| pool.name == backend.pool());
            let Some(spread) = pool.and_then(|pool| pool.on_down) else { continue };
            let Some(since) = backend.down_since() else { continue };
            let serial = backend.serial();
            let known = before.remove(&serial);
            let known = known.filter(|known| (known.since, known.spread) == (since, spread));
            let mut closing =
                known.unwrap_or_else(|| DownClosing::begin(backend, since, spread, proxy));
            let count = closing.pace.due(proxy.tunnels.staying(serial), now);
            closing.pace.took(proxy.tunnels.close(serial, count, CloseReason::Down));
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

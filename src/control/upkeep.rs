//! Regular work of the control task: slow start and ejections, tunnels that are due, expired sessions and idle
//! connections, names of backends.
//!
//! An idle process wakes up once a second. Work that needs finer steps shortens the period while there is such
//! work.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{ControlTask, rebalance};
use crate::{auth, upstream::TICK_INTERVAL};

/// Period of housekeeping: it removes expired session ids and idle connections.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Period of resolving the names of backends. A reload resolves them at once.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Period while backends return or tunnels may be due.
const BUSY: Duration = TICK_INTERVAL;
const _: () = assert!(BUSY.as_millis() == rebalance::TICK.as_millis());

/// When regular work is due.
#[derive(Debug)]
pub(super) struct Upkeep {
    next: Instant,
    housekeeping: Instant,
    resolve: Instant,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next: now, housekeeping: now, resolve: now + RESOLVE_INTERVAL }
    }

    /// Resolves when work is due. Cancel-safe.
    pub(super) async fn due(&self) {
        sleep_until(self.next).await;
    }

    /// Makes the work due soon, because backends have changed.
    pub(super) fn hasten(&mut self) {
        self.next = self.next.min(Instant::now() + BUSY);
    }
}

impl ControlTask {
    /// Does the work that is due.
    pub(super) fn run_upkeep(&mut self) {
        let now = Instant::now();
        self.tick_pools();
        self.close_due_tunnels();
        if now >= self.upkeep.housekeeping {
            self.run_housekeeping();
            self.upkeep.housekeeping = now + HOUSEKEEPING;
        }
        if now >= self.upkeep.resolve {
            self.resolver.resolve_all(&self.backends);
            self.upkeep.resolve = now + RESOLVE_INTERVAL;
        }
        self.upkeep.next = now + if self.is_busy() { BUSY } else { HOUSEKEEPING };
    }

    /// Whether a backend returns, or tunnels may be due.
    fn is_busy(&self) -> bool {
        let returns =
            self.backends.iter().any(|backend| backend.is_ejected() || backend.ramp() < 1.0);
        let closes = self.config.pools.iter().any(|pool| {
            pool.rebalance.is_some() || pool.on_down.is_some() || pool.max_connection_age.is_some()
        });
        returns || (closes && !self.proxy.tunnels.is_empty())
    }

    /// Closes tunnels that are due: for rebalancing, because of their age, or because their backend is down.
    fn close_due_tunnels(&mut self) {
        self.rebalance.tick(&self.config.pools, &self.backends, &self.proxy);
        self.rebalance.close_aged(&self.config.pools, &self.backends, &self.proxy);
        self.on_down.tick(&self.config.pools, &self.backends, &self.proxy);
    }

    /// Advances slow start and ends ejections.
    fn tick_pools(&self) {
        let now = std::time::Instant::now();
        for pool in &self.proxy.snapshot.load().pools {
            pool.upstream.tick(now);
        }
    }

    /// Removes expired session ids, idle connections and backends whose drain has ended; returns free memory.
    pub(super) fn run_housekeeping(&mut self) {
        let now = std::time::Instant::now();
        self.proxy.sids.sweep(now);
        let identities = &self.proxy.auth.identities;
        identities.close_ended(auth::now());
        identities.sweep(|pool, sid| self.proxy.sids.peek(pool, sid, now).is_some());
        for backend in &self.backends {
            backend.idle().sweep(now);
        }
        self.forget_removed();
        let (sessions, tunnels) = (self.proxy.sids.len(), self.proxy.tunnels.len());
        self.heap.tick(self.proxy.limits.open_connections(), sessions);
        self.notifier.status(format_args!("{sessions} sessions, {tunnels} tunnels"));
    }
}

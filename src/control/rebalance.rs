//! Rebalancing: closes tunnels of backends that have more than their share, and tunnels that are too old.
//!
//! Each tick counts a pool's tunnels. If a backend that takes new sessions has more tunnels than its share
//! by weight, the excess is closed at the pool's rate. Meanwhile the affinity cookies for this backend are
//! ignored, so that its clients connect to other backends. They need some seconds for that. Until then
//! they are counted as if they were connected, otherwise the shares would shrink and more tunnels would be
//! closed. If several rounds make no progress, the pool's clients always return to the same backends. Then
//! rebalancing pauses until the pool's backends change.
//!
//! Health and slow start change the shares during a round. They change the round only by as much as they
//! change the excess, so that every round ends. A backend in slow start loses no tunnels, because its share
//! grows with its weight.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    config,
    shared::SharedState,
    tunnel::{AgeLimit, CloseReason, SHARDS},
    upstream::{Backend, Lifecycle},
};

/// Interval between ticks.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Number of ticks in which the age of every tunnel is checked once.
const AGE_TICKS: usize = 4;

/// Time for clients to reconnect after a close. Socket.IO clients wait up to 5 s times 1.5.
const RECONNECT: Duration = Duration::from_secs(10);

/// Number of rounds without progress after which rebalancing of the pool pauses.
const FUTILE: u32 = 3;

/// The state of rebalancing, by pool.
#[derive(Debug, Default)]
pub(super) struct Rebalancer {
    pools: HashMap<String, PoolRebalance>,
    /// The maximum age of tunnels, for pools that set one.
    ages: HashMap<String, AgeLimit>,
    /// The next shard of the tunnel registry to check for old tunnels.
    shard: usize,
    last_tick: Option<Instant>,
}

/// A backend that takes new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BackendShare {
    serial: u64,
    /// The effective weight.
    weight: u32,
    /// Whether the backend is in slow start: the effective weight is less than the configured one.
    slow_start: bool,
    tunnels: usize,
}

/// The state of rebalancing of one pool.
#[derive(Debug, Default)]
struct PoolRebalance {
    /// Serials and weights of the configured backends.
    members: Vec<(u64, u32)>,
    /// The backends that took new sessions at the last tick.
    backends: Vec<BackendShare>,
    round: Option<RebalanceRound>,
    /// The excess before the last round, computed with the current weights; `None`: the pool was balanced
    /// after that.
    last_excess: Option<usize>,
    /// Number of consecutive rounds without progress.
    futile: u32,
    /// Closes that are due and not done yet; may be a fraction.
    credit: f64,
}

/// A round: closes the excess, then waits until the clients have reconnected.
#[derive(Clone, Copy, Debug)]
struct RebalanceRound {
    /// The excess at the beginning, computed with the current weights; `None`: the backends have changed
    /// since, so that the round does not show whether there is progress.
    excess: Option<usize>,
    /// Number of tunnels still to close. If 0, the round waits for the clients.
    left: usize,
    /// Number of tunnels at the beginning, which includes clients that are reconnecting.
    total: usize,
    /// When there was last an excess to close.
    last_close: Instant,
}

impl Rebalancer {
    /// Closes the tunnels that are due in every pool.
    pub(super) fn tick(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let now = Instant::now();
        // After a pause of the process, do not close for the time of the pause.
        let elapsed = self.last_tick.replace(now).map_or(TICK, |last| now - last).min(2 * TICK);
        self.pools.retain(|name, _| {
            pools.iter().any(|pool| pool.name == *name && pool.rebalance.is_some())
        });
        for pool in pools {
            let of_pool = || backends.iter().filter(|backend| backend.pool() == pool.name);
            let Some(config) = pool.rebalance else {
                of_pool().for_each(|backend| backend.set_shedding(false));
                continue;
            };
            let members = of_pool()
                .filter(|backend| backend.lifecycle() == Lifecycle::Serving)
                .map(|backend| (backend.serial(), backend.weight()))
                .collect();
            let shares = of_pool()
                .filter(|backend| backend.accepts_new() || backend.is_only_full())
                .map(|backend| BackendShare {
                    serial: backend.serial(),
                    weight: backend.effective_weight(),
                    slow_start: backend.ramp() < 1.0,
                    tunnels: proxy.tunnels.closable(backend.serial()),
                })
                .collect();
            let rebalance = self.pools.entry(pool.name.clone()).or_default();
            let quota = elapsed.as_secs_f64() / config.rate.interval().as_secs_f64();
            rebalance.update(members, shares);
            let due = rebalance.step(quota, now);
            // Before the closes: a client may reconnect at once, and its cookie must not bring it back.
            let active = rebalance.round.is_some();
            for backend in of_pool() {
                let overloaded = due.iter().any(|&(serial, _)| serial == backend.serial());
                backend.set_shedding(active && (overloaded || backend.is_shedding()));
            }
            for (serial, count) in due {
                proxy.tunnels.close(serial, count, CloseReason::Rebalanced);
            }
        }
    }

    /// Closes the tunnels that are older than their pool allows. Each call checks a part of the registry.
    pub(super) fn close_aged(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let since = Instant::now();
        let limited = pools.iter().filter_map(|pool| {
            let limit = pool.max_connection_age?;
            let current = self.ages.remove(&pool.name).filter(|current| current.limit == limit);
            Some((pool.name.clone(), current.unwrap_or(AgeLimit { limit, since })))
        });
        self.ages = limited.collect();
        if self.ages.is_empty() {
            return;
        }
        let limit =
            |backend: &Arc<Backend>| Some((backend.serial(), *self.ages.get(backend.pool())?));
        let limits: HashMap<u64, AgeLimit> = backends.iter().filter_map(limit).collect();
        for _ in 0..SHARDS / AGE_TICKS {
            proxy.tunnels.close_aged(self.shard, |serial| limits.get(&serial).copied());
            self.shard = (self.shard + 1) % SHARDS;
        }
    }
}

impl PoolRebalance {
    /// Sets the configured backends and the backends that take new sessions.
    fn update(&mut self, members: Vec<(u64, u32)>, backends: Vec<BackendShare>) {
        let weights_changed = {
            let weight = |share: &BackendShare| (share.serial, share.weight, share.slow_start);
            !backends.iter().map(weight).eq(self.backends.iter().map(weight))
        };
        if weights_changed {
            // Compute the excess of the current tunnels with the weights before and after. The difference
            // is the effect of the weights alone.
            let mut before = std::mem::take(&mut self.backends);
            for old in &mut before {
                let now = backends.iter().find(|share| share.serial == old.serial);
                old.tunnels = now.map_or(old.tunnels, |share| share.tunnels);
            }
            let change = |count: usize| {
                (count + self.excess(&backends).1).saturating_sub(self.excess(&before).1)
            };
            let last_excess = self.last_excess.map(change);
            let round = self.round.map(|round| RebalanceRound {
                excess: round.excess.map(change),
                left: if round.left > 0 { change(round.left) } else { 0 },
                ..round
            });
            (self.last_excess, self.round) = (last_excess, round);
        }
        self.backends = backends;
        if self.members != members {
            if let Some(round) = &mut self.round {
                round.excess = None;
            }
            (self.members, self.last_excess, self.futile) = (members, None, 0);
        }
    }

    /// Returns how many tunnels to close now, by backend. `quota` is the number that the rate allows since
    /// the last step.
    fn step(&mut self, quota: f64, now: Instant) -> Vec<(u64, usize)> {
        if let Some(round) = self.round
            && now - round.last_close >= RECONNECT
        {
            self.last_excess = round.excess;
            self.round = None;
        }
        let (excess, sum) = self.excess(&self.backends);
        if sum == 0 {
            if self.round.is_none() && self.is_complete() {
                (self.last_excess, self.futile) = (None, 0);
            }
            return Vec::new();
        }
        if self.round.is_none() && !self.begin(sum, now) {
            return Vec::new();
        }
        let Some(round) = self.round.as_mut().filter(|round| round.left > 0) else {
            return Vec::new();
        };
        round.last_close = now;
        // Limit the credit to one step, so that no burst follows a time without excess.
        self.credit = (self.credit + quota).min(quota.max(1.0));
        let count = (self.credit as usize).min(sum).min(round.left);
        self.credit -= count as f64;
        round.left -= count;
        split(&excess, sum, count)
    }

    /// Begins a round, unless the last rounds made no progress.
    fn begin(&mut self, excess: usize, now: Instant) -> bool {
        let no_progress = self.last_excess.is_some_and(|last| excess >= last);
        self.futile = if no_progress { self.futile.saturating_add(1) } else { 0 };
        if self.futile >= FUTILE {
            return false;
        }
        let total = tunnels(&self.backends);
        self.round =
            Some(RebalanceRound { excess: Some(excess), left: excess, total, last_close: now });
        true
    }

    /// Returns the excess of each backend over its share, and the sum.
    fn excess(&self, backends: &[BackendShare]) -> (Vec<(u64, usize)>, usize) {
        let open = tunnels(backends);
        let excess = excess(backends, self.round.map_or(open, |round| round.total.max(open)));
        let sum = excess.iter().map(|&(_, count)| count).sum();
        (excess, sum)
    }

    /// Whether all configured backends take new sessions with their full weight.
    fn is_complete(&self) -> bool {
        self.backends.len() == self.members.len()
            && !self.backends.iter().any(|share| share.slow_start)
    }
}

fn tunnels(backends: &[BackendShare]) -> usize {
    backends.iter().map(|share| share.tunnels).sum()
}

/// Returns how many tunnels each backend has more than its share of `total`, which is rounded up. A backend
/// in slow start has no excess, because its share will grow.
fn excess(backends: &[BackendShare], total: usize) -> Vec<(u64, usize)> {
    let weights: u64 = backends.iter().map(|share| u64::from(share.weight)).sum();
    let target = |share: &BackendShare| {
        (total as u64 * u64::from(share.weight)).div_ceil(weights.max(1)) as usize
    };
    let full = backends.iter().filter(|share| !share.slow_start);
    let excess = full.map(|share| (share.serial, share.tunnels.saturating_sub(target(share))));
    excess.filter(|&(_, count)| count > 0).collect()
}

/// Splits `count` closes among the backends in proportion to their excess; `sum` is the sum of the excess.
fn split(excess: &[(u64, usize)], mut sum: usize, mut count: usize) -> Vec<(u64, usize)> {
    let mut closes = Vec::new();
    for &(serial, excess) in excess {
        let part = (count * excess).div_ceil(sum.max(1)).min(count);
        (sum, count) = (sum - excess, count - part);
        if part > 0 {
            closes.push((serial, part));
        }
    }
    closes
}

#[cfg(test)]
mod tests;

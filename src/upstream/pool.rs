//! A configuration's view of several backends: how one is chosen, and how many retries are allowed.
//!
//! A pool is immutable, except for what its selector derives from the backends. A reload makes a new
//! pool with the same backends, which then report their changes to its selector. The old pool still
//! picks backends for the few requests that hold it; its outdated choices do no harm.

use std::{cell::OnceCell, fmt, net::IpAddr, sync::Arc, time::Instant};

use super::{
    backend::{Backend, Membership},
    balance::Selector,
    budget::Budget,
    panic_threshold::PanicThreshold,
};
use crate::config;

/// Interchangeable backends with their policy.
pub struct Pool {
    config: config::PoolConfig,
    backends: Vec<Arc<Backend>>,
    selector: Arc<Selector>,
    threshold: Arc<PanicThreshold>,
    budget: Budget,
}

/// Returns a client's address in the form that [`Pool::pick`] expects. An IPv4 address and its
/// IPv4-mapped IPv6 address have the same form.
pub fn source(client: IpAddr) -> [u8; 16] {
    match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Pool {
    /// Creates a pool of these backends, which join it. `config.backends` is ignored: the caller decides
    /// which live backends are kept.
    pub fn new(config: config::PoolConfig, backends: Vec<Arc<Backend>>) -> Arc<Self> {
        let loads = backends.iter().map(|backend| (backend.name(), Arc::clone(backend.load())));
        let selector = Arc::new(Selector::new(config.balance, loads));
        let loads = backends.iter().map(|backend| Arc::clone(backend.load())).collect();
        let threshold = Arc::new(PanicThreshold::new(&config, loads, Arc::clone(&selector)));
        // No slow start if all backends are new: at process start, no backend would have its whole weight.
        let serves = backends.iter().any(|backend| backend.is_in_pool());
        for (index, backend) in (0..).zip(&backends) {
            backend.limit(&config.limits);
            if serves && !backend.is_in_pool() {
                backend.schedule_slow_start();
            }
            let (selector, threshold) = (Arc::clone(&selector), Arc::clone(&threshold));
            backend.join(Membership { selector, threshold, index });
        }
        // Includes changes from before the backends joined.
        selector.rebuild();
        let budget = Budget::new(Instant::now());
        let pool = Arc::new(Self { config, backends, selector, threshold, budget });
        pool.tick(Instant::now());
        pool
    }

    /// Configuration of the pool.
    pub fn config(&self) -> &config::PoolConfig {
        &self.config
    }

    /// Name in the configuration, logs and metrics.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its backends, in configuration order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Picks the backend for the next session, by the pool's policy, or a backup if every other backend that accepts new
    /// sessions is in `tried`; `None` if the backups are, too. `source` is the client's address for source-hash; see [`source`].
    pub fn pick(&self, source: &[u8], tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        // Empty except for retries, so usually nothing is allocated.
        let mut tried: Vec<u32> = tried.iter().filter_map(|backend| self.index(backend)).collect();
        tried.sort_unstable();
        tried.dedup();
        let picked = self.selector.pick(source, &tried);
        let index = match picked {
            Some(index) if self.backends[index as usize].accepts_new() => Some(index),
            // The choice of an old pool may have gone down without a notification.
            _ if self.selector.is_replaced() => self.scan(&tried),
            None if !tried.is_empty() => self.stand_in(&tried),
            _ => picked,
        };
        index.map(|index| Arc::clone(&self.backends[index as usize]))
    }

    /// Returns the backend that the next [`pick`](Self::pick) would return, without changing the order;
    /// `None` if no backend accepts new sessions or the policy is random.
    pub fn preview(&self, source: &[u8]) -> Option<&Arc<Backend>> {
        let index = self.selector.preview(source)?;
        self.backends.get(index as usize).filter(|backend| backend.accepts_new())
    }

    /// Whether a backend accepts new sessions.
    pub fn accepts_new(&self) -> bool {
        self.backends.iter().any(|backend| backend.accepts_new())
    }

    /// Whether the connection limit is the only reason why some backend accepts no new sessions.
    pub fn is_full(&self) -> bool {
        self.backends.iter().any(|backend| backend.is_only_full())
    }

    /// Ends ejections whose time is over, advances slow start, and evaluates the panic threshold. Must be
    /// called every [`TICK_INTERVAL`](super::TICK_INTERVAL) while this is the newest pool.
    pub fn tick(&self, now: Instant) {
        let level = OnceCell::new();
        for backend in &self.backends {
            if backend.tick(&level, now) {
                tracing::info!(
                    pool = self.name(),
                    backend = backend.name(),
                    "ejection ended; the backend gets new sessions again"
                );
            }
        }
        self.threshold.evaluate();
    }

    /// Takes one retry from the budget. Returns whether the budget allowed it.
    pub fn retry_allowed(&self) -> bool {
        self.budget.withdraw(Instant::now())
    }

    /// Counts a request towards the retry budget.
    pub fn note_request(&self) {
        self.budget.note_request(Instant::now());
    }

    fn index(&self, backend: &Arc<Backend>) -> Option<u32> {
        backend.index_in(&self.selector).or_else(|| {
            let index = self.backends.iter().position(|other| Arc::ptr_eq(other, backend))?;
            u32::try_from(index).ok()
        })
    }

    /// Returns a backup for a request that every other backend has failed.
    fn stand_in(&self, tried: &[u32]) -> Option<u32> {
        (0..)
            .zip(&self.backends)
            .find(|(index, backend)| backend.can_stand_in() && !tried.contains(index))
            .map(|(index, _)| index)
    }

    fn scan(&self, tried: &[u32]) -> Option<u32> {
        (0..)
            .zip(&self.backends)
            .find(|(index, backend)| backend.accepts_new() && !tried.contains(index))
            .map(|(index, _)| index)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.config.name)
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

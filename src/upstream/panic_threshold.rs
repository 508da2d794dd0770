//! Panic threshold of a pool: how many backends may be ejected, and when health is ignored because too
//! few backends are healthy. It also decides when backups are used.
//!
//! If every check fails, the proxy or its network is more often the cause than all backends at once.
//! Therefore ejections stop at a share of the pool, and below `healthy_minimum` every serving backend is
//! used and keeps its sessions. Backups take new sessions only while no other backend can; they count neither as healthy
//! nor as unhealthy for `healthy_minimum`, and come before ignoring the health of all others. This holds loads only, so that an old pool does not keep backends in
//! memory. Once a newer pool has taken over the backends, the old threshold changes nothing.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    balance::Selector,
    load::{FULL_SHARE, Lifecycle, Load},
};
use crate::config;

/// The panic threshold of one pool.
#[derive(Debug)]
pub(super) struct PanicThreshold {
    /// Name of the pool, for the log.
    pool: Box<str>,
    selector: Arc<Selector>,
    loads: Box<[Arc<Load>]>,
    healthy_minimum: u64,
    outlier: Option<config::Outlier>,
    slow_start: Duration,
    /// Whether health is ignored now. Locked during ejections and evaluations.
    health_ignored: Mutex<bool>,
    /// Whether backups take new sessions now.
    backups_used: AtomicBool,
}

impl PanicThreshold {
    pub(super) fn new(
        config: &config::PoolConfig,
        loads: Vec<Arc<Load>>,
        selector: Arc<Selector>,
    ) -> Self {
        let health_ignored = Mutex::new(loads.iter().any(|load| load.is_health_ignored()));
        // A new pool takes over the backends of the old one, with their state.
        let takes =
            |load: &Arc<Load>| load.is_backup() && load.sessions() > 0 && !load.is_standby();
        let backups_used = AtomicBool::new(loads.iter().any(takes));
        Self {
            pool: config.name.as_str().into(),
            selector,
            loads: loads.into(),
            healthy_minimum: u64::from(config.healthy_minimum),
            outlier: config.outlier.clone(),
            slow_start: config.slow_start,
            health_ignored,
            backups_used,
        }
    }

    /// Settings of outlier detection; `None` if it is off.
    pub(super) fn outlier(&self) -> Option<&config::Outlier> {
        self.outlier.as_ref()
    }

    /// Duration of slow start; zero if it is off.
    pub(super) fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Whether the pool has a `healthy_minimum`.
    pub(super) fn has_minimum(&self) -> bool {
        self.healthy_minimum > 0
    }

    /// Ejects a backend, unless it is the last healthy one or the maximum is reached. Returns whether
    /// the backend was ejected.
    pub(super) fn eject(&self, index: u32) -> bool {
        if self.selector.is_replaced() {
            return false;
        }
        let mut health_ignored = self.health_ignored.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = &self.loads[index as usize];
        let serving = || self.loads.iter().filter(|load| load.lifecycle() == Lifecycle::Serving);
        let others = serving().filter(|load| !Arc::ptr_eq(load, candidate));
        let remains = others.clone().any(|load| load.is_healthy());
        let ejected = others.filter(|load| load.is_ejected()).count();
        if !remains || ejected >= self.max_ejected(serving().count()) {
            return false;
        }
        let changed = candidate.set_ejected(true);
        self.apply(&mut health_ignored);
        self.selector.state_changed(index);
        changed
    }

    /// Evaluates whether health is ignored. Must be called after each change of health.
    pub(super) fn evaluate(&self) {
        if self.selector.is_replaced() {
            return;
        }
        let mut health_ignored = self.health_ignored.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(&mut health_ignored);
    }

    /// Returns the average number of sessions per share of weight, over the backends that accept new
    /// sessions and are not in slow start; `None` if there is no such backend.
    pub(super) fn sessions_per_share(&self) -> Option<f64> {
        let full =
            self.loads.iter().filter(|load| load.accepts_new() && load.share() == FULL_SHARE);
        let (sessions, shares) = full.fold((0u64, 0u64), |(sessions, shares), load| {
            (sessions + u64::from(load.sessions()), shares + u64::from(load.effective_weight()))
        });
        (shares > 0).then(|| sessions as f64 / shares as f64)
    }

    fn max_ejected(&self, serving: usize) -> usize {
        let percent = self.outlier.as_ref().map_or(0, |outlier| usize::from(outlier.max_ejected));
        match serving * percent / 100 {
            // In a small pool, a small share rounds down to 0, but 0 is not meant.
            0 if percent > 0 && serving >= 2 => 1,
            max => max,
        }
    }

    fn apply(&self, health_ignored: &mut bool) {
        self.apply_minimum(health_ignored);
        self.apply_backups();
    }

    /// Lets backups take new sessions while no other backend can.
    fn apply_backups(&self) {
        let needed = !self.loads.iter().any(|load| !load.is_backup() && load.is_available());
        for (index, load) in (0..).zip(&self.loads) {
            let standby = load.is_backup() && !needed;
            if load.is_standby() != standby && load.set_standby(standby) {
                self.selector.state_changed(index);
            }
        }
        let used = needed && self.loads.iter().any(|load| load.is_backup());
        let pool = &self.pool;
        match (self.backups_used.swap(used, Ordering::Relaxed), used) {
            (false, true) => {
                tracing::warn!(%pool, "no other backend is available; using the backups")
            }
            (true, false) => {
                tracing::warn!(%pool, "other backends are available again; new sessions leave the backups")
            }
            _ => {}
        }
    }

    fn apply_minimum(&self, health_ignored: &mut bool) {
        if self.healthy_minimum == 0 && !*health_ignored {
            return;
        }
        let serving = self.loads.iter().filter(|load| load.lifecycle() == Lifecycle::Serving);
        let (backups, others): (Vec<_>, Vec<_>) = serving.partition(|load| load.is_backup());
        let serving = others.len() as u64;
        let healthy = others.iter().filter(|load| load.is_healthy()).count() as u64;
        let has_backup = healthy == 0 && backups.iter().any(|load| load.is_healthy());
        let ignore = !has_backup && healthy * 100 < self.healthy_minimum * serving;
        if ignore != *health_ignored {
            let pool = &self.pool;
            if ignore {
                tracing::warn!(
                    %pool, healthy, serving,
                    "too few backends are healthy; ignoring health and using all backends"
                );
            } else {
                tracing::warn!(
                    %pool, healthy, serving,
                    "enough backends are healthy again; using healthy backends only"
                );
            }
        }
        *health_ignored = ignore;
        for (index, load) in (0..).zip(&self.loads) {
            if load.set_health_ignored(ignore && !load.is_backup()) {
                if ignore {
                    // All backends have to carry the load, also those in slow start.
                    load.set_ramp(FULL_SHARE, 0);
                }
                self.selector.state_changed(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Balance;

    fn threshold(backends: usize, change: impl FnOnce(&mut config::PoolConfig)) -> PanicThreshold {
        let mut config = config::PoolConfig::new("p", Vec::new());
        config.outlier = Some(config::Outlier::default());
        change(&mut config);
        let loads: Vec<_> = (0..backends).map(|_| Arc::new(Load::new(1))).collect();
        let names = loads.iter().map(|load| ("b", Arc::clone(load)));
        let selector = Arc::new(Selector::new(Balance::RoundRobin, names));
        PanicThreshold::new(&config, loads, selector)
    }

    fn ejectable(backends: usize, most: u8) -> usize {
        let threshold = threshold(backends, |config| {
            config.outlier = Some(config::Outlier { max_ejected: most, ..Default::default() });
        });
        (0..backends as u32).filter(|index| threshold.eject(*index)).count()
    }

    #[test]
    fn ejections_are_limited_to_a_share_of_the_pool_and_spare_the_last_backend() {
        assert_eq!(ejectable(10, 50), 5);
        assert_eq!(ejectable(10, 19), 1);
        assert_eq!(ejectable(3, 10), 1, "a share below 1 counts as 1");
        assert_eq!(ejectable(2, 100), 1, "the last healthy backend is not ejected");
        assert_eq!(ejectable(1, 100), 0);
        assert_eq!(ejectable(10, 0), 0);
    }

    #[test]
    fn the_last_healthy_backend_is_not_ejected_while_others_are_down() {
        let threshold = threshold(3, |_| {});
        threshold.loads[0].record_check(false, 1, 1);
        threshold.loads[1].record_check(false, 1, 1);
        assert!(!threshold.eject(2));
        threshold.loads[1].record_check(true, 1, 1);
        assert!(threshold.eject(2));
    }

    #[test]
    fn backups_take_new_sessions_while_no_other_backend_can() {
        let threshold = threshold(4, |config| config.healthy_minimum = 50);
        threshold.loads[2].set_backup(true);
        threshold.loads[3].set_backup(true);
        let accepting = || -> Vec<bool> {
            threshold.evaluate();
            threshold.loads.iter().map(|load| load.accepts_new()).collect()
        };
        assert_eq!(accepting(), [true, true, false, false]);
        threshold.loads[0].set_lifecycle(Lifecycle::Draining);
        assert_eq!(accepting(), [false, true, false, false]);
        // A backend that is only full is needed no less.
        threshold.loads[1].set_full(true);
        assert_eq!(accepting(), [false, false, false, false]);
        threshold.loads[1].record_check(false, 1, 1);
        assert_eq!(accepting(), [false, false, true, true]);
        threshold.loads[2].record_check(false, 1, 1);
        assert_eq!(accepting(), [false, false, false, true]);
        // Without a healthy backup, the health of the others is ignored.
        threshold.loads[1].set_full(false);
        threshold.loads[3].record_check(false, 1, 1);
        assert_eq!(accepting(), [false, true, false, false]);
        threshold.loads[3].record_check(true, 1, 1);
        assert_eq!(accepting(), [false, false, false, true]);
        threshold.loads[1].record_check(true, 1, 1);
        assert_eq!(accepting(), [false, true, false, false]);
        assert!(threshold.loads[3].keeps_sessions());
        threshold.loads[3].set_backup(false);
        assert_eq!(accepting(), [false, true, false, true]);
    }

    #[test]
    fn below_the_minimum_all_backends_serve_and_keep_their_sessions() {
        let threshold = threshold(4, |config| config.healthy_minimum = 50);
        let accepting = || threshold.loads.iter().filter(|load| load.accepts_new()).count();
        for (index, expected) in [(0, 3), (1, 2), (2, 4), (3, 4)] {
            threshold.loads[index].record_check(false, 1, 1);
            threshold.evaluate();
            assert_eq!(accepting(), expected);
        }
        assert!(threshold.loads.iter().all(|load| load.keeps_sessions() && !load.is_up()));
        threshold.loads[3].set_lifecycle(Lifecycle::Draining);
        assert_eq!(accepting(), 3, "health is not ignored for a draining backend");
        threshold.loads[0].record_check(true, 1, 1);
        threshold.loads[1].record_check(true, 1, 1);
        threshold.evaluate();
        assert_eq!(accepting(), 2);
        assert!(!threshold.loads[2].keeps_sessions());
    }
}

//! Who of a pool may be left out: how many backends can be ejected at once, and when so few are healthy
//! that health is ignored.
//!
//! When every check fails, it is more often the one who checks that is in trouble than all who are
//! checked. So ejections stop at a share of the pool, and below a healthy minimum every serving backend
//! is used and keeps its sessions. Loads alone are known here: an old pool must not pin a backend. Nor
//! must it judge those that its successor has: once that is there, nothing changes here any more.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    balance::Selector,
    load::{FULL_SHARE, Lifecycle, Load},
};
use crate::config;

/// The backends of one pool, as those who may or may not be left out.
#[derive(Debug)]
pub(super) struct PanicThreshold {
    /// Name of the pool, for the log.
    pool: Box<str>,
    selector: Arc<Selector>,
    loads: Box<[Arc<Load>]>,
    healthy_minimum: u64,
    outlier: Option<config::Outlier>,
    slow_start: Duration,
    /// Held while somebody is left out or taken back in; whether health is ignored at present.
    overriding: Mutex<bool>,
}

impl PanicThreshold {
    pub(super) fn new(
        config: &config::PoolConfig,
        loads: Vec<Arc<Load>>,
        selector: Arc<Selector>,
    ) -> Self {
        let overriding = Mutex::new(loads.iter().any(|load| load.is_health_ignored()));
        Self {
            pool: config.name.as_str().into(),
            selector,
            loads: loads.into(),
            healthy_minimum: u64::from(config.healthy_minimum),
            outlier: config.outlier.clone(),
            slow_start: config.slow_start,
            overriding,
        }
    }

    /// When a backend is ejected; `None`: never.
    pub(super) fn outlier(&self) -> Option<&config::Outlier> {
        self.outlier.as_ref()
    }

    /// Over how long one grows into its weight.
    pub(super) fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Whether too few healthy ones is a thing here.
    pub(super) fn has_minimum(&self) -> bool {
        self.healthy_minimum > 0
    }

    /// Ejects one, unless that would be one too many or the last that is healthy.
    pub(super) fn eject(&self, index: u32) -> bool {
        if self.selector.is_replaced() {
            return false;
        }
        let mut overriding = self.overriding.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = &self.loads[index as usize];
        let serving = || self.loads.iter().filter(|load| load.lifecycle() == Lifecycle::Serving);
        let others = serving().filter(|load| !Arc::ptr_eq(load, candidate));
        let remains = others.clone().any(|load| load.is_healthy());
        let ejected = others.filter(|load| load.is_ejected()).count();
        if !remains || ejected >= self.most_ejected(serving().count()) {
            return false;
        }
        let news = candidate.set_ejected(true);
        self.weigh(&mut overriding);
        self.selector.state_changed(index);
        news
    }

    /// Looks anew whether health counts; to be called after each change of health.
    pub(super) fn review(&self) {
        if self.selector.is_replaced() {
            return;
        }
        let mut overriding = self.overriding.lock().unwrap_or_else(PoisonError::into_inner);
        self.weigh(&mut overriding);
    }

    /// Sessions for each share of weight, on average over those that are full grown; `None` where there
    /// are none.
    pub(super) fn level(&self) -> Option<f64> {
        let grown =
            self.loads.iter().filter(|load| load.accepts_new() && load.share() == FULL_SHARE);
        let (sessions, shares) = grown.fold((0u64, 0u64), |(sessions, shares), load| {
            (sessions + u64::from(load.sessions()), shares + u64::from(load.effective_weight()))
        });
        (shares > 0).then(|| sessions as f64 / shares as f64)
    }

    fn most_ejected(&self, serving: usize) -> usize {
        let percent = self.outlier.as_ref().map_or(0, |outlier| usize::from(outlier.max_ejected));
        match serving * percent / 100 {
            // A small share of a small pool is less than one, but not meant to be none.
            0 if percent > 0 && serving >= 2 => 1,
            most => most,
        }
    }

    fn weigh(&self, overriding: &mut bool) {
        if self.healthy_minimum == 0 && !*overriding {
            return;
        }
        let serving = self.loads.iter().filter(|load| load.lifecycle() == Lifecycle::Serving);
        let (serving, healthy) = serving.fold((0u64, 0u64), |(serving, healthy), load| {
            (serving + 1, healthy + u64::from(load.is_healthy()))
        });
        let ignore = healthy * 100 < self.healthy_minimum * serving;
        if ignore != *overriding {
            let (pool, what) = (&self.pool, if ignore { "ignored" } else { "respected" });
            tracing::warn!(%pool, healthy, serving, "health is {what}");
        }
        *overriding = ignore;
        for (index, load) in (0..).zip(&self.loads) {
            if load.set_health_ignored(ignore) {
                if ignore {
                    // All have to carry what there is, the fresh ones too.
                    load.set_growth(FULL_SHARE, 0);
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
    fn a_share_of_the_pool_can_be_ejected_and_never_the_last() {
        assert_eq!(ejectable(10, 50), 5);
        assert_eq!(ejectable(10, 19), 1);
        assert_eq!(ejectable(3, 10), 1, "a share below one is one");
        assert_eq!(ejectable(2, 100), 1, "the last stays");
        assert_eq!(ejectable(1, 100), 0);
        assert_eq!(ejectable(10, 0), 0);
    }

    #[test]
    fn the_last_healthy_one_is_not_ejected_while_others_are_down() {
        let threshold = threshold(3, |_| {});
        threshold.loads[0].record_check(false, 1, 1);
        threshold.loads[1].record_check(false, 1, 1);
        assert!(!threshold.eject(2));
        threshold.loads[1].record_check(true, 1, 1);
        assert!(threshold.eject(2));
    }

    #[test]
    fn below_the_minimum_all_serve_and_keep_their_sessions() {
        let threshold = threshold(4, |config| config.healthy_minimum = 50);
        let takers = || threshold.loads.iter().filter(|load| load.accepts_new()).count();
        for (index, expected) in [(0, 3), (1, 2), (2, 4), (3, 4)] {
            threshold.loads[index].record_check(false, 1, 1);
            threshold.review();
            assert_eq!(takers(), expected);
        }
        assert!(threshold.loads.iter().all(|load| load.keeps_sessions() && !load.is_up()));
        threshold.loads[3].set_lifecycle(Lifecycle::Draining);
        assert_eq!(takers(), 3, "who leaves is not brought back");
        threshold.loads[0].record_check(true, 1, 1);
        threshold.loads[1].record_check(true, 1, 1);
        threshold.review();
        assert_eq!(takers(), 2);
        assert!(!threshold.loads[2].keeps_sessions());
    }
}

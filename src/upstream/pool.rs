//! A configuration's view of several backends: how one is chosen, and how often a choice may be
//! tried again.
//!
//! A pool is immutable but for what its selector derives from the backends. A reload makes a new
//! one around the same backends, which moves their seats: from then on the old pool is told nothing
//! more, still picks for those few requests that have it, and its choices grow stale harmlessly.

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

/// A client's address as [`pick`](Pool::pick) takes it: one form for both families, so that an IPv4
/// client is the same over a mapped address.
pub fn source(client: IpAddr) -> [u8; 16] {
    match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Pool {
    /// A pool of these backends, each of which takes its membership here. `config.backends` is not looked
    /// at: whoever reloads knows which backends are kept.
    pub fn new(config: config::PoolConfig, backends: Vec<Arc<Backend>>) -> Arc<Self> {
        let loads = backends.iter().map(|backend| (backend.name(), Arc::clone(backend.load())));
        let selector = Arc::new(Selector::new(config.balance, loads));
        let loads = backends.iter().map(|backend| Arc::clone(backend.load())).collect();
        let threshold = Arc::new(PanicThreshold::new(&config, loads, Arc::clone(&selector)));
        // Where all are new nobody is: a process that starts must not give all of them a tenth.
        let serves = backends.iter().any(|backend| backend.is_in_pool());
        for (index, backend) in (0..).zip(&backends) {
            backend.limit(&config.limits);
            if serves && !backend.is_in_pool() {
                backend.start_slowly();
            }
            let (selector, threshold) = (Arc::clone(&selector), Arc::clone(&threshold));
            backend.join(Membership { selector, threshold, index });
        }
        // What changed before the backends knew of this selector.
        selector.rebuild();
        let budget = Budget::new(Instant::now());
        let pool = Arc::new(Self { config, backends, selector, threshold, budget });
        pool.tick(Instant::now());
        pool
    }

    /// What the pool was made from.
    pub fn config(&self) -> &config::PoolConfig {
        &self.config
    }

    /// Name in the file, and in logs and metrics.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its backends, in configuration order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The backend that should take the next session, by the pool's policy; `None` where every one
    /// that takes new sessions is among `tried`. `source` is the client's address for source-hash,
    /// in whatever bytes always stand for it.
    pub fn pick(&self, source: &[u8], tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        // Empty but for retries, and then not allocated.
        let mut tried: Vec<u32> = tried.iter().filter_map(|backend| self.index(backend)).collect();
        tried.sort_unstable();
        tried.dedup();
        let picked = self.selector.pick(source, &tried);
        let index = match picked {
            Some(index) if self.backends[index as usize].accepts_new() => Some(index),
            // An old pool's choice may have gone down unnoticed.
            _ if self.selector.is_replaced() => self.scan(&tried),
            _ => picked,
        };
        index.map(|index| Arc::clone(&self.backends[index as usize]))
    }

    /// The backend that the next [`pick`](Self::pick) would bring, without taking a turn; `None` where
    /// none takes new sessions, or where it is left to chance.
    pub fn preview(&self, source: &[u8]) -> Option<&Arc<Backend>> {
        let index = self.selector.preview(source)?;
        self.backends.get(index as usize).filter(|backend| backend.accepts_new())
    }

    /// Whether somebody would take a new session, had it a connection to spare.
    pub fn is_full(&self) -> bool {
        self.backends.iter().any(|backend| backend.is_only_full())
    }

    /// Lets in again whose ejection is over, lets grow who is growing, and looks anew whether health
    /// counts. To be called every [`TICK_INTERVAL`](super::TICK_INTERVAL) or so while this is the newest pool.
    pub fn tick(&self, now: Instant) {
        let level = OnceCell::new();
        for backend in &self.backends {
            if backend.tick(&level, now) {
                tracing::info!(pool = self.name(), backend = backend.name(), "let in again");
            }
        }
        self.threshold.review();
    }

    /// Whether the budget allows one more retry, which is then spent.
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
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::Pool;
    use crate::{
        config::{self, Address, Balance, Limits, Outlier, Reuse},
        upstream::{Backend, EjectionReason, Lifecycle, SessionGuard},
    };

    const ALL: [Balance; 4] =
        [Balance::LeastSessions, Balance::RoundRobin, Balance::P2c, Balance::SourceHash];

    fn backend(name: &str, weight: u32) -> config::BackendConfig {
        let address = Address { host: "127.0.0.1".to_owned(), port: 3000 };
        config::BackendConfig { name: name.to_owned(), address, weight }
    }

    fn live(weights: &[u32]) -> Vec<Arc<Backend>> {
        let backends = weights.iter().enumerate();
        backends
            .map(|(i, &weight)| {
                Backend::new("p", &backend(&format!("b{i}"), weight), &Reuse::default())
            })
            .collect()
    }

    fn pool(balance: Balance, backends: &[Arc<Backend>]) -> Arc<Pool> {
        let mut config = config::PoolConfig::new("p", Vec::new());
        config.balance = balance;
        Pool::new(config, backends.to_vec())
    }

    fn fill(pool: &Pool, sessions: usize) -> Vec<SessionGuard> {
        (0..sessions).map(|_| pool.pick(b"", &[]).unwrap().hold()).collect()
    }

    fn sessions(backends: &[Arc<Backend>]) -> Vec<usize> {
        backends.iter().map(|backend| backend.sessions()).collect()
    }

    #[test]
    fn every_policy_skips_what_takes_no_new_session() {
        for balance in ALL {
            let backends = live(&[1, 2, 3, 4]);
            let pool = pool(balance, &backends);
            backends[0].record_check(false, 1, 1);
            backends[2].set_lifecycle(Lifecycle::Draining);
            for source in 0..200u32 {
                let picked = pool.pick(&source.to_le_bytes(), &[]).unwrap();
                assert!(picked.name() == "b1" || picked.name() == "b3", "{balance:?}");
            }
            let tried = [Arc::clone(&backends[1])];
            assert_eq!(pool.pick(b"x", &tried).unwrap().name(), "b3", "{balance:?}");
            let tried = [Arc::clone(&backends[1]), Arc::clone(&backends[3])];
            assert!(pool.pick(b"x", &tried).is_none(), "{balance:?}");
        }
    }

    #[test]
    fn every_policy_has_nobody_where_all_are_down_and_finds_who_comes_back() {
        for balance in ALL {
            let backends = live(&[1, 1, 1]);
            let pool = pool(balance, &backends);
            for backend in &backends {
                backend.record_check(false, 1, 1);
            }
            assert!(pool.pick(b"x", &[]).is_none(), "{balance:?}");
            backends[1].record_check(true, 1, 1);
            assert_eq!(pool.pick(b"x", &[]).unwrap().name(), "b1", "{balance:?}");
        }
    }

    #[test]
    fn one_tried_twice_is_left_out_once() {
        for balance in ALL {
            let backends = live(&[1, 5, 1]);
            let pool = pool(balance, &backends);
            let tried = [1, 0, 1, 1].map(|index: usize| Arc::clone(&backends[index]));
            assert_eq!(pool.pick(b"x", &tried).unwrap().name(), "b2", "{balance:?}");
        }
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        for balance in ALL {
            assert!(pool(balance, &[]).pick(b"x", &[]).is_none(), "{balance:?}");
        }
    }

    #[test]
    fn sessions_spread_exactly_by_weight() {
        let backends = live(&[1, 2, 3]);
        let pool = pool(Balance::LeastSessions, &backends);
        let holds = fill(&pool, 600);
        assert_eq!(sessions(&backends), [100, 200, 300]);
        drop(holds);
        assert_eq!(sessions(&backends), [0, 0, 0]);
    }

    #[test]
    fn a_new_weight_counts_from_the_next_pick() {
        let backends = live(&[1, 1]);
        let pool = pool(Balance::LeastSessions, &backends);
        let _holds = fill(&pool, 100);
        assert_eq!(sessions(&backends), [50, 50]);
        backends[0].set_weight(3);
        let _more = fill(&pool, 100);
        assert_eq!(sessions(&backends), [150, 50]);
    }

    #[test]
    fn sessions_and_health_survive_a_new_pool() {
        for balance in ALL {
            let backends = live(&[1, 1, 1]);
            let old = pool(balance, &backends);
            let _holds: Vec<_> = (0..5).map(|_| backends[0].hold()).collect();
            backends[1].record_check(false, 1, 1);
            let new = pool(balance, &backends);
            let tried = [Arc::clone(&backends[0])];
            assert_eq!(new.pick(b"x", &tried).unwrap().name(), "b2", "{balance:?}");
            assert_eq!(backends[0].sessions(), 5);

            // The old one is told nothing more, and still does not name the dead.
            backends[2].record_check(false, 1, 1);
            for _ in 0..10 {
                assert_eq!(old.pick(b"x", &[]).unwrap().name(), "b0", "{balance:?}");
            }
            assert!(old.pick(b"x", &tried).is_none(), "{balance:?}");
        }
    }

    fn with(backends: &[Arc<Backend>], change: impl FnOnce(&mut config::PoolConfig)) -> Arc<Pool> {
        let mut config = config::PoolConfig::new("p", Vec::new());
        change(&mut config);
        Pool::new(config, backends.to_vec())
    }

    fn slowly(balance: Balance, backends: &[Arc<Backend>]) -> Arc<Pool> {
        with(backends, |config| {
            config.balance = balance;
            config.slow_start = Duration::from_secs(30);
        })
    }

    #[test]
    fn who_comes_back_grows_and_who_starts_with_all_does_not() {
        for balance in ALL {
            let backends = live(&[1, 1]);
            let pool = slowly(balance, &backends);
            assert!(backends.iter().all(|backend| backend.ramp() == 1.0));
            backends[0].record_check(false, 1, 1);
            backends[0].record_check(true, 1, 1);
            let start = Instant::now();
            let mut before = backends[0].ramp();
            assert!((0.05..0.15).contains(&before), "{before}");
            assert_eq!(backends[0].weight(), 1, "as configured");
            for second in 1..30 {
                pool.tick(start + Duration::from_secs(second));
                assert!(backends[0].ramp() > before, "{second}");
                before = backends[0].ramp();
            }
            pool.tick(start + Duration::from_secs(31));
            assert_eq!(backends[0].ramp(), 1.0);
        }
    }

    #[test]
    fn who_is_new_to_a_pool_that_serves_grows() {
        let two = live(&[1, 1]);
        let _old = slowly(Balance::LeastSessions, &two[..1]);
        let _new = slowly(Balance::LeastSessions, &two);
        assert_eq!((two[0].ramp(), two[1].ramp() < 0.2), (1.0, true));
        let all_new = live(&[1, 1]);
        let _replaced = slowly(Balance::LeastSessions, &all_new);
        assert!(all_new.iter().all(|backend| backend.ramp() == 1.0));
    }

    #[test]
    fn a_slow_start_moves_no_address() {
        let backends = live(&[1, 2, 3]);
        let pool = slowly(Balance::SourceHash, &backends);
        let owners = || -> Vec<String> {
            let owner = |n: u32| pool.pick(&n.to_le_bytes(), &[]).unwrap().name().to_owned();
            (0..500).map(owner).collect()
        };
        let before = owners();
        backends[1].record_check(false, 1, 1);
        backends[1].record_check(true, 1, 1);
        for second in [0, 10, 20, 40] {
            pool.tick(Instant::now() + Duration::from_secs(second));
            assert_eq!(owners(), before);
        }
    }

    proptest! {
        /// However many come at one moment, and wherever in its slow start it is: it gets no more than
        /// its share of them, and of the part of what it lacks that it has grown into.
        #[test]
        fn a_herd_is_not_all_sent_to_the_one_that_came_back(
            weights in prop::collection::vec(1..5u32, 2..12),
            each in 0..400usize,
            herd in 1..500usize,
            second in 0..30u64,
        ) {
            let backends = live(&weights);
            let pool = slowly(Balance::LeastSessions, &backends);
            let fresh = &backends[0];
            fresh.record_check(false, 1, 1);
            let _holds = fill(&pool, each * weights.len());
            fresh.record_check(true, 1, 1);
            pool.tick(Instant::now() + Duration::from_secs(second));
            let all: u32 = weights.iter().sum();
            let others = f64::from(all - weights[0]);
            let shares = f64::from(weights[0]) * fresh.ramp();
            let level = (each * weights.len()) as f64 / others;
            let _herd = fill(&pool, herd);
            let grown = (second as f64 + 1.0) / 30.0;
            let fair = herd as f64 * shares / (others + shares);
            let most = fair + level * shares * grown + 2.0;
            prop_assert!(fresh.sessions() as f64 <= most, "{} of {most}", fresh.sessions());
        }

        /// In turn and by draw, one that comes back gets its share of what there is in force.
        #[test]
        fn turns_follow_the_weight_in_force(second in 0..30u64, weight in 1..5u32) {
            let backends = live(&[weight, 3, 3]);
            let pool = slowly(Balance::RoundRobin, &backends);
            backends[0].record_check(false, 1, 1);
            let _away = fill(&pool, 50);
            backends[0].record_check(true, 1, 1);
            pool.tick(Instant::now() + Duration::from_secs(second));
            let shares = f64::from(weight) * backends[0].ramp();
            let _holds = fill(&pool, 2000);
            let expected = 2000.0 * shares / (6.0 + shares);
            let got = backends[0].sessions() as f64;
            prop_assert!((got - expected).abs() < 12.0, "{got} for {expected}");
        }
    }

    #[test]
    fn an_outlier_is_left_out_for_longer_each_time_and_comes_back_slowly() {
        for balance in ALL {
            let backends = live(&[1, 1, 1]);
            let pool = with(&backends, |config| {
                config.balance = balance;
                config.slow_start = Duration::from_secs(10);
                config.outlier = Some(Outlier { consecutive: 3, ..Outlier::default() });
            });
            let bad = &backends[1];
            let notes: Vec<_> = (0..4).map(|_| bad.record_outcome(true)).collect();
            assert_eq!(notes, [None, None, Some(EjectionReason::Consecutive), None]);
            assert!(bad.is_ejected() && bad.keeps_sessions() && bad.is_up());
            for source in 0..100u32 {
                assert_ne!(pool.pick(&source.to_le_bytes(), &[]).unwrap().name(), "b1");
            }
            // Half of three is one: nobody else goes.
            assert!((0..20).all(|_| backends[2].record_outcome(true).is_none()));
            let until = bad.ejected_until().unwrap();
            pool.tick(until - Duration::from_millis(1));
            assert!(bad.is_ejected());
            pool.tick(until);
            assert!(!bad.is_ejected() && bad.accepts_new() && bad.ramp() < 0.2);
            assert!((0..3).any(|_| bad.record_outcome(true).is_some()));
            let left = bad.ejected_until().unwrap().saturating_duration_since(Instant::now());
            assert!(left > Duration::from_secs(55), "{left:?}");
        }
    }

    #[test]
    fn below_the_healthy_minimum_the_whole_pool_serves() {
        for balance in ALL {
            let backends = live(&[1, 1, 1, 1]);
            let pool = with(&backends, |config| {
                config.balance = balance;
                config.healthy_minimum = 50;
                config.slow_start = Duration::from_secs(10);
            });
            let picked = || {
                let picks = (0..400u32).map(|n| pool.pick(&n.to_le_bytes(), &[]).unwrap());
                picks.map(|b| b.name().to_owned()).collect::<std::collections::BTreeSet<_>>().len()
            };
            for (down, expected) in [(0, 3), (1, 2), (2, 4), (3, 4)] {
                backends[down].record_check(false, 1, 1);
                assert_eq!(picked(), expected, "{balance:?}");
            }
            assert!(backends.iter().all(|b| b.keeps_sessions() && !b.is_up() && b.ramp() == 1.0));
            backends[0].record_check(true, 1, 1);
            backends[1].record_check(true, 1, 1);
            assert_eq!(picked(), 2, "{balance:?}");
            // A pool that ignores no health forgets that the one before it did.
            backends[1].record_check(false, 1, 1);
            assert!(backends[2].accepts_new());
            let strict = with(&backends, |config| config.balance = balance);
            assert_eq!(strict.pick(b"x", &[]).unwrap().name(), "b0");
            assert!(!backends[2].accepts_new());
        }
    }

    #[test]
    fn a_backend_that_left_judges_nobody_and_is_judged_by_its_health() {
        let backends = live(&[1, 1, 1, 1]);
        let minimum = |config: &mut config::PoolConfig| {
            config.healthy_minimum = 50;
            config.outlier = Some(Outlier { consecutive: 1, ..Outlier::default() });
        };
        let _old = with(&backends, minimum);
        backends[0].record_check(false, 1, 1);
        let _new = with(&backends[..2], minimum);
        for left in &backends[2..] {
            left.set_lifecycle(Lifecycle::Draining);
            // Three of the old pool's four, and one of the new one's two.
            left.record_check(false, 1, 1);
        }
        assert!(!backends[0].is_health_ignored() && backends[1].accepts_new());
        assert!(
            backends[2..].iter().all(|left| !left.is_health_ignored() && !left.keeps_sessions())
        );
        backends[3].record_check(true, 1, 1);
        assert_eq!((backends[3].record_outcome(true), backends[3].is_ejected()), (None, false));
    }

    #[test]
    fn a_full_backend_is_passed_over_until_a_connection_ends() {
        for balance in ALL {
            let backends = live(&[1, 1]);
            let pool = with(&backends, |config| {
                config.balance = balance;
                config.limits = Limits { connections: Some(1), pending: Some(1) };
            });
            let one = backends[0].connection().unwrap();
            assert!(backends[0].connection().is_none());
            assert_eq!(pool.pick(b"x", &[]).unwrap().name(), "b1", "{balance:?}");
            let other = backends[1].connection().unwrap();
            assert!(pool.pick(b"x", &[]).is_none() && pool.is_full(), "{balance:?}");
            let pending = backends[0].pending().unwrap();
            assert!(backends[0].pending().is_none());
            drop((one, pending));
            assert_eq!(pool.pick(b"x", &[]).unwrap().name(), "b0", "{balance:?}");
            drop(other);
            let unlimited = with(&backends, |config| config.balance = balance);
            let many: Vec<_> = (0..9).map(|_| backends[0].connection().unwrap()).collect();
            assert!(unlimited.pick(b"x", &[]).is_some() && backends[0].accepts_new());
            // What is open counts against a limit that comes later.
            let limits = Limits { connections: Some(5), pending: None };
            let _limited = with(&backends, |config| config.limits = limits);
            assert!(!backends[0].accepts_new() && backends[0].connection().is_none());
            drop(many);
            assert!(backends[0].accepts_new());
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_connection_gets_one_that_ends() {
        let backends = live(&[1]);
        let limits = Limits { connections: Some(2), pending: None };
        let _pool = with(&backends, |config| config.limits = limits);
        let backend = &backends[0];
        for _ in 0..200 {
            let held = [backend.connection().unwrap(), backend.connection().unwrap()];
            let waiters: Vec<_> = (0..4)
                .map(|_| {
                    let backend = Arc::clone(backend);
                    tokio::spawn(async move {
                        let _pending = backend.pending().unwrap();
                        drop(backend.wait_for_connection().await);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            drop(held);
            for waiter in waiters {
                tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
            }
        }
        assert_eq!((backend.connections_in_use(), backend.requests_pending()), (0, 0));
    }

    #[test]
    fn connections_that_come_and_go_at_once_leave_the_state_right() {
        let backends = live(&[1]);
        let limits = Limits { connections: Some(2), pending: None };
        let pool = with(&backends, |config| config.limits = limits);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5000).for_each(|_| drop(backends[0].connection())));
            }
        });
        assert!(backends[0].accepts_new() && pool.pick(b"", &[]).is_some());
    }

    #[test]
    fn the_budget_ends_retries() {
        let pool = pool(Balance::RoundRobin, &live(&[1]));
        let start = Instant::now();
        let allowed = (0..1000).take_while(|_| pool.retry_allowed()).count();
        let seconds = start.elapsed().as_secs() as usize + 1;
        assert!((10..=10 * seconds).contains(&allowed), "{allowed}");
        (0..50).for_each(|_| pool.note_request());
        assert!(pool.retry_allowed());
    }
}

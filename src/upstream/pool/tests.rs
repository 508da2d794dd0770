//! Picks by every policy, slow start, ejections, the panic threshold, and connection limits.

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
    config::BackendConfig { name: name.to_owned(), address, weight, backup: false }
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
fn every_policy_skips_backends_that_accept_no_new_sessions() {
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
fn every_policy_picks_none_if_all_are_down_and_then_the_first_that_recovers() {
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
fn repeated_tried_backends_are_excluded_once() {
    for balance in ALL {
        let backends = live(&[1, 5, 1]);
        let pool = pool(balance, &backends);
        let tried = [1, 0, 1, 1].map(|index: usize| Arc::clone(&backends[index]));
        assert_eq!(pool.pick(b"x", &tried).unwrap().name(), "b2", "{balance:?}");
    }
}

#[test]
fn an_empty_pool_picks_none() {
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
fn a_changed_weight_counts_from_the_next_pick() {
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

        // The old pool is not notified any more, and still does not pick a backend that is down.
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

fn slow_pool(balance: Balance, backends: &[Arc<Backend>]) -> Arc<Pool> {
    with(backends, |config| {
        config.balance = balance;
        config.slow_start = Duration::from_secs(30);
    })
}

#[test]
fn a_recovered_backend_starts_slowly_and_backends_at_process_start_do_not() {
    for balance in ALL {
        let backends = live(&[1, 1]);
        let pool = slow_pool(balance, &backends);
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
fn a_backend_that_is_added_to_a_serving_pool_starts_slowly() {
    let two = live(&[1, 1]);
    let _old = slow_pool(Balance::LeastSessions, &two[..1]);
    let _new = slow_pool(Balance::LeastSessions, &two);
    assert_eq!((two[0].ramp(), two[1].ramp() < 0.2), (1.0, true));
    let all_new = live(&[1, 1]);
    let _replaced = slow_pool(Balance::LeastSessions, &all_new);
    assert!(all_new.iter().all(|backend| backend.ramp() == 1.0));
}

#[test]
fn slow_start_does_not_change_source_hash_owners() {
    let backends = live(&[1, 2, 3]);
    let pool = slow_pool(Balance::SourceHash, &backends);
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
    /// At each point of slow start, a burst brings the backend at most its share of the burst, plus the
    /// part of its missing sessions that slow start allows by then.
    #[test]
    fn a_burst_is_not_sent_to_the_recovered_backend_alone(
        weights in prop::collection::vec(1..5u32, 2..12),
        each in 0..400usize,
        burst in 1..500usize,
        second in 0..30u64,
    ) {
        let backends = live(&weights);
        let pool = slow_pool(Balance::LeastSessions, &backends);
        let fresh = &backends[0];
        fresh.record_check(false, 1, 1);
        let _holds = fill(&pool, each * weights.len());
        fresh.record_check(true, 1, 1);
        pool.tick(Instant::now() + Duration::from_secs(second));
        let all: u32 = weights.iter().sum();
        let others = f64::from(all - weights[0]);
        let shares = f64::from(weights[0]) * fresh.ramp();
        let level = (each * weights.len()) as f64 / others;
        let _burst = fill(&pool, burst);
        let grown = (second as f64 + 1.0) / 30.0;
        let fair = burst as f64 * shares / (others + shares);
        let most = fair + level * shares * grown + 2.0;
        prop_assert!(fresh.sessions() as f64 <= most, "{} of {most}", fresh.sessions());
    }

    /// With round-robin, a recovered backend gets the share of its effective weight.
    #[test]
    fn round_robin_follows_the_effective_weight(second in 0..30u64, weight in 1..5u32) {
        let backends = live(&[weight, 3, 3]);
        let pool = slow_pool(Balance::RoundRobin, &backends);
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
fn an_outlier_is_ejected_for_longer_each_time_and_returns_with_slow_start() {
    for balance in ALL {
        let backends = live(&[1, 1, 1]);
        let pool = with(&backends, |config| {
            config.balance = balance;
            config.slow_start = Duration::from_secs(10);
            config.outlier = Some(Outlier { consecutive: 3, ..Outlier::default() });
        });
        let bad = &backends[1];
        let outcomes: Vec<_> = (0..4).map(|_| bad.record_outcome(true)).collect();
        assert_eq!(outcomes, [None, None, Some(EjectionReason::Consecutive), None]);
        assert!(bad.is_ejected() && bad.keeps_sessions() && bad.is_up());
        for source in 0..100u32 {
            assert_ne!(pool.pick(&source.to_le_bytes(), &[]).unwrap().name(), "b1");
        }
        // Half of three is one: no other backend is ejected.
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
        // A pool without a minimum takes health into account, also if the pool before it ignored health.
        backends[1].record_check(false, 1, 1);
        assert!(backends[2].accepts_new());
        let strict = with(&backends, |config| config.balance = balance);
        assert_eq!(strict.pick(b"x", &[]).unwrap().name(), "b0");
        assert!(!backends[2].accepts_new());
    }
}

#[test]
fn a_removed_backend_does_not_affect_the_threshold_and_its_own_health_counts() {
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
        // Three of the four backends of the old pool are down, and one of the two of the new pool.
        left.record_check(false, 1, 1);
    }
    assert!(!backends[0].is_health_ignored() && backends[1].accepts_new());
    assert!(backends[2..].iter().all(|left| !left.is_health_ignored() && !left.keeps_sessions()));
    backends[3].record_check(true, 1, 1);
    assert_eq!((backends[3].record_outcome(true), backends[3].is_ejected()), (None, false));
}

#[test]
fn a_full_backend_is_skipped_until_a_connection_ends() {
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
        // Open connections count against a limit that is set later.
        let limits = Limits { connections: Some(5), pending: None };
        let _limited = with(&backends, |config| config.limits = limits);
        assert!(!backends[0].accepts_new() && backends[0].connection().is_none());
        drop(many);
        assert!(backends[0].accepts_new());
    }
}

#[tokio::test]
async fn waiting_requests_get_connections_when_others_end() {
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
fn concurrent_connections_leave_the_state_correct() {
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
fn the_budget_limits_retries() {
    let pool = pool(Balance::RoundRobin, &live(&[1]));
    let start = Instant::now();
    let allowed = (0..1000).take_while(|_| pool.retry_allowed()).count();
    let seconds = start.elapsed().as_secs() as usize + 1;
    assert!((10..=10 * seconds).contains(&allowed), "{allowed}");
    (0..50).for_each(|_| pool.note_request());
    assert!(pool.retry_allowed());
}

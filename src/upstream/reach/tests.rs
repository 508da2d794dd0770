//! Which backends are tried, the retry budget, admission, and the failure that is reported.

use std::{
    future::{pending, ready},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::{
    config::{self, Address, Admission, Balance, Limits, Rate, Reuse},
    upstream::Lifecycle,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn pool(count: usize, change: impl FnOnce(&mut config::PoolConfig)) -> Arc<Pool> {
    let backends = (0..count).map(|n| {
        let address = Address { host: "127.0.0.1".to_owned(), port: 3000 };
        let config =
            config::BackendConfig { name: format!("b{n}"), address, weight: 1, backup: false };
        Backend::new("p", &config, &Reuse::default())
    });
    let mut config = config::PoolConfig::new("p", Vec::new());
    config.balance = Balance::RoundRobin;
    change(&mut config);
    Pool::new(config, backends.collect())
}

fn refused() -> ProxyError {
    ProxyError::new(Side::Backend, Phase::Connect, FailureKind::Refused)
}

fn admission(times: u32) -> Option<Admission> {
    let rate = Rate { times, per: Duration::from_secs(1) };
    Some(Admission { rate, queue: 100, deadline: Duration::from_millis(500) })
}

#[test]
fn each_backend_is_tried_once_and_three_at_most() {
    let pool = pool(5, |_| {});
    let mut plan = RetryPlan::any(WhenFull::Skip);
    let mut tried = Vec::new();
    let error = loop {
        let backend = plan.next(&pool, CLIENT).unwrap();
        tried.push(backend.name().to_owned());
        if let Err(error) = plan.record_failure(&pool, backend, refused()) {
            break error;
        }
    };
    assert_eq!(error.kind, FailureKind::Refused);
    tried.sort();
    tried.dedup();
    assert_eq!(tried.len(), 3, "{tried:?}");
}

#[test]
fn a_planned_backend_comes_first_and_can_be_used_again() {
    let pool = pool(2, |_| {});
    let preferred = &pool.backends()[1];
    preferred.set_lifecycle(Lifecycle::Draining);
    let mut plan = RetryPlan::to(Arc::clone(preferred), WhenFull::Skip);
    for _ in 0..5 {
        assert!(!plan.is_balanced());
        let backend = plan.next(&pool, CLIENT).unwrap();
        assert_eq!(backend.name(), "b1");
        plan.again(backend);
    }
    let backend = plan.next(&pool, CLIENT).unwrap();
    plan.record_failure(&pool, backend, refused()).unwrap();
    assert!(plan.is_balanced());
    assert_eq!(plan.next(&pool, CLIENT).unwrap().name(), "b0");
}

#[test]
fn a_full_backend_counts_as_another_only_for_callers_that_wait() {
    let pool = pool(2, |config| config.limits = Limits { connections: Some(1), pending: Some(9) });
    let _in_use = pool.backends()[1].connection().unwrap();
    for (when_full, tried) in [(WhenFull::Skip, false), (WhenFull::Wait, true)] {
        let mut plan = RetryPlan::any(when_full);
        let first = plan.next(&pool, CLIENT).unwrap();
        assert_eq!(plan.record_failure(&pool, first, refused()).is_ok(), tried, "{when_full:?}");
    }
}

#[test]
fn no_retry_is_taken_from_the_budget_without_another_backend() {
    let pool = pool(2, |_| {});
    pool.backends()[1].set_lifecycle(Lifecycle::Draining);
    // More than the budget has.
    for _ in 0..1000 {
        let mut plan = RetryPlan::any(WhenFull::Skip);
        let backend = plan.next(&pool, CLIENT).unwrap();
        assert!(plan.record_failure(&pool, backend, refused()).is_err());
    }
    assert!(pool.retry_allowed());
}

#[tokio::test]
async fn a_backend_admits_a_session_once() {
    let pool = pool(1, |config| config.admission = admission(10));
    let backend = &pool.backends()[0];
    let mut plan = RetryPlan::any(WhenFull::Skip);
    for _ in 0..100 {
        let admitted = plan.admit(&pool, backend, || panic!("queued"), pending()).await;
        assert_eq!(admitted, AdmissionWait::Admitted);
    }
}

#[tokio::test]
async fn a_wait_for_admission_ends_by_its_turn_or_by_the_caller() {
    let pool = pool(1, |config| config.admission = admission(20));
    let backend = &pool.backends()[0];
    while let AdmissionOutcome::Admitted =
        backend.admit(pool.config().admission.as_ref().unwrap(), Instant::now())
    {}
    let mut waits = 0;
    let mut plan = RetryPlan::any(WhenFull::Skip);
    let cancelled = plan.admit(&pool, backend, || waits += 1, ready(())).await;
    assert_eq!(cancelled, AdmissionWait::Cancelled);
    let admitted = plan.admit(&pool, backend, || waits += 1, pending()).await;
    assert_eq!((admitted, waits), (AdmissionWait::Admitted, 2));
}

#[tokio::test]
async fn only_a_caller_with_a_connection_waits_for_its_turn_at_a_full_backend() {
    let pool = pool(1, |config| {
        config.admission = admission(20);
        config.limits = Limits { connections: Some(1), pending: Some(9) };
    });
    let backend = &pool.backends()[0];
    let _in_use = backend.connection().unwrap();
    while let AdmissionOutcome::Admitted =
        backend.admit(pool.config().admission.as_ref().unwrap(), Instant::now())
    {}
    let outcomes =
        [(WhenFull::Skip, AdmissionWait::PickAnother), (WhenFull::Wait, AdmissionWait::Admitted)];
    for (when_full, expected) in outcomes {
        let mut plan = RetryPlan::any(when_full);
        assert_eq!(plan.admit(&pool, backend, || {}, pending()).await, expected, "{when_full:?}");
    }
}

#[tokio::test]
async fn a_rejected_admission_is_reported_before_the_last_failure() {
    let pool = pool(3, |config| {
        config.admission = admission(1);
    });
    let mut plan = RetryPlan::any(WhenFull::Skip);
    let rejecting = plan.next(&pool, CLIENT).unwrap();
    // The burst is one session; the next slot is after the deadline.
    let _ = rejecting.admit(pool.config().admission.as_ref().unwrap(), Instant::now());
    let rejected = plan.admit(&pool, &rejecting, || {}, pending()).await;
    assert_eq!(rejected, AdmissionWait::PickAnother);
    let failing = plan.next(&pool, CLIENT).unwrap();
    assert_ne!(failing.serial(), rejecting.serial());
    plan.record_failure(&pool, failing, refused()).unwrap();
    let last = plan.next(&pool, CLIENT).unwrap();
    let error = plan.record_failure(&pool, last, refused()).unwrap_err();
    assert_eq!(error.kind, FailureKind::NotAdmitted);
    assert!(error.retry_after.is_some());
    assert_eq!(plan.no_backend_left(&pool).kind, FailureKind::NotAdmitted);
}

#[test]
fn the_reason_of_a_pool_without_a_backend_is_reported() {
    let pool = pool(1, |config| config.limits = Limits { connections: Some(1), pending: Some(9) });
    let backend = &pool.backends()[0];
    let kind = || RetryPlan::any(WhenFull::Skip).no_backend_left(&pool).kind;
    let in_use = backend.connection().unwrap();
    assert_eq!(kind(), FailureKind::Saturated);
    drop(in_use);
    backend.set_lifecycle(Lifecycle::Draining);
    assert_eq!(kind(), FailureKind::NoBackend);
    backend.set_loop(true);
    assert_eq!(kind(), FailureKind::Loop);
}

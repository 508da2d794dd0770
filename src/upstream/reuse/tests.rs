//! Taking, keeping and limiting idle connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::Context,
    time::{Duration, Instant},
};

use super::{ANY_AGE, Acquired, IdlePool, Permit, Reusable};
use crate::config::Reuse;

const LONG: Duration = Duration::from_secs(3600);

/// A connection that counts its drops and can be closed by the test.
struct Conn {
    id: usize,
    open: Arc<AtomicBool>,
    drops: Arc<AtomicUsize>,
    _permit: Option<Permit>,
}

impl Reusable for Conn {
    fn is_open(&mut self, _: &mut Context<'_>) -> bool {
        self.open.load(SeqCst)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

struct Other;

impl Reusable for Other {
    fn is_open(&mut self, _: &mut Context<'_>) -> bool {
        true
    }
}

#[derive(Default)]
struct Peer(Arc<AtomicUsize>);

impl Peer {
    fn connect(&self, id: usize) -> (Box<Conn>, Arc<AtomicBool>) {
        let open = Arc::new(AtomicBool::new(true));
        let (flag, drops) = (Arc::clone(&open), Arc::clone(&self.0));
        (Box::new(Conn { id, open: flag, drops, _permit: None }), open)
    }

    fn put(&self, idle: &IdlePool, id: usize) -> Arc<AtomicBool> {
        let (connection, open) = self.connect(id);
        idle.put(connection, LONG);
        open
    }

    fn drops(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn idle(max_idle: usize, max_total: Option<usize>) -> IdlePool {
    IdlePool::new(&Reuse { max_idle, max_total, idle_timeout: LONG })
}

fn take(idle: &IdlePool) -> Option<usize> {
    idle.take::<Conn>(ANY_AGE).map(|connection| connection.id)
}

#[test]
fn the_connection_that_was_used_last_is_taken_first() {
    let (idle, peer) = (idle(8, None), Peer::default());
    for id in 0..3 {
        peer.put(&idle, id);
    }
    assert_eq!(
        [take(&idle), take(&idle), take(&idle), take(&idle)],
        [Some(2), Some(1), Some(0), None]
    );
}

#[test]
fn a_full_pool_drops_the_oldest_connection() {
    let (idle, peer) = (idle(2, None), Peer::default());
    for id in 0..3 {
        peer.put(&idle, id);
    }
    assert_eq!((idle.len(), peer.drops()), (2, 1));
    assert_eq!([take(&idle), take(&idle), take(&idle)], [Some(2), Some(1), None]);
}

#[test]
fn a_maximum_of_zero_keeps_no_connection() {
    let (idle, peer) = (idle(0, None), Peer::default());
    peer.put(&idle, 0);
    assert_eq!((idle.len(), peer.drops()), (0, 1));
}

#[test]
fn closed_connections_are_skipped_and_dropped() {
    let (idle, peer) = (idle(8, None), Peer::default());
    peer.put(&idle, 0);
    for id in 1..3 {
        peer.put(&idle, id).store(false, SeqCst);
    }
    assert_eq!(take(&idle), Some(0));
    assert_eq!((idle.len(), peer.drops()), (0, 3));
}

#[test]
fn expired_connections_are_dropped_by_take_and_sweep() {
    let (idle, peer) = (idle(8, None), Peer::default());
    idle.put(peer.connect(0).0, Duration::ZERO);
    assert_eq!(take(&idle), None);
    assert_eq!(peer.drops(), 1);

    let now = Instant::now();
    idle.put(peer.connect(1).0, Duration::from_secs(60));
    peer.put(&idle, 2);
    idle.sweep(now);
    assert_eq!(idle.len(), 2);
    idle.sweep(now + Duration::from_secs(120));
    assert_eq!((idle.len(), peer.drops()), (1, 2));
    idle.sweep(now + 2 * LONG);
    assert_eq!((idle.len(), peer.drops()), (0, 3));
}

#[test]
fn the_idle_timeout_applies_if_the_peer_allows_more() {
    let limits = Reuse { max_idle: 8, max_total: None, idle_timeout: Duration::from_secs(4) };
    let (idle, peer) = (IdlePool::new(&limits), Peer::default());
    peer.put(&idle, 0);
    idle.sweep(Instant::now() + Duration::from_secs(5));
    assert!(idle.is_empty());
}

#[test]
fn take_returns_connections_of_the_requested_type() {
    let (idle, peer) = (idle(8, None), Peer::default());
    peer.put(&idle, 0);
    idle.put(Box::new(Other), LONG);
    assert_eq!(take(&idle), Some(0));
    assert_eq!(take(&idle), None);
    assert!(idle.take::<Other>(ANY_AGE).is_some());
}

#[test]
fn a_closed_pool_keeps_no_connection() {
    let (idle, peer) = (idle(8, None), Peer::default());
    peer.put(&idle, 0);
    idle.set_open(|| false);
    assert_eq!((idle.len(), peer.drops()), (0, 1));
    peer.put(&idle, 1);
    assert_eq!((idle.len(), peer.drops()), (0, 2));
    idle.set_open(|| true);
    peer.put(&idle, 2);
    assert_eq!(idle.len(), 1);
    idle.clear();
    assert_eq!((idle.len(), peer.drops()), (0, 3));
}

#[test]
fn smaller_limits_apply_immediately() {
    let (idle, peer) = (idle(8, None), Peer::default());
    for id in 0..8 {
        peer.put(&idle, id);
    }
    idle.limit(&Reuse { max_idle: 3, max_total: None, idle_timeout: LONG });
    assert_eq!((idle.len(), peer.drops()), (3, 5));
    assert_eq!(take(&idle), Some(7));
}

#[test]
fn the_pool_works_after_a_panic_with_the_lock_held() {
    struct Bad;
    impl Reusable for Bad {
        fn is_open(&mut self, _: &mut Context<'_>) -> bool {
            panic!("a broken connection");
        }
    }
    let (idle, peer) = (idle(8, None), Peer::default());
    idle.put(Box::new(Bad), LONG);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(&idle)));
    assert!(result.is_err());
    peer.put(&idle, 1);
    assert_eq!(take(&idle), Some(1));
}

#[tokio::test]
async fn the_total_is_limited_and_dropping_a_permit_frees_it() {
    let idle = Arc::new(idle(8, Some(2)));
    let (first, _second) = (idle.permit().await, idle.permit().await);
    let waiting = tokio::spawn({
        let idle = Arc::clone(&idle);
        async move { idle.permit().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);
    let _first = waiting.await.unwrap();
}

#[tokio::test]
async fn without_a_limit_permits_never_wait() {
    let idle = idle(8, None);
    let permits: Vec<Permit> = {
        let mut permits = Vec::new();
        for _ in 0..10_000 {
            permits.push(idle.permit().await);
        }
        permits
    };
    assert_eq!(permits.len(), 10_000);
}

#[tokio::test]
async fn a_request_that_waits_for_a_permit_gets_a_returned_connection() {
    let (idle, peer) = (Arc::new(idle(8, Some(1))), Peer::default());
    let Acquired::Permit(permit) = idle.acquire::<Conn>(ANY_AGE).await else {
        panic!("no connection is idle")
    };
    let waiting = tokio::spawn({
        let idle = Arc::clone(&idle);
        async move { idle.acquire::<Conn>(ANY_AGE).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());

    let (mut connection, _) = peer.connect(7);
    connection._permit = Some(permit);
    idle.put(connection, LONG);
    let Acquired::Idle(connection) = waiting.await.unwrap() else { panic!("a connection is idle") };
    assert_eq!(connection.id, 7);

    drop(connection);
    assert!(matches!(idle.acquire::<Conn>(ANY_AGE).await, Acquired::Permit(_)));
}

#[tokio::test]
async fn a_raised_limit_applies_to_the_next_permit() {
    let idle = idle(8, Some(1));
    let _one = idle.permit().await;
    idle.limit(&Reuse { max_idle: 8, max_total: Some(2), idle_timeout: LONG });
    let _two = idle.permit().await;
    idle.limit(&Reuse { max_idle: 8, max_total: None, idle_timeout: LONG });
    let _three = idle.permit().await;
}

#[test]
fn take_returns_no_connection_that_is_too_old() {
    let (idle, peer) = (idle(8, None), Peer::default());
    peer.put(&idle, 0);
    assert!(idle.take::<Conn>(Duration::ZERO).is_none());
    assert!(idle.take::<Conn>(LONG).is_some());
}

#[tokio::test]
async fn an_idle_connection_that_is_too_old_is_closed_to_make_room() {
    let (idle, peer) = (idle(8, Some(1)), Peer::default());
    let Acquired::Permit(permit) = idle.acquire::<Conn>(ANY_AGE).await else {
        panic!("no connection is idle")
    };
    let (mut connection, _) = peer.connect(7);
    connection._permit = Some(permit);
    idle.put(connection, LONG);
    assert!(matches!(idle.acquire::<Conn>(Duration::ZERO).await, Acquired::Permit(_)));
    assert_eq!(peer.drops(), 1);
}

#[test]
fn the_observed_timeout_limits_how_long_connections_are_kept() {
    let (idle, peer) = (idle(8, None), Peer::default());
    for _ in 0..2 {
        idle.closed_after(Duration::from_secs(8));
    }
    peer.put(&idle, 0);
    idle.sweep(Instant::now() + Duration::from_secs(5));
    assert_eq!(idle.len(), 1);
    idle.sweep(Instant::now() + Duration::from_secs(7));
    assert_eq!(idle.len(), 0);
    // The next process of the backend may have another timeout.
    idle.set_open(|| false);
    idle.set_open(|| true);
    peer.put(&idle, 1);
    idle.sweep(Instant::now() + Duration::from_secs(7));
    assert_eq!(idle.len(), 1);
}

//! Limits of one backend: connections in use, and requests that wait for a connection.
//!
//! A connection is in use from the request for it until the end of the response or of its tunnel. Idle
//! connections are in [`reuse`](super::reuse), which makes room when a new connection is opened. Health
//! probes are not counted. If all connections are in use, a request goes to another backend. A request
//! that needs this backend waits, first come, first served: a free connection goes to the request that
//! has waited longest, and to no other.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{self, SeqCst},
    fence,
};

use tokio::sync::Semaphore;

use crate::config;

/// Limit that is never reached. Half of the maximum, because `max` and `excess` may add up.
const UNLIMITED: usize = Semaphore::MAX_PERMITS / 2;

/// The connections of one backend.
#[derive(Debug)]
pub(super) struct Connections {
    in_use: AtomicUsize,
    max: AtomicUsize,
    /// One permit for each further connection. The semaphore is fair: while a request waits, no other
    /// request gets a permit.
    free: Semaphore,
    /// Connections in use above a limit that was lowered: when they end, they free no permit.
    excess: AtomicUsize,
    pending: AtomicUsize,
    max_pending: AtomicUsize,
}

impl Connections {
    /// Creates a counter without connections and without limits.
    pub(super) fn new() -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            max: AtomicUsize::new(UNLIMITED),
            free: Semaphore::new(UNLIMITED),
            excess: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            max_pending: AtomicUsize::new(usize::MAX),
        }
    }

    /// Changes the limits. Connections in use count against them.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.max_pending.store(limits.pending.unwrap_or(usize::MAX), SeqCst);
        let max = limits.connections.unwrap_or(UNLIMITED).min(UNLIMITED);
        let before = self.max.swap(max, SeqCst);
        if max > before {
            self.release(max - before);
        } else {
            self.excess.fetch_add(before - max, SeqCst);
            self.take_back();
        }
    }

    /// Counts one more connection. Returns whether the limit allows it and no request waits.
    pub(super) fn add(&self) -> bool {
        let Ok(permit) = self.free.try_acquire() else { return false };
        permit.forget();
        self.in_use.fetch_add(1, SeqCst);
        true
    }

    pub(super) fn remove(&self) {
        self.in_use.fetch_sub(1, SeqCst);
        self.release(1);
    }

    /// Waits for a free connection, after all requests that came before, and counts it. The caller must
    /// be counted as pending.
    pub(super) async fn wait(&self) {
        // An error is impossible: the semaphore is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        self.in_use.fetch_add(1, SeqCst);
    }

    /// Counts one more waiting request. Returns whether the limit allows it.
    pub(super) fn add_pending(&self) -> bool {
        let max = self.max_pending.load(SeqCst);
        let more = |pending: usize| (pending < max).then(|| pending + 1);
        self.pending.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    pub(super) fn remove_pending(&self) {
        self.pending.fetch_sub(1, SeqCst);
    }

    /// Whether a new request would have to wait.
    pub(super) fn is_full(&self) -> bool {
        // Permits are not sequentially consistent, but `Backend::update_full` needs one order of permits
        // and state.
        fence(Ordering::SeqCst);
        self.free.available_permits() == 0
    }

    /// How many idle connections the limit allows besides those in use; `None` if unlimited.
    pub(super) fn room(&self) -> Option<usize> {
        let max = self.max.load(SeqCst);
        (max != UNLIMITED).then(|| max.saturating_sub(self.in_use.load(SeqCst)))
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(SeqCst)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// Gives permits back, except for connections above the limit.
    fn release(&self, permits: usize) {
        let mut rest = permits;
        let settled = self.excess.fetch_update(SeqCst, SeqCst, |excess| {
            rest = permits.saturating_sub(excess);
            (excess > 0).then(|| excess.saturating_sub(permits))
        });
        if settled.is_err() {
            rest = permits;
        }
        self.free.add_permits(rest);
        // The limit may have been lowered between the two steps.
        self.take_back();
    }

    /// Withdraws free permits for connections above the limit.
    fn take_back(&self) {
        while self.excess.load(SeqCst) > 0 && !self.is_full() {
            let excess = self.excess.swap(0, SeqCst);
            let taken = self.free.forget_permits(excess);
            self.excess.fetch_add(excess - taken, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn limited(max: Option<usize>, connections: &Connections) {
        connections.limit(&config::Limits { connections: max, pending: None });
    }

    #[test]
    fn waiting_requests_are_served_in_order() {
        let connections = Connections::new();
        limited(Some(1), &connections);
        assert!(connections.add());
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(connections.wait()), pin!(connections.wait()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        for (waiter, left) in [(&mut first, true), (&mut second, false)] {
            connections.remove();
            assert!(connections.is_full() && !connections.add(), "assigned to the waiting request");
            assert_eq!(waiter.as_mut().poll(&mut context), Poll::Ready(()), "others wait: {left}");
        }
        connections.remove();
        assert!(!connections.is_full() && connections.in_use() == 0);
    }

    #[test]
    fn a_connection_assigned_to_a_cancelled_request_is_free_again() {
        let connections = Connections::new();
        limited(Some(1), &connections);
        assert!(connections.add());
        {
            let mut waiter = pin!(connections.wait());
            let mut context = Context::from_waker(Waker::noop());
            assert!(waiter.as_mut().poll(&mut context).is_pending());
            connections.remove();
            assert!(connections.is_full());
        }
        assert!(!connections.is_full() && connections.add());
    }

    #[test]
    fn limits_change_while_connections_are_in_use() {
        let connections = Connections::new();
        assert!((0..9).all(|_| connections.add()));
        for (max, more) in [(Some(5), 0), (Some(7), 0), (Some(10), 1), (Some(3), 0), (None, 1)] {
            limited(max, &connections);
            assert_eq!(usize::from(connections.add()), more, "{max:?}");
            assert_eq!(connections.is_full(), max.is_some(), "{max:?}");
        }
        limited(Some(3), &connections);
        for left in (0..11).rev() {
            connections.remove();
            assert_eq!(connections.is_full(), left >= 3, "{left}");
        }
        assert!((0..3).all(|_| connections.add()) && !connections.add());
    }

    #[test]
    fn a_limit_holds_after_concurrent_changes() {
        let connections = Connections::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    (0..20_000).filter(|_| connections.add()).for_each(|_| connections.remove());
                });
            }
            for n in 0..2_000 {
                limited([Some(1), Some(4), None, Some(2)][n % 4], &connections);
            }
        });
        limited(Some(3), &connections);
        assert!((0..3).all(|_| connections.add()) && !connections.add());
    }
}

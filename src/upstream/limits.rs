//! Connections to one backend that are in use, how many may be, and how many requests may wait for one.
//!
//! In use is a connection from the moment a request asks for it until the response is over, or the
//! tunnel that it became; idle ones are with [`reuse`](super::reuse), which has to make room where a new
//! one is opened. Probes are not counted. Whoever can go elsewhere does so where all are in use; who
//! cannot waits, and is served in order of coming: one that is freed goes to who waits longest, and
//! nobody else sees it.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{self, SeqCst},
    fence,
};

use tokio::sync::Semaphore;

use crate::config;

/// As good as no limit: half of what there can be, as a limit and what is above it are permits at once.
const ANY_NUMBER: usize = Semaphore::MAX_PERMITS / 2;

/// The connections of one backend.
#[derive(Debug)]
pub(super) struct Connections {
    in_use: AtomicUsize,
    most: AtomicUsize,
    /// One for each that may still come. It is fair, and none is to be had while anybody waits.
    free: Semaphore,
    /// How many of those in use are to end without leaving a permit: they are above a limit that came
    /// after them.
    above: AtomicUsize,
    pending: AtomicUsize,
    most_pending: AtomicUsize,
}

impl Connections {
    /// None, and no limits.
    pub(super) fn new() -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            most: AtomicUsize::new(ANY_NUMBER),
            free: Semaphore::new(ANY_NUMBER),
            above: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            most_pending: AtomicUsize::new(usize::MAX),
        }
    }

    /// Takes other limits; what is in use counts against them from now on.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.most_pending.store(limits.pending.unwrap_or(usize::MAX), SeqCst);
        let most = limits.connections.unwrap_or(ANY_NUMBER).min(ANY_NUMBER);
        let before = self.most.swap(most, SeqCst);
        if most > before {
            self.release(most - before);
        } else {
            self.above.fetch_add(before - most, SeqCst);
            self.take_back();
        }
    }

    /// Counts one more, if there may be and nobody waits for it.
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

    /// Counts one more once there may be, after all who came before. To be called by who is counted as
    /// pending.
    pub(super) async fn added(&self) {
        // It is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        self.in_use.fetch_add(1, SeqCst);
    }

    /// Counts one more that waits, if there may be.
    pub(super) fn add_pending(&self) -> bool {
        let most = self.most_pending.load(SeqCst);
        let more = |pending: usize| (pending < most).then(|| pending + 1);
        self.pending.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    pub(super) fn remove_pending(&self) {
        self.pending.fetch_sub(1, SeqCst);
    }

    /// Whether one that comes now would have to wait.
    pub(super) fn is_full(&self) -> bool {
        // Permits are not sequentially consistent, and who changes the state that others read rests on
        // one order of both.
        fence(Ordering::SeqCst);
        self.free.available_permits() == 0
    }

    /// How many idle ones there may be beside those in use; `None`: any number.
    pub(super) fn room(&self) -> Option<usize> {
        let most = self.most.load(SeqCst);
        (most != ANY_NUMBER).then(|| most.saturating_sub(self.in_use.load(SeqCst)))
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(SeqCst)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// Gives so many permits back, less those that are above the limit.
    fn release(&self, permits: usize) {
        let mut rest = permits;
        let paid = self.above.fetch_update(SeqCst, SeqCst, |above| {
            rest = permits.saturating_sub(above);
            (above > 0).then(|| above.saturating_sub(permits))
        });
        if paid.is_err() {
            rest = permits;
        }
        self.free.add_permits(rest);
        // A lower limit may have come between the two.
        self.take_back();
    }

    /// Takes permits that nobody has for those above the limit.
    fn take_back(&self) {
        while self.above.load(SeqCst) > 0 && !self.is_full() {
            let above = self.above.swap(0, SeqCst);
            let taken = self.free.forget_permits(above);
            self.above.fetch_add(above - taken, SeqCst);
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

    fn limited(most: Option<usize>, connections: &Connections) {
        connections.limit(&config::Limits { connections: most, pending: None });
    }

    #[test]
    fn who_waits_is_served_in_order_and_not_overtaken() {
        let connections = Connections::new();
        limited(Some(1), &connections);
        assert!(connections.add());
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(connections.added()), pin!(connections.added()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        for (waiter, left) in [(&mut first, true), (&mut second, false)] {
            connections.remove();
            assert!(connections.is_full() && !connections.add(), "it is somebody's already");
            assert_eq!(waiter.as_mut().poll(&mut context), Poll::Ready(()), "others wait: {left}");
        }
        connections.remove();
        assert!(!connections.is_full() && connections.in_use() == 0);
    }

    #[test]
    fn what_a_waiter_was_given_and_left_is_free_again() {
        let connections = Connections::new();
        limited(Some(1), &connections);
        assert!(connections.add());
        {
            let mut waiter = pin!(connections.added());
            let mut context = Context::from_waker(Waker::noop());
            assert!(waiter.as_mut().poll(&mut context).is_pending());
            connections.remove();
            assert!(connections.is_full());
        }
        assert!(!connections.is_full() && connections.add());
    }

    #[test]
    fn limits_come_and_go_under_connections_in_use() {
        let connections = Connections::new();
        assert!((0..9).all(|_| connections.add()));
        for (most, more) in [(Some(5), 0), (Some(7), 0), (Some(10), 1), (Some(3), 0), (None, 1)] {
            limited(most, &connections);
            assert_eq!(usize::from(connections.add()), more, "{most:?}");
            assert_eq!(connections.is_full(), most.is_some(), "{most:?}");
        }
        limited(Some(3), &connections);
        for left in (0..11).rev() {
            connections.remove();
            assert_eq!(connections.is_full(), left >= 3, "{left}");
        }
        assert!((0..3).all(|_| connections.add()) && !connections.add());
    }

    #[test]
    fn a_limit_holds_after_all_that_happened_at_once() {
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

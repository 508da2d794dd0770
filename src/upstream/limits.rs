//! Limits of one backend: connections in use, and requests that wait for a connection.
//!
//! A connection is in use from the request for it until the end of the response or of its tunnel. Idle
//! connections are in [`reuse`](super::reuse), which makes room when a new connection is opened. Health
//! probes are not counted. If all connections are in use, a request goes to another backend. A request
//! that needs this backend waits, first come, first served: a free connection goes to the request that
//! has waited longest, and to no other.
//!
//! Most backends have no limit; counting is then one atomic addition. One word holds the count and the
//! generation of the limit, so that each change of the count sees whether a limit applies to it. A limit
//! has its own semaphore, which begins with what the count leaves free when the limit begins.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{self, SeqCst},
        fence,
    },
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::config;

/// One connection in [`Connections::state`].
const ONE: u64 = 1 << 32;

/// The connections of one backend.
#[derive(Debug)]
pub(super) struct Connections {
    /// Bits 32–63: connections in use. Bits 0–31: generation, which changes whenever a limit begins or
    /// ends; odd while there is a limit.
    state: AtomicU64,
    /// The newest limit; it applies if it is of the current generation.
    limit: ArcSwapOption<ConnectionLimit>,
    /// Held while a limit begins, changes or ends.
    changing: Mutex<()>,
    pending: AtomicUsize,
    max_pending: AtomicUsize,
}

/// A limit of the connections in use.
#[derive(Debug)]
struct ConnectionLimit {
    generation: u32,
    max: AtomicUsize,
    /// One permit for each further connection. The semaphore is fair: while a request waits, no other
    /// request gets a permit. Closed when the limit ends.
    free: Semaphore,
    /// Connections in use above a limit that was lowered: when they end, they free no permit.
    excess: AtomicUsize,
}

impl Connections {
    /// Creates a counter without connections and without limits.
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            limit: ArcSwapOption::empty(),
            changing: Mutex::new(()),
            pending: AtomicUsize::new(0),
            max_pending: AtomicUsize::new(usize::MAX),
        }
    }

    /// Changes the limits. Connections in use count against them.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.max_pending.store(limits.pending.unwrap_or(usize::MAX), SeqCst);
        let _changing = self.lock();
        let current = self.limit.load_full();
        match (current, limits.connections) {
            (Some(current), Some(max)) => current.change(max.min(Semaphore::MAX_PERMITS)),
            (None, Some(max)) => {
                let (in_use, generation) = parts(self.state.fetch_add(1, SeqCst));
                let max = max.min(Semaphore::MAX_PERMITS);
                let limit = ConnectionLimit::new(generation.wrapping_add(1), max, in_use);
                self.limit.store(Some(Arc::new(limit)));
            }
            (Some(current), None) => {
                self.state.fetch_add(1, SeqCst);
                self.limit.store(None);
                current.free.close();
            }
            (None, None) => {}
        }
    }

    /// Counts one more connection. Returns whether the limit allows it and no request waits.
    pub(super) fn add(&self) -> bool {
        loop {
            let limit = self.current();
            if let Some(limit) = &limit {
                match limit.free.try_acquire() {
                    Ok(permit) => permit.forget(),
                    Err(TryAcquireError::NoPermits) => return false,
                    // This limit has ended.
                    Err(TryAcquireError::Closed) => continue,
                }
            }
            if self.count(limit.as_deref()) {
                return true;
            }
        }
    }

    pub(super) fn remove(&self) {
        let (_, generation) = parts(self.state.fetch_sub(ONE, SeqCst));
        if let Some(limit) = self.limit_of(generation) {
            limit.release(1);
        }
    }

    /// Waits for a free connection, after all requests that came before, and counts it. The caller must
    /// be counted as pending.
    pub(super) async fn wait(&self) {
        loop {
            let limit = self.current();
            if let Some(limit) = &limit {
                match limit.free.acquire().await {
                    Ok(permit) => permit.forget(),
                    // This limit has ended.
                    Err(_) => continue,
                }
            }
            if self.count(limit.as_deref()) {
                return;
            }
        }
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
        self.current().is_some_and(|limit| limit.is_full())
    }

    /// How many idle connections the limit allows besides those in use; `None` if unlimited.
    pub(super) fn room(&self) -> Option<usize> {
        let limit = self.current()?;
        Some(limit.max.load(SeqCst).saturating_sub(self.in_use()))
    }

    pub(super) fn in_use(&self) -> usize {
        parts(self.state.load(SeqCst)).0
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// Counts a connection that has a permit of `limit`, or none without a limit. False if the limit has
    /// changed its generation meanwhile: the permit is void, and the connection is not counted.
    fn count(&self, limit: Option<&ConnectionLimit>) -> bool {
        let (_, generation) = parts(self.state.fetch_add(ONE, SeqCst));
        if !is_limited(generation) || limit.is_some_and(|limit| limit.generation == generation) {
            return true;
        }
        let (_, later) = parts(self.state.fetch_sub(ONE, SeqCst));
        // A limit that began in between has counted this connection as one in use.
        if later != generation
            && let Some(limit) = self.limit_of(later)
        {
            limit.release(1);
        }
        false
    }

    /// Returns the limit; `None` if there is none.
    fn current(&self) -> Option<Arc<ConnectionLimit>> {
        loop {
            let (_, generation) = parts(self.state.load(SeqCst));
            if !is_limited(generation) {
                return None;
            }
            if let Some(limit) = self.limit_of(generation) {
                return Some(limit);
            }
        }
    }

    /// Returns the limit of this generation; `None` if there was none, or if it has ended.
    fn limit_of(&self, generation: u32) -> Option<Arc<ConnectionLimit>> {
        if !is_limited(generation) {
            return None;
        }
        let find = || self.limit.load_full().filter(|limit| limit.generation == generation);
        find().or_else(|| {
            // It may be about to begin.
            let _changing = self.lock();
            find()
        })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the connections in use, and the generation.
fn parts(state: u64) -> (usize, u32) {
    ((state >> 32) as usize, state as u32)
}

fn is_limited(generation: u32) -> bool {
    generation % 2 == 1
}

impl ConnectionLimit {
    fn new(generation: u32, max: usize, in_use: usize) -> Self {
        Self {
            generation,
            max: AtomicUsize::new(max),
            free: Semaphore::new(max.saturating_sub(in_use)),
            excess: AtomicUsize::new(in_use.saturating_sub(max)),
        }
    }

    /// Changes the maximum.
    fn change(&self, max: usize) {
        let before = self.max.swap(max, SeqCst);
        if max > before {
            self.release(max - before);
        } else {
            self.excess.fetch_add(before - max, SeqCst);
            self.take_back();
        }
    }

    fn is_full(&self) -> bool {
        // Permits are not sequentially consistent, but `Backend::update_full` needs one order of permits
        // and state.
        fence(Ordering::SeqCst);
        self.free.available_permits() == 0
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
    fn a_removed_limit_serves_the_requests_that_wait() {
        let connections = Connections::new();
        assert!(connections.add());
        limited(Some(1), &connections);
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(connections.wait()), pin!(connections.wait()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        limited(None, &connections);
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(()));
        // This request has waited for a limit that has ended, and now waits for the next one.
        limited(Some(2), &connections);
        assert!(second.as_mut().poll(&mut context).is_pending());
        connections.remove();
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!((connections.in_use(), connections.add()), (2, false));
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

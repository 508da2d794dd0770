//! Idle connections to one backend, and the limit of open connections.
//!
//! The connection that was used last is taken first, so that surplus connections expire after busy times.
//! The pool is limited in number and time. It is empty while it is closed: if a backend went down, its
//! connections are dropped when they are put back. This module is independent of the protocol.
//!
//! A backend closes idle connections after its own timeout, often without announcing it, and a request
//! that is sent at this moment is lost. Therefore a request that cannot be repeated takes a connection
//! that has been idle for a short time only, and the observed timeout of the backend limits how long a
//! connection is kept and used.

use std::{
    any::Any,
    collections::VecDeque,
    sync::{
        Arc, MutexGuard, Once,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use self::list::{IdleConnection, IdleConnections, List};
use crate::config;

mod limit;
mod list;
mod sweeper;

/// A connection that can be reused.
pub trait Reusable: Any + Send {
    /// Called when the connection becomes idle. A tracked connection wakes `close` when its peer may have
    /// closed it. Called with the list locked: must be quick and must not use the pool.
    fn watch(&mut self, _close: &mut Context<'_>) -> CloseWatch {
        CloseWatch::Untracked
    }

    /// Whether the peer has not closed the connection, as far as is known; `close` as for
    /// [`watch`](Self::watch). Called with the list locked, too.
    fn is_open(&mut self, close: &mut Context<'_>) -> bool;

    /// Called when the connection becomes idle, with the time, or is in use again, with `None`. Called
    /// with the list locked, too.
    fn set_idle(&mut self, _since: Option<Instant>) {}
}

/// Result of [`Reusable::watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWatch {
    /// The pool drops the connection when the peer closes it, and records the close.
    Tracked,
    /// The connection itself records that the peer closes it.
    Untracked,
    /// The peer has closed the connection already.
    Closed,
}

/// An idle connection of any age is accepted.
pub const ANY_AGE: Duration = Duration::MAX;

/// The idle connections of one backend, of any kind.
pub struct IdlePool {
    idle: Arc<IdleConnections>,
    /// Spawns the sweeper with the first tracked connection.
    sweeper: Once,
    /// How often the pool was cleared; changes while the list is locked.
    epoch: AtomicU64,
    /// Permits of the current limit; `None` if unlimited.
    total: ArcSwapOption<Total>,
    /// Notified at each `put`: requests that wait for a permit can use the connection instead.
    returned: Notify,
}

struct Total {
    limit: usize,
    permits: Arc<Semaphore>,
}

/// Permit to have one connection open; the connection must hold it. Empty without a limit.
#[derive(Debug)]
#[must_use = "the permit is returned when this is dropped"]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// Result of [`IdlePool::acquire`].
#[derive(Debug)]
pub enum Acquired<C> {
    /// An idle connection, ready for use.
    Idle(Box<C>),
    /// A permit to open a new connection.
    Permit(Permit),
}

impl IdlePool {
    /// Creates an empty, open pool with these limits.
    pub fn new(limits: &config::Reuse) -> Self {
        let pool = Self {
            idle: Arc::new(IdleConnections::new(limits)),
            sweeper: Once::new(),
            epoch: AtomicU64::new(0),
            total: ArcSwapOption::empty(),
            returned: Notify::new(),
        };
        pool.limit(limits);
        pool
    }

    /// Changes the limits. Idle connections stay until they are taken, displaced or expired. Connections
    /// that are open now do not count against a changed total.
    pub fn limit(&self, limits: &config::Reuse) {
        let mut list = self.lock();
        list.max = limits.max_idle;
        list.timeout = limits.idle_timeout;
        let surplus = list.trim();
        // Under the lock, so that concurrent calls do not mix their limits.
        if self.total.load().as_ref().map(|total| total.limit) != limits.max_total {
            self.total.store(limits.max_total.map(|limit| {
                let permits = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
                Arc::new(Total { limit, permits })
            }));
        }
        drop(list);
        drop(surplus);
    }

    /// Takes the open connection of type `C` that was used last. It has been idle for less than `age`, and
    /// for less than half of the backend's observed timeout. Closed and expired connections are dropped.
    pub fn take<C: Reusable>(&self, age: Duration) -> Option<Box<C>> {
        let mut connection = self.idle.take::<C>(age)?;
        connection.set_idle(None);
        Some(connection)
    }

    /// Keeps a connection for the idle timeout or `keep`, whichever is shorter. If the pool is full, the
    /// oldest connection is dropped; if it is closed, this one is.
    pub fn put<C: Reusable>(&self, connection: Box<C>, keep: Duration) {
        self.keep(connection, keep, None);
    }

    fn keep<C: Reusable>(&self, mut connection: Box<C>, keep: Duration, epoch: Option<u64>) {
        let now = Instant::now();
        let mut list = self.lock();
        let old = epoch.is_some_and(|epoch| epoch != self.epoch());
        if !list.open || list.max == 0 || old {
            drop(list);
            return;
        }
        // Under the lock: if the peer closes the connection from now on, the sweeper finds it in the list.
        let watch = connection.watch(&mut Context::from_waker(&self.idle.waker));
        if watch == CloseWatch::Closed {
            drop(list);
            return;
        }
        let tracked = watch == CloseWatch::Tracked;
        if tracked {
            self.sweeper.call_once(|| sweeper::spawn(&self.idle));
        }
        // Well before the backend's timeout, which began earlier; its close also takes time to arrive.
        let observed = self.idle.observed.get(now).map_or(Duration::MAX, |limit| limit / 4 * 3);
        let until = now + keep.min(list.timeout).min(observed);
        connection.set_idle(Some(now));
        list.kept.push_back(IdleConnection { connection, since: now, until, tracked });
        let surplus = list.trim();
        drop(list);
        drop(surplus);
        self.returned.notify_one();
    }

    /// Like [`put`](Self::put), for a connection that was opened in `epoch`. A connection of an earlier
    /// epoch is dropped.
    pub fn put_back<C: Reusable>(&self, connection: Box<C>, keep: Duration, epoch: u64) {
        self.keep(connection, keep, Some(epoch));
    }

    /// Number of times that the pool was cleared.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Drops all idle connections, and connections in use when they are put back.
    pub fn clear(&self) {
        let mut list = self.lock();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let dropped = std::mem::take(&mut list.kept);
        drop(list);
        drop(dropped);
    }

    /// Drops the oldest connections until at most `max` are left.
    pub fn shrink(&self, max: usize) {
        let mut list = self.lock();
        let surplus = list.kept.len().saturating_sub(max);
        let surplus: Vec<IdleConnection> = list.kept.drain(..surplus).collect();
        drop(list);
        drop(surplus);
    }

    /// Records that the backend closed a connection that had been idle for this time.
    pub fn closed_after(&self, idle: Duration) {
        self.idle.observed.record_close(idle, Instant::now());
    }

    /// The observed idle timeout of the backend; `None` if it is unknown.
    pub fn observed_limit(&self) -> Option<Duration> {
        self.idle.observed.get(Instant::now())
    }

    /// Opens or closes the pool. Closing drops all connections and resets the observed timeout, because
    /// the next process of the backend may have another. `open` is called with the list locked, so that of
    /// two concurrent calls the later one uses the current value.
    pub fn set_open(&self, open: impl FnOnce() -> bool) {
        let mut list = self.lock();
        list.open = open();
        let dropped = if list.open { VecDeque::new() } else { std::mem::take(&mut list.kept) };
        if !list.open {
            self.idle.observed.reset();
        }
        drop(list);
        drop(dropped);
    }

    /// Number of idle connections.
    pub fn len(&self) -> usize {
        self.lock().kept.len()
    }

    /// Whether there is no idle connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops connections that have expired by `now` or are closed.
    pub fn sweep(&self, now: Instant) {
        self.idle.sweep(now);
    }

    /// Waits for a permit to open one more connection. Returns immediately without a limit.
    pub async fn permit(&self) -> Permit {
        let Some(total) = self.total.load_full() else { return Permit(None) };
        // An error is impossible: the semaphore is never closed.
        Permit(total.permits.clone().acquire_owned().await.ok())
    }

    /// Waits for a connection that has been idle for less than `age`, or for a permit to open one,
    /// whichever comes first. If the limit is reached, the oldest idle connection is closed. Otherwise a
    /// permit would be free only after an idle connection expires.
    pub async fn acquire<C: Reusable>(&self, age: Duration) -> Acquired<C> {
        if let Some(connection) = self.take(age) {
            return Acquired::Idle(connection);
        }
        if self.total.load().is_none() {
            return Acquired::Permit(Permit(None));
        }
        loop {
            // Registered before `take`, so that a connection that is put in between is noticed.
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if let Some(connection) = self.take(age) {
                return Acquired::Idle(connection);
            }
            let total = self.total.load_full();
            if total.is_some_and(|total| total.permits.available_permits() == 0) {
                let oldest = self.lock().kept.pop_front();
                drop(oldest);
            }
            tokio::select! {
                permit = self.permit() => return Acquired::Permit(permit),
                () = returned => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.idle.lock()
    }
}

impl Drop for IdlePool {
    fn drop(&mut self) {
        self.idle.signal.end();
    }
}

impl std::fmt::Debug for IdlePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdlePool").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use self::limit::ObservedLimit;
use crate::config;

mod limit;

/// A connection that can be reused.
pub trait Reusable: Any + Send {
    /// Whether the peer has not closed the connection, as far as is known. Called with the list locked:
    /// must be quick and must not use the pool.
    fn is_open(&self) -> bool;

    /// Called when the connection becomes idle, with the time, or is in use again, with `None`. Called
    /// with the list locked, too.
    fn set_idle(&self, _since: Option<Instant>) {}
}

/// An idle connection of any age is accepted.
pub const ANY_AGE: Duration = Duration::MAX;

/// The idle connections of one backend, of any kind.
pub struct IdlePool {
    list: Mutex<List>,
    /// Permits of the current limit; `None` if unlimited.
    total: ArcSwapOption<Total>,
    /// Notified at each `put`: requests that wait for a permit can use the connection instead.
    returned: Notify,
    /// After how long the backend closes idle connections.
    observed: ObservedLimit,
}

struct List {
    kept: VecDeque<IdleConnection>,
    open: bool,
    /// How often the list was cleared.
    epoch: u64,
    max: usize,
    timeout: Duration,
}

struct IdleConnection {
    connection: Box<dyn Reusable>,
    since: Instant,
    until: Instant,
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
        let idle = Self {
            list: Mutex::new(List {
                kept: VecDeque::new(),
                open: true,
                epoch: 0,
                max: limits.max_idle,
                timeout: limits.idle_timeout,
            }),
            total: ArcSwapOption::empty(),
            returned: Notify::new(),
            observed: ObservedLimit::new(Instant::now()),
        };
        idle.limit(limits);
        idle
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
        let now = Instant::now();
        let age = match self.observed.get(now) {
            Some(limit) if age < ANY_AGE => age.min(limit / 2),
            _ => age,
        };
        let mut dead = Vec::new();
        let mut list = self.lock();
        let mut at = list.kept.len();
        let found = loop {
            at = match at.checked_sub(1) {
                Some(at) => at,
                None => break None,
            };
            let kept = &list.kept[at];
            if now.saturating_duration_since(kept.since) >= age {
                // The connections before it are older.
                break None;
            }
            let usable = kept.is_usable(now);
            let is_c = (kept.connection.as_ref() as &dyn Any).is::<C>();
            if usable && !is_c {
                continue;
            }
            let kept = list.kept.remove(at);
            if usable {
                break kept;
            }
            dead.extend(kept);
        };
        // Closing a socket may take long, so unlock first.
        drop(list);
        drop(dead);
        let IdleConnection { connection, .. } = found?;
        connection.set_idle(None);
        let connection: Box<dyn Any> = connection;
        connection.downcast().ok()
    }

    /// Keeps a connection for the idle timeout or `keep`, whichever is shorter. If the pool is full, the
    /// oldest connection is dropped; if it is closed, this one is.
    pub fn put<C: Reusable>(&self, connection: Box<C>, keep: Duration) {
        self.keep(connection, keep, None);
    }

    fn keep<C: Reusable>(&self, connection: Box<C>, keep: Duration, epoch: Option<u64>) {
        let now = Instant::now();
        let mut list = self.lock();
        let old = epoch.is_some_and(|epoch| epoch != list.epoch);
        if !list.open || list.max == 0 || old {
            drop(list);
            return;
        }
        // Well before the backend's timeout, which began earlier; its close also takes time to arrive.
        let observed = self.observed.get(now).map_or(Duration::MAX, |limit| limit / 4 * 3);
        let until = now + keep.min(list.timeout).min(observed);
        connection.set_idle(Some(now));
        list.kept.push_back(IdleConnection { connection, since: now, until });
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
        self.lock().epoch
    }

    /// Drops all idle connections, and connections in use when they are put back.
    pub fn clear(&self) {
        let mut list = self.lock();
        list.epoch += 1;
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
        self.observed.record_close(idle, Instant::now());
    }

    /// The observed idle timeout of the backend; `None` if it is unknown.
    pub fn observed_limit(&self) -> Option<Duration> {
        self.observed.get(Instant::now())
    }

    /// Opens or closes the pool. Closing drops all connections and resets the observed timeout, because
    /// the next process of the backend may have another. `open` is called with the list locked, so that of
    /// two concurrent calls the later one uses the current value.
    pub fn set_open(&self, open: impl FnOnce() -> bool) {
        let mut list = self.lock();
        list.open = open();
        let dropped = if list.open { VecDeque::new() } else { std::mem::take(&mut list.kept) };
        if !list.open {
            self.observed.reset();
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
        let mut list = self.lock();
        let (kept, dead): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut list.kept).into_iter().partition(|kept| kept.is_usable(now));
        list.kept = kept;
        drop(list);
        drop(dead);
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
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for IdlePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdlePool").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl List {
    /// Removes the oldest connections above the limit.
    fn trim(&mut self) -> Vec<IdleConnection> {
        let surplus = self.kept.len().saturating_sub(self.max);
        self.kept.drain(..surplus).collect()
    }
}

impl IdleConnection {
    fn is_usable(&self, now: Instant) -> bool {
        now < self.until && self.connection.is_open()
    }
}

#[cfg(test)]
mod tests;

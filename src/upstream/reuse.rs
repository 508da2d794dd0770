//! Connections to one backend that are kept while idle, and how many may be open at all.
//!
//! The freshest is taken first, so that the surplus of a busy hour grows old and goes. The list is
//! bounded in number and in time, and is empty while it is closed: a connection that comes back to a
//! backend that went down meanwhile is dropped, not kept. This module does not know what a
//! connection speaks.
//!
//! A backend closes idle connections after a time of its own, often without having said so, and a
//! request that meets the close is lost. What cannot be sent twice therefore asks for a connection that
//! has been idle for a short while only; and the time that the backend has shown by its closes bounds
//! how long a connection is kept and used.

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

/// A connection that may serve again.
pub trait Reusable: Any + Send {
    /// Whether the peer still has its end open, as far as is known. Called with the list locked: it
    /// must be quick and must not come back to the list.
    fn is_open(&self) -> bool;

    /// Told since when it is idle; `None`: it is in use again. Called with the list locked, too.
    fn set_idle(&self, _since: Option<Instant>) {}
}

/// Any age of an idle connection will do.
pub const ANY_AGE: Duration = Duration::MAX;

/// The idle connections of one backend, of any kind.
pub struct IdlePool {
    list: Mutex<List>,
    /// Permits of the present total limit; `None`: unlimited.
    total: ArcSwapOption<Total>,
    /// Told at each `put`, for those who wait for a permit and would rather have a connection.
    returned: Notify,
    /// After how long the backend closes idle connections.
    observed: ObservedLimit,
}

struct List {
    kept: VecDeque<Kept>,
    open: bool,
    /// How often it was cleared.
    epoch: u64,
    max: usize,
    timeout: Duration,
}

struct Kept {
    connection: Box<dyn Reusable>,
    since: Instant,
    until: Instant,
}

struct Total {
    limit: usize,
    permits: Arc<Semaphore>,
}

/// The right to have one connection open; give it to the connection. Without a limit it is nothing.
#[derive(Debug)]
#[must_use = "the right lasts only while this lives"]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// What [`IdlePool::acquire`] got.
#[derive(Debug)]
pub enum Acquired<C> {
    /// An idle connection, ready for use.
    Idle(Box<C>),
    /// A permit to open a new connection.
    Permit(Permit),
}

impl IdlePool {
    /// An empty, open list with these bounds.
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

    /// Takes other bounds. What is kept stays until it is taken, displaced or expired; connections
    /// open at this moment do not count against a changed total.
    pub fn limit(&self, limits: &config::Reuse) {
        let mut list = self.lock();
        list.max = limits.max_idle;
        list.timeout = limits.idle_timeout;
        let surplus = list.trim();
        // Under the lock, so that of two calls at once one is wholly the later.
        if self.total.load().as_ref().map(|total| total.limit) != limits.max_total {
            self.total.store(limits.max_total.map(|limit| {
                let permits = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
                Arc::new(Total { limit, permits })
            }));
        }
        drop(list);
        drop(surplus);
    }

    /// The freshest open connection of kind `C` that has been idle for less than `age`, or for half of
    /// the time after which the backend closes them, where that is shorter. Those found closed or
    /// expired are dropped.
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
                // Those before it are older.
                break None;
            }
            let serves = kept.serves(now);
            let is_c = (kept.connection.as_ref() as &dyn Any).is::<C>();
            if serves && !is_c {
                continue;
            }
            let kept = list.kept.remove(at);
            if serves {
                break kept;
            }
            dead.extend(kept);
        };
        // Closing a socket may run code of any length: not while others wait.
        drop(list);
        drop(dead);
        let Kept { connection, .. } = found?;
        connection.set_idle(None);
        let connection: Box<dyn Any> = connection;
        connection.downcast().ok()
    }

    /// Keeps a connection for the idle timeout or `keep`, whichever is shorter. Where the list is
    /// full the oldest goes; where it is closed this one does.
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
        // Well before the backend's own limit: it counts from an earlier moment, and its close takes time.
        let shown = self.observed.get(now).map_or(Duration::MAX, |limit| limit / 4 * 3);
        let until = now + keep.min(list.timeout).min(shown);
        connection.set_idle(Some(now));
        list.kept.push_back(Kept { connection, since: now, until });
        let surplus = list.trim();
        drop(list);
        drop(surplus);
        self.returned.notify_one();
    }

    /// The same for a connection that was opened in `epoch`; one of an earlier epoch is dropped.
    pub fn put_back<C: Reusable>(&self, connection: Box<C>, keep: Duration, epoch: u64) {
        self.keep(connection, keep, Some(epoch));
    }

    /// Counts the times that everything was cleared.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Drops every connection, and those in use when they are put back.
    pub fn clear(&self) {
        let mut list = self.lock();
        list.epoch += 1;
        let dropped = std::mem::take(&mut list.kept);
        drop(list);
        drop(dropped);
    }

    /// Drops the oldest until at most `most` are kept.
    pub fn shrink(&self, most: usize) {
        let mut list = self.lock();
        let surplus = list.kept.len().saturating_sub(most);
        let surplus: Vec<Kept> = list.kept.drain(..surplus).collect();
        drop(list);
        drop(surplus);
    }

    /// The backend has closed a connection that had been idle for so long.
    pub fn closed_after(&self, idle: Duration) {
        self.observed.note(idle, Instant::now());
    }

    /// After how long the backend closes idle connections, so far as it has shown.
    pub fn observed_limit(&self) -> Option<Duration> {
        self.observed.get(Instant::now())
    }

    /// Opens or closes the list, and drops every connection where it closes. What the backend has shown
    /// is forgotten then: the process that comes after it may keep connections for longer. `open` is asked with
    /// the list locked, so that of two calls at once the later sees what is so now.
    pub fn set_open(&self, open: impl FnOnce() -> bool) {
        let mut list = self.lock();
        list.open = open();
        let dropped = if list.open { VecDeque::new() } else { std::mem::take(&mut list.kept) };
        if !list.open {
            self.observed.forget();
        }
        drop(list);
        drop(dropped);
    }

    /// Connections kept at this moment.
    pub fn len(&self) -> usize {
        self.lock().kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what has expired by `now` or is no longer open.
    pub fn sweep(&self, now: Instant) {
        let mut list = self.lock();
        let (kept, dead): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut list.kept).into_iter().partition(|kept| kept.serves(now));
        list.kept = kept;
        drop(list);
        drop(dead);
    }

    /// Waits for the right to open one more connection; at once where there is no limit.
    pub async fn permit(&self) -> Permit {
        let Some(total) = self.total.load_full() else { return Permit(None) };
        // An error would mean that the semaphore is closed, which nobody does.
        Permit(total.permits.clone().acquire_owned().await.ok())
    }

    /// A connection that has been idle for less than `age`, or the right to open one, whichever comes
    /// first. Where all that the limit allows are open, waiting for a permit alone would last until an
    /// idle one expires: one that is too old makes room.
    pub async fn acquire<C: Reusable>(&self, age: Duration) -> Acquired<C> {
        loop {
            // Listening begins before looking: a connection put in between is not missed.
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
    /// Takes out the oldest ones above the bound.
    fn trim(&mut self) -> Vec<Kept> {
        let surplus = self.kept.len().saturating_sub(self.max);
        self.kept.drain(..surplus).collect()
    }
}

impl Kept {
    fn serves(&self, now: Instant) -> bool {
        now < self.until && self.connection.is_open()
    }
}

#[cfg(test)]
mod tests;

//! The list of idle connections of one backend, which its pool and its sweeper share.

use std::{
    any::Any,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use super::{ANY_AGE, Reusable, limit::ObservedLimit, sweeper::CloseSignal};
use crate::config;

/// The idle connections, as the sweeper sees them.
pub(super) struct IdleConnections {
    pub(super) list: Mutex<List>,
    /// After how long the backend closes idle connections.
    pub(super) observed: ObservedLimit,
    pub(super) signal: Arc<CloseSignal>,
    /// Gives the signal.
    pub(super) waker: Waker,
}

pub(super) struct List {
    pub(super) kept: VecDeque<IdleConnection>,
    pub(super) open: bool,
    pub(super) max: usize,
    pub(super) timeout: Duration,
}

pub(super) struct IdleConnection {
    pub(super) connection: Box<dyn Reusable>,
    pub(super) since: Instant,
    pub(super) until: Instant,
    /// Whether a close of the peer is still to be recorded.
    pub(super) tracked: bool,
}

impl IdleConnections {
    pub(super) fn new(limits: &config::Reuse) -> Self {
        let (kept, max, timeout) = (VecDeque::new(), limits.max_idle, limits.idle_timeout);
        let signal = Arc::new(CloseSignal::default());
        Self {
            list: Mutex::new(List { kept, open: true, max, timeout }),
            observed: ObservedLimit::new(Instant::now()),
            waker: signal.waker(),
            signal,
        }
    }

    /// As [`IdlePool::take`](super::IdlePool::take).
    pub(super) fn take<C: Reusable>(&self, age: Duration) -> Option<Box<C>> {
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
            let kept = &mut list.kept[at];
            if now.saturating_duration_since(kept.since) >= age {
                // The connections before it are older.
                break None;
            }
            let usable = self.is_usable(kept, now);
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
        let connection: Box<dyn Any> = found?.connection;
        connection.downcast().ok()
    }

    /// As [`IdlePool::sweep`](super::IdlePool::sweep).
    pub(super) fn sweep(&self, now: Instant) {
        let mut dead = Vec::new();
        let mut list = self.lock();
        let mut at = 0;
        while at < list.kept.len() {
            if self.is_usable(&mut list.kept[at], now) {
                at += 1;
            } else {
                dead.extend(list.kept.remove(at));
            }
        }
        drop(list);
        drop(dead);
    }

    /// Whether a connection has not expired and is open. Records that its peer has closed it.
    fn is_usable(&self, kept: &mut IdleConnection, now: Instant) -> bool {
        if now >= kept.until {
            return false;
        }
        let open = kept.connection.is_open(&mut Context::from_waker(&self.waker));
        if !open && kept.tracked {
            self.observed.record_close(now.saturating_duration_since(kept.since), now);
        }
        open
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// Removes the oldest connections above the limit.
    pub(super) fn trim(&mut self) -> Vec<IdleConnection> {
        let surplus = self.kept.len().saturating_sub(self.max);
        self.kept.drain(..surplus).collect()
    }
}

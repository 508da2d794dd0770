//! Hands the table to another process: existing sessions slice by slice, and later ones through a tap.
//!
//! Open the tap first and read the slices afterwards: sessions learned in between then arrive twice, but never not at
//! all. A slice contains the entries visited under one lock, so that a table of a million sessions is handed over in
//! bounded memory without blocking requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    super::recent_sessions::ClientKey, Relaxed, SHARDS, SessionEntry, SessionTable, millis,
};
use crate::upstream::Backend;

/// Capacity of the tap in sessions. Further sessions are dropped; an owner search finds them.
const TAPPED: usize = 64 * 1024;

/// A session in the form that is sent to another process.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Session id.
    pub sid: Box<str>,
    /// Backend of the session.
    pub backend: Arc<Backend>,
    /// Lifetime learned from the backend.
    pub lifetime: Duration,
    /// Remaining part of the lifetime. All of it while a tunnel is open, because one more lifetime follows the tunnel.
    pub left: Duration,
    /// The client that opened the session, if known.
    pub client: Option<ClientKey>,
}

/// Read position in a table.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    shard: usize,
    end: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { shard: 0, end: usize::MAX }
    }
}

impl SessionTable {
    /// Returns a channel with each session learned from now on, until the receiver is dropped or another tap replaces
    /// it.
    pub fn tap(&self) -> mpsc::Receiver<Learned> {
        let (tap, learned) = mpsc::channel(TAPPED);
        self.tap.store(Some(Arc::new(tap)));
        learned
    }

    /// Returns the next few sessions, possibly none; `None` at the end. Sessions present throughout are returned, a
    /// session that moves within its shard perhaps twice.
    pub fn slice(&self, cursor: &mut Cursor, now: Instant) -> Option<Vec<Learned>> {
        if cursor.shard >= SHARDS {
            return None;
        }
        let now = self.tick(now);
        let mut slice = Vec::new();
        // Backwards, as in `prune`: the entry that fills a gap comes from the end and has been visited.
        for entry in self.lock(cursor.shard).slice(&mut cursor.end).iter().rev() {
            if !entry.is_expired(now) && !entry.is_evicted() {
                slice.push(entry.to_learned(now));
            }
        }
        if cursor.end == 0 {
            *cursor = Cursor { shard: cursor.shard + 1, end: usize::MAX };
        }
        Some(slice)
    }

    /// Records a session that another process has handed over. A known session stays unchanged, because this process
    /// has newer information. Returns false if the session cannot be recorded, as [`learn`](Self::learn) does.
    pub fn restore(&self, learned: &Learned, now: Instant) -> bool {
        let Learned { sid, backend, lifetime, left, client } = learned;
        if !self.takes(sid) {
            return false;
        }
        let now = self.tick(now);
        let location = self.location(backend.pool(), sid);
        let mut shard = self.lock(location.shard);
        let mut expired = None;
        if let Some(entry) = shard.find(location.tag, backend.pool(), sid) {
            if !entry.is_expired(now) {
                return true;
            }
            expired = shard.remove(location.tag, backend.pool(), sid);
            self.length.fetch_sub(1, Relaxed);
        }
        let mut entry = SessionEntry::new(location.tag, sid, backend, millis(*lifetime), now);
        entry.expire(now + u64::from(millis(*left)));
        entry.set_client(*client);
        self.insert(shard, location, entry, expired);
        // The next process needs it too.
        self.send_to_tap(|| learned.clone());
        true
    }

    /// Sends a learned session to the tap; without a tap this costs one load.
    pub(super) fn send_to_tap(&self, learned: impl FnOnce() -> Learned) {
        let tap = self.tap.load();
        let Some(tap) = &*tap else { return };
        if let Err(TrySendError::Closed(_)) = tap.try_send(learned()) {
            // Only if the closed tap is still the current one.
            self.tap.compare_and_swap(tap, None);
        }
    }
}

impl SessionEntry {
    fn to_learned(&self, now: u64) -> Learned {
        let lifetime = u64::from(self.lifetime());
        let left = self.expiry().saturating_sub(now).min(lifetime);
        Learned {
            sid: self.sid().into(),
            backend: Arc::clone(self.backend()),
            lifetime: Duration::from_millis(lifetime),
            left: Duration::from_millis(left),
            client: self.client(),
        }
    }
}

//! Handing the table on to another process: what is in it, slice by slice, and what is learned from
//! then on.
//!
//! Open the tap first and read the slices then: what is learned in between comes twice and never not
//! at all. A slice is as many entries as are looked at under one lock, so that a table of a million
//! is handed on in bounded memory, and nobody waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{super::recent_sessions::Key, Entry, Relaxed, SHARDS, Table, millis};
use crate::upstream::Backend;

/// Sessions that wait in the tap. Past it they are dropped: an owner search finds them.
const TAPPED: usize = 64 * 1024;

/// A session as it is handed on.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Its id.
    pub sid: Box<str>,
    /// Its backend.
    pub backend: Arc<Backend>,
    /// As it was learned.
    pub lifetime: Duration,
    /// How much of that is left. All of it while a tunnel is open: what comes after that is one more
    /// lifetime.
    pub left: Duration,
    /// The client that opened it, if it is known.
    pub client: Option<Key>,
}

/// How far a table has been read.
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

impl Table {
    /// Hears of each session that is learned from now on, until the receiver is dropped or another
    /// one takes its place.
    pub fn tap(&self) -> mpsc::Receiver<Learned> {
        let (tap, learned) = mpsc::channel(TAPPED);
        self.tap.store(Some(Arc::new(tap)));
        learned
    }

    /// The next few sessions, maybe none; `None` where all have been read. Each that is there all the
    /// time is among them, one that moves within its shard maybe twice.
    pub fn slice(&self, cursor: &mut Cursor, now: Instant) -> Option<Vec<Learned>> {
        if cursor.shard >= SHARDS {
            return None;
        }
        let now = self.tick(now);
        let mut slice = Vec::new();
        // Backwards, as in `prune`: what moves into a gap comes from the end, and was seen already.
        for entry in self.lock(cursor.shard).slice(&mut cursor.end).iter().rev() {
            if !entry.is_expired(now) && !entry.is_let_go() {
                slice.push(entry.handed(now));
            }
        }
        if cursor.end == 0 {
            *cursor = Cursor { shard: cursor.shard + 1, end: usize::MAX };
        }
        Some(slice)
    }

    /// Remembers a session that another process has handed on. One that is known here stays as it is:
    /// this process knows better. False where it cannot be remembered, as with
    /// [`learn`](Self::learn).
    pub fn restore(&self, handed: &Learned, now: Instant) -> bool {
        let Learned { sid, backend, lifetime, left, client } = handed;
        if !self.takes(sid) {
            return false;
        }
        let now = self.tick(now);
        let place = self.place(backend.pool(), sid);
        let mut shard = self.lock(place.shard);
        let mut expired = None;
        if let Some(entry) = shard.find(place.tag, backend.pool(), sid) {
            if !entry.is_expired(now) {
                return true;
            }
            expired = shard.remove(place.tag, backend.pool(), sid);
            self.length.fetch_sub(1, Relaxed);
        }
        let mut entry = Entry::new(place.tag, sid, backend, millis(*lifetime), now);
        entry.expire(now + u64::from(millis(*left)));
        entry.set_client(*client);
        self.insert(shard, place, entry, expired);
        // The process after this one wants it too.
        self.tell(|| handed.clone());
        true
    }

    /// Tells whoever listens; costs a load where nobody does.
    pub(super) fn tell(&self, learned: impl FnOnce() -> Learned) {
        let tap = self.tap.load();
        let Some(tap) = &*tap else { return };
        if let Err(TrySendError::Closed(_)) = tap.try_send(learned()) {
            // Only where it is still the one that was closed.
            self.tap.compare_and_swap(tap, None);
        }
    }
}

impl Entry {
    fn handed(&self, now: u64) -> Learned {
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

//! Keeps the session of an open tunnel alive and counted.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{EntryLocation, SessionTable};
use crate::upstream::SessionGuard;

/// An open tunnel of a session. While it exists, the session's entry cannot expire. A session counts once, however
/// many tunnels it has.
#[must_use = "the session is held only while this exists"]
pub struct SessionHold {
    pub(super) table: Arc<SessionTable>,
    pub(super) location: EntryLocation,
    pub(super) hold: Option<Arc<SessionGuard>>,
}

impl Drop for SessionHold {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let now = self.table.clock.load(Relaxed);
        let mut shard = self.table.lock(self.location.shard);
        let entry = shard.find_by(self.location.tag, |entry| entry.is_held_by(&hold));
        // Under the lock, so that exactly one of two concurrent ends is the last.
        let last = Arc::into_inner(hold);
        if let (Some(_), Some(entry)) = (&last, entry) {
            entry.release(now);
        }
        drop(shard);
        drop(last);
    }
}

impl fmt::Debug for SessionHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionHold").field(&self.hold).finish()
    }
}

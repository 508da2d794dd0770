//! A part of the table behind one lock: entries in a dense vector, and an index of their positions.
//!
//! Invariant: the index contains each position of `entries` exactly once, under the tag of its entry. Removed entries
//! are returned, so that they are dropped, and backends updated, after the lock is released. The dense vector makes
//! discarding a matter of a few random reads, and a sweep a sequential scan.

use hashbrown::HashTable;

use super::entry::SessionEntry;

/// Random entries inspected to discard one.
const DRAWN: usize = 8;

/// Entries that [`Shard::prune`] visits per call.
const SLICE: usize = 256;

/// Minimum capacity; smaller vectors are not shrunk.
const KEPT: usize = 64;

/// A part of the table.
#[derive(Default)]
pub(super) struct Shard {
    entries: Vec<SessionEntry>,
    index: HashTable<u32>,
    heap: usize,
}

impl Shard {
    /// Returns the entry with this key, expired or not.
    pub(super) fn find(&mut self, tag: u32, pool: &str, sid: &str) -> Option<&mut SessionEntry> {
        let at = self.position(tag, |entry| entry.is(tag, pool, sid))?;
        self.entries.get_mut(at)
    }

    /// Returns the entry with this tag that satisfies a condition.
    pub(super) fn find_by(
        &mut self,
        tag: u32,
        is: impl Fn(&SessionEntry) -> bool,
    ) -> Option<&mut SessionEntry> {
        let at = self.position(tag, is)?;
        self.entries.get_mut(at)
    }

    /// Removes the entry with this key.
    pub(super) fn remove(&mut self, tag: u32, pool: &str, sid: &str) -> Option<SessionEntry> {
        let at = self.position(tag, |entry| entry.is(tag, pool, sid))?;
        self.take(at)
    }

    /// Adds an entry whose key is not in the shard.
    pub(super) fn insert(&mut self, entry: SessionEntry) {
        if self.entries.len() == self.entries.capacity() {
            // Grow by a quarter instead of doubling: half a table of unused entries is a lot of memory.
            self.entries.reserve_exact((self.entries.len() / 4).max(8));
        }
        let Self { entries, index, heap } = self;
        // A shard cannot exceed 32 bits: that would be 256 GiB of entries.
        let at = entries.len() as u32;
        index.insert_unique(spread(entry.tag()), at, |&at| spread(entries[at as usize].tag()));
        *heap += entry.heap();
        entries.push(entry);
    }

    /// Removes the one of a few random entries that is nearest its expiry; `None` if the shard is empty. An entry with a
    /// tunnel is removed only if all inspected entries have one.
    pub(super) fn discard(&mut self) -> Option<SessionEntry> {
        let length = self.entries.len();
        let at = if length <= DRAWN {
            (0..length).min_by_key(|&at| self.entries[at].expiry())
        } else {
            let drawn = (0..DRAWN).map(|_| fastrand::usize(..length));
            drawn.min_by_key(|&at| self.entries[at].expiry())
        };
        self.take(at?)
    }

    /// Removes entries that are `gone` from the slice before `end`, and moves `end` to the start of the slice. Calls from
    /// `usize::MAX` to 0 visit each entry that is present throughout.
    pub(super) fn prune(
        &mut self,
        end: &mut usize,
        gone: impl Fn(&SessionEntry) -> bool,
    ) -> Vec<SessionEntry> {
        let from = (*end).min(self.entries.len());
        *end = from.saturating_sub(SLICE);
        let mut taken = Vec::new();
        // Backwards: the entry that fills a gap comes from the end and has been visited.
        for at in (*end..from).rev() {
            if gone(&self.entries[at]) {
                taken.extend(self.take(at));
            }
        }
        taken
    }

    /// Returns a slice of the entries before `end`, and moves `end` to its start. Calls from `usize::MAX` to 0 visit each
    /// entry that is present throughout.
    pub(super) fn slice(&mut self, end: &mut usize) -> &mut [SessionEntry] {
        let from = (*end).min(self.entries.len());
        *end = from.saturating_sub(SLICE);
        &mut self.entries[*end..from]
    }

    /// Shrinks the vectors if three quarters are unused.
    pub(super) fn shrink(&mut self) {
        let Self { entries, index, .. } = self;
        if entries.capacity() > KEPT && entries.len() < entries.capacity() / 4 {
            let wanted = (entries.len() * 2).max(KEPT);
            entries.shrink_to(wanted);
            index.shrink_to(wanted, |&at| spread(entries[at as usize].tag()));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<SessionEntry>()
            + self.index.allocation_size()
            + self.heap
    }

    fn position(&self, tag: u32, is: impl Fn(&SessionEntry) -> bool) -> Option<usize> {
        let found = self.index.find(spread(tag), |&at| is(&self.entries[at as usize]));
        found.map(|&at| at as usize)
    }

    /// Removes the entry at a position; the last entry moves there.
    fn take(&mut self, at: usize) -> Option<SessionEntry> {
        let last = self.entries.len().checked_sub(1)?;
        self.reindex(at, None);
        if at != last {
            self.reindex(last, Some(at as u32));
        }
        let taken = self.entries.swap_remove(at);
        self.heap -= taken.heap();
        Some(taken)
    }

    /// Updates or removes the index entry of a position.
    fn reindex(&mut self, at: usize, to: Option<u32>) {
        let hash = spread(self.entries[at].tag());
        if let Ok(mut record) = self.index.find_entry(hash, |&found| found as usize == at) {
            match to {
                Some(to) => *record.get_mut() = to,
                None => drop(record.remove()),
            }
        }
    }
}

/// Spreads the tag over a 64-bit hash: the hash table uses the bits at both ends.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

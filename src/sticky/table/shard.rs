//! A part of the table behind one lock: entries in a dense vector, and an index of their positions.
//!
//! Invariant: the index holds each position of `entries` exactly once, under its entry's tag. Removed
//! entries are handed out, so that they are dropped, and backends told, after the lock is released.
//! The dense vector is what makes eviction a few draws and a sweep a walk through plain memory.

use hashbrown::HashTable;

use super::entry::Entry;

/// Entries that eviction draws.
const DRAWN: usize = 8;

/// Entries that [`Shard::prune`] looks at in one go.
const SLICE: usize = 256;

/// Below so many entries no memory is given back.
const KEPT: usize = 64;

/// A part of the table.
#[derive(Default)]
pub(super) struct Shard {
    entries: Vec<Entry>,
    index: HashTable<u32>,
    heap: usize,
}

impl Shard {
    /// The entry of this key, expired or not.
    pub(super) fn find(&mut self, tag: u32, pool: &str, sid: &str) -> Option<&mut Entry> {
        let at = self.position(tag, |entry| entry.is(tag, pool, sid))?;
        self.entries.get_mut(at)
    }

    /// The entry with this tag that meets a condition of its own.
    pub(super) fn find_by(&mut self, tag: u32, is: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        let at = self.position(tag, is)?;
        self.entries.get_mut(at)
    }

    /// Takes out the entry of this key.
    pub(super) fn remove(&mut self, tag: u32, pool: &str, sid: &str) -> Option<Entry> {
        let at = self.position(tag, |entry| entry.is(tag, pool, sid))?;
        self.take(at)
    }

    /// Adds an entry whose key is not there.
    pub(super) fn insert(&mut self, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            // By a quarter, not by doubling: half a table of unused entries is a lot of memory.
            self.entries.reserve_exact((self.entries.len() / 4).max(8));
        }
        let Self { entries, index, heap } = self;
        // A shard cannot outgrow 32 bits: that would be 256 GiB of entries.
        let at = entries.len() as u32;
        index.insert_unique(spread(entry.tag()), at, |&at| spread(entries[at as usize].tag()));
        *heap += entry.heap();
        entries.push(entry);
    }

    /// Takes out the one nearest its expiry of a few drawn at random; `None`: the shard is empty.
    /// One that a tunnel holds goes only where all that were drawn are held.
    pub(super) fn evict(&mut self) -> Option<Entry> {
        let length = self.entries.len();
        let at = if length <= DRAWN {
            (0..length).min_by_key(|&at| self.entries[at].expiry())
        } else {
            let drawn = (0..DRAWN).map(|_| fastrand::usize(..length));
            drawn.min_by_key(|&at| self.entries[at].expiry())
        };
        self.take(at?)
    }

    /// Takes out those that are `gone` among a slice of the entries before `end`, and moves `end`
    /// to the slice's start; from `usize::MAX` to 0 each entry that was there all the time is seen.
    pub(super) fn prune(&mut self, end: &mut usize, gone: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let from = (*end).min(self.entries.len());
        *end = from.saturating_sub(SLICE);
        let mut taken = Vec::new();
        // Backwards: what moves into a gap comes from the end, and was seen already.
        for at in (*end..from).rev() {
            if gone(&self.entries[at]) {
                taken.extend(self.take(at));
            }
        }
        taken
    }

    /// The entries before `end`, a slice of them, and moves `end` to the slice's start; from
    /// `usize::MAX` to 0 each entry that was there all the time is seen.
    pub(super) fn slice(&mut self, end: &mut usize) -> &mut [Entry] {
        let from = (*end).min(self.entries.len());
        *end = from.saturating_sub(SLICE);
        &mut self.entries[*end..from]
    }

    /// Gives memory back where three quarters are unused.
    pub(super) fn shrink(&mut self) {
        let Self { entries, index, .. } = self;
        if entries.capacity() > KEPT && entries.len() < entries.capacity() / 4 {
            let wanted = (entries.len() * 2).max(KEPT);
            entries.shrink_to(wanted);
            index.shrink_to(wanted, |&at| spread(entries[at as usize].tag()));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.index.allocation_size() + self.heap
    }

    fn position(&self, tag: u32, is: impl Fn(&Entry) -> bool) -> Option<usize> {
        let found = self.index.find(spread(tag), |&at| is(&self.entries[at as usize]));
        found.map(|&at| at as usize)
    }

    /// Takes out the entry at a position; the last one moves there.
    fn take(&mut self, at: usize) -> Option<Entry> {
        let last = self.entries.len().checked_sub(1)?;
        self.reindex(at, None);
        if at != last {
            self.reindex(last, Some(at as u32));
        }
        let taken = self.entries.swap_remove(at);
        self.heap -= taken.heap();
        Some(taken)
    }

    /// Changes or removes the index's record of a position.
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

/// A 64-bit hash with the tag's bits at both ends, where a hash table looks.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

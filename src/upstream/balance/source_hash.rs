//! source-hash: assigns each client address to a backend, by weighted rendezvous hashing.
//!
//! An address is hashed to one of 2²⁰ slots, and a slot belongs to the eligible backend with the
//! highest score for it (Thaler and Ravishankar, 1998; weights after Schindelhauer and Schomaker,
//! 2005). Scores depend only on the backend's name, its weight and the slot. Therefore two proxies that
//! have equal backends agree in whatever order they are listed, a new backend takes its share from all
//! others, and only the slots of a removed backend move.
//!
//! A cache of owners costs O(n) for the first use of a slot and O(1) afterwards. It is not cleared when a
//! backend goes up or down: each cached owner has the epoch (number of changes) for which it is correct,
//! and is compared with the backends that changed since. So a pool with one flapping backend does not
//! compute every slot again. A changed weight clears the cache.
//!
//! Scores use the configured weight and ignore slow start. Otherwise addresses would move with each step,
//! and two proxies that noticed the recovery at different times would not agree. A recovered backend
//! gets all its addresses immediately; admission limits the rate of new sessions.
//!
//! The epoch is increased after the change. A reader in between may see the change too early, never too
//! late; applying a change twice does no harm.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::upstream::load::Load;

/// Bits of a slot number. Fixed, because it decides which addresses share a slot, and this must not
/// depend on the number of backends.
const SLOT_BITS: u32 = 20;

/// Size of the list of recent changes. An owner that missed more changes is computed again.
const CHANGES: usize = 128;

/// Rendezvous over the backends of a pool.
#[derive(Debug)]
pub(super) struct SourceHash {
    candidates: Box<[Candidate]>,
    /// Cache of [`Entry`]s, by the low bits of the slot number. 128 entries per backend, at most one per
    /// slot, so that a small pool needs little memory.
    entries: Box<[AtomicU64]>,
    /// Number of changes so far. Stored after the change has been added to `changed`.
    epoch: AtomicU32,
    /// Indices of the backends that changed recently, by epoch.
    changed: Box<[AtomicU32]>,
    /// Locked while a change is recorded.
    writer: Mutex<()>,
}

#[derive(Debug)]
struct Candidate {
    load: Arc<Load>,
    /// The weight for scores, as of the last notification. If scores used the live weight, a slot could
    /// move to another backend before the change is counted, and a third backend with a higher score
    /// would not be considered.
    weight: AtomicU32,
    /// Hash of its name.
    seed: u64,
}

/// A cached owner. Bits 0–23: its index; 24–31: the high bits of the slot number; 32–63: the epoch for
/// which it is correct.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    /// The entry is empty.
    const UNUSED: u32 = 0xff_ffff;
    /// The slot has no owner because no backend is eligible.
    const NO_OWNER: u32 = 0xff_fffe;

    fn new(owner: Option<u32>, tag: u32, epoch: u32) -> Self {
        let owner = owner.unwrap_or(Self::NO_OWNER);
        Self(u64::from(epoch) << 32 | u64::from(tag) << 24 | u64::from(owner))
    }

    fn owner(self) -> Option<u32> {
        let owner = (self.0 & 0xff_ffff) as u32;
        (owner != Self::NO_OWNER).then_some(owner)
    }

    fn is_of(self, tag: u32) -> bool {
        self.0 & 0xff_ffff != u64::from(Self::UNUSED) && (self.0 >> 24) as u8 == tag as u8
    }

    fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl SourceHash {
    pub(super) fn new(names: &[&str], loads: Vec<Arc<Load>>) -> Self {
        assert!(loads.len() < Entry::NO_OWNER as usize, "too many backends in one pool");
        let slots = 1 << SLOT_BITS;
        let entries = (128 * loads.len()).next_power_of_two().clamp(1 << 12, slots);
        let unused = u64::from(Entry::UNUSED);
        Self {
            candidates: names
                .iter()
                .zip(loads)
                .map(|(name, load)| {
                    let weight = AtomicU32::new(load.weight());
                    Candidate { load, weight, seed: xxh3_64(name.as_bytes()) }
                })
                .collect(),
            entries: (0..entries).map(|_| AtomicU64::new(unused)).collect(),
            epoch: AtomicU32::new(0),
            changed: (0..CHANGES).map(|_| AtomicU32::new(0)).collect(),
            writer: Mutex::new(()),
        }
    }

    /// Returns the owner of the slot of `source`. If it is in `tried`, returns the best other backend.
    pub(super) fn pick(&self, source: &[u8], tried: &[u32]) -> Option<u32> {
        let slot = (xxh3_64(source) >> (u64::BITS - SLOT_BITS)) as u32;
        let owner = self.owner(slot)?;
        if tried.contains(&owner) { self.best(slot, tried) } else { Some(owner) }
    }

    pub(super) fn state_changed(&self, index: u32) {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Candidate { load, weight, .. } = &self.candidates[index as usize];
        let epoch = self.epoch.load(SeqCst);
        let now = load.weight();
        if weight.swap(now, SeqCst) == now {
            self.changed[epoch as usize % CHANGES].store(index, SeqCst);
            self.epoch.store(epoch.wrapping_add(1), SeqCst);
        } else {
            // Makes every cached owner outdated.
            self.epoch.store(epoch.wrapping_add(CHANGES as u32), SeqCst);
        }
    }

    pub(super) fn rebuild(&self) {
        for index in 0..self.candidates.len() as u32 {
            self.state_changed(index);
        }
    }

    fn owner(&self, slot: u32) -> Option<u32> {
        let place = &self.entries[slot as usize % self.entries.len()];
        let tag = slot >> self.entries.len().ilog2();
        // Read before the scores: a change that they miss then belongs to a later epoch.
        let epoch = self.epoch.load(SeqCst);
        let entry = Entry(place.load(SeqCst));
        if entry.is_of(tag) && entry.epoch() == epoch {
            return entry.owner();
        }
        let caught_up = if entry.is_of(tag) { self.catch_up(slot, entry, epoch) } else { None };
        let owner = caught_up.unwrap_or_else(|| self.best(slot, &[]));
        place.store(Entry::new(owner, tag, epoch).0, SeqCst);
        owner
    }

    /// Returns the owner at `epoch`, computed from the cached owner and the backends that changed since;
    /// `None` if these are not sufficient.
    fn catch_up(&self, slot: u32, entry: Entry, epoch: u32) -> Option<Option<u32>> {
        let missed = epoch.wrapping_sub(entry.epoch());
        if missed as usize > CHANGES / 2 {
            return None;
        }
        let mut owner = entry.owner();
        let mut best = match owner {
            // `?`: the owner has just gone down, and any other backend may be the best.
            Some(owner) => Some(self.score(owner, slot)?),
            None => None,
        };
        for change in 0..missed {
            let place = entry.epoch().wrapping_add(change) as usize % CHANGES;
            let changed = self.changed[place].load(SeqCst);
            if Some(changed) == owner {
                return None;
            }
            let score = self.score(changed, slot);
            if is_better((score, changed), (best, owner.unwrap_or(u32::MAX))) {
                (owner, best) = (Some(changed), score);
            }
        }
        // If many changes were recorded meanwhile, the entries read above may have been overwritten.
        let now = self.epoch.load(SeqCst);
        ((now.wrapping_sub(entry.epoch()) as usize) < CHANGES).then_some(owner)
    }

    fn best(&self, slot: u32, tried: &[u32]) -> Option<u32> {
        let mut best = (None, u32::MAX);
        for index in 0..self.candidates.len() as u32 {
            if tried.is_empty() || !tried.contains(&index) {
                let score = self.score_above(index, slot, best.0.unwrap_or(0.0));
                if is_better((score, index), best) {
                    best = (score, index);
                }
            }
        }
        best.0.map(|_| best.1)
    }

    /// weight / −ln(u), with u uniform in (0, 1) from name and slot; `None` if not eligible.
    fn score(&self, index: u32, slot: u32) -> Option<f64> {
        self.score_above(index, slot, 0.0)
    }

    /// Returns the score, or `None` also if it is certainly below `bar`. Because 1 − u ≤ −ln(u), most
    /// comparisons need no logarithm.
    fn score_above(&self, index: u32, slot: u32, bar: f64) -> Option<f64> {
        let Candidate { load, weight, seed } = &self.candidates[index as usize];
        let hash = xxh3_64_with_seed(&slot.to_le_bytes(), *seed);
        let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let weight = f64::from(weight.load(SeqCst));
        if weight < bar * (1.0 - uniform) || !load.accepts_new() {
            return None;
        }
        Some(weight / -uniform.ln())
    }
}

/// A higher score wins, and any score beats none. Equal scores are ordered by index: they need a
/// collision of 53 bits, as the names in a pool are unique.
fn is_better(a: (Option<f64>, u32), b: (Option<f64>, u32)) -> bool {
    match (a.0, b.0) {
        (Some(x), Some(y)) => x > y || (x == y && a.1 < b.1),
        (some, _) => some.is_some(),
    }
}

#[cfg(test)]
mod tests;

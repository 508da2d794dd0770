//! source-hash: each client address has its backend, by weighted rendezvous.
//!
//! An address is hashed to one of 2²⁰ slots, and a slot belongs to the eligible backend with the
//! highest score for it (Thaler and Ravishankar, 1998; weights after Schindelhauer and Schomaker,
//! 2005). Scores depend on a backend's name and weight and the slot alone: two proxies with the same
//! backends agree whatever the order of their lists, a new backend takes its share from all, and a
//! removed one's slots go to the others while no other slot moves.
//!
//! Owners are remembered in a table that costs O(n) for a slot's first use and O(1) afterwards. A
//! change of state or weight does not clear it: each remembered owner carries the number of changes
//! that it knows of, and is measured against the backends that changed since.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::upstream::load::Load;

/// Bits of a slot's number. Fixed: it decides which addresses go together, so that it must not
/// depend on how many backends there are.
const SLOT_BITS: u32 = 20;

/// Remembered changes. An owner that has missed more is found anew.
const CHANGES: usize = 128;

/// Rendezvous over the backends of a pool.
#[derive(Debug)]
pub(super) struct SourceHash {
    candidates: Box<[Candidate]>,
    /// [`Entry`]s, found by the low bits of the slot's number; at least 128 a backend up to one a
    /// slot, so that a small pool does not pay for a large one.
    entries: Box<[AtomicU64]>,
    /// Changes so far. It is stored after the change it counts is in `changed`.
    epoch: AtomicU32,
    /// Indices of the backends that changed last, by epoch.
    changed: Box<[AtomicU32]>,
    /// Held while a change is written down.
    writer: Mutex<()>,
}

#[derive(Debug)]
struct Candidate {
    load: Arc<Load>,
    /// Hash of its name.
    seed: u64,
}

/// A remembered owner: bits 0–23 its index, 24–31 the slot's number above the entry's own, 32–63 the
/// epoch it is known to be right for.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    /// No slot has been here.
    const UNUSED: u32 = 0xff_ffff;
    /// The slot has no owner: nobody is eligible.
    const NOBODY: u32 = 0xff_fffe;

    fn new(owner: Option<u32>, tag: u32, epoch: u32) -> Self {
        let owner = owner.unwrap_or(Self::NOBODY);
        Self(u64::from(epoch) << 32 | u64::from(tag) << 24 | u64::from(owner))
    }

    fn owner(self) -> Option<u32> {
        let owner = (self.0 & 0xff_ffff) as u32;
        (owner != Self::NOBODY).then_some(owner)
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
        assert!(loads.len() < Entry::NOBODY as usize, "too many backends in one pool");
        let slots = 1 << SLOT_BITS;
        let entries = (128 * loads.len()).next_power_of_two().clamp(1 << 12, slots);
        let unused = u64::from(Entry::UNUSED);
        Self {
            candidates: names
                .iter()
                .zip(loads)
                .map(|(name, load)| Candidate { load, seed: xxh3_64(name.as_bytes()) })
                .collect(),
            entries: (0..entries).map(|_| AtomicU64::new(unused)).collect(),
            epoch: AtomicU32::new(0),
            changed: (0..CHANGES).map(|_| AtomicU32::new(0)).collect(),
            writer: Mutex::new(()),
        }
    }

    /// The owner of `source`'s slot; with `tried`, whose it would be without them.
    pub(super) fn pick(&self, source: &[u8], tried: &[u32]) -> Option<u32> {
        let slot = (xxh3_64(source) >> (u64::BITS - SLOT_BITS)) as u32;
        let owner = self.owner(slot)?;
        if tried.contains(&owner) { self.best(slot, tried) } else { Some(owner) }
    }

    pub(super) fn state_changed(&self, index: u32) {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(SeqCst);
        self.changed[epoch as usize % CHANGES].store(index, SeqCst);
        self.epoch.store(epoch.wrapping_add(1), SeqCst);
    }

    pub(super) fn rebuild(&self) {
        for entry in &self.entries {
            entry.store(u64::from(Entry::UNUSED), SeqCst);
        }
    }

    fn owner(&self, slot: u32) -> Option<u32> {
        let place = &self.entries[slot as usize % self.entries.len()];
        let tag = slot >> self.entries.len().ilog2();
        // Read before any score is: a change that is missed then is a later epoch's.
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

    /// The owner at `epoch`, from the one remembered and the backends that changed since; `None`
    /// where that does not tell.
    fn catch_up(&self, slot: u32, entry: Entry, epoch: u32) -> Option<Option<u32>> {
        let missed = epoch.wrapping_sub(entry.epoch());
        if missed as usize > CHANGES / 2 {
            return None;
        }
        let mut owner = entry.owner();
        let mut best = owner.and_then(|owner| self.score(owner, slot));
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
        // Were so many changes written down meanwhile that the first places were used again, what
        // was read from them is some other change.
        let now = self.epoch.load(SeqCst);
        ((now.wrapping_sub(entry.epoch()) as usize) < CHANGES).then_some(owner)
    }

    fn best(&self, slot: u32, tried: &[u32]) -> Option<u32> {
        let mut best = (None, u32::MAX);
        for index in 0..self.candidates.len() as u32 {
            if tried.is_empty() || !tried.contains(&index) {
                let score = self.score(index, slot);
                if is_better((score, index), best) {
                    best = (score, index);
                }
            }
        }
        best.0.map(|_| best.1)
    }

    /// weight / −ln(u), with u uniform in (0, 1) by name and slot; `None` where not eligible.
    fn score(&self, index: u32, slot: u32) -> Option<f64> {
        let Candidate { load, seed } = &self.candidates[index as usize];
        if !load.takes_new() {
            return None;
        }
        let hash = xxh3_64_with_seed(&slot.to_le_bytes(), *seed);
        let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        Some(f64::from(load.weight()) / -uniform.ln())
    }
}

/// A higher score wins, any score beats none. Equal ones go by index: that takes a collision of 53
/// bits, or two backends of one name, which a pool does not have.
fn is_better(a: (Option<f64>, u32), b: (Option<f64>, u32)) -> bool {
    match (a.0, b.0) {
        (Some(x), Some(y)) => x > y || (x == y && a.1 < b.1),
        (some, _) => some.is_some(),
    }
}

//! source-hash: each client address has its backend, by weighted rendezvous.
//!
//! An address is hashed to one of 2²⁰ slots, and a slot belongs to the eligible backend with the
//! highest score for it (Thaler and Ravishankar, 1998; weights after Schindelhauer and Schomaker,
//! 2005). Scores depend on a backend's name and weight and the slot alone: two proxies with the same
//! backends agree whatever the order of their lists, a new backend takes its share from all, and a
//! removed one's slots go to the others while no other slot moves.
//!
//! Owners are remembered in a table that costs O(n) for a slot's first use and O(1) afterwards. A
//! backend that comes or goes does not clear it: each remembered owner carries the number of changes
//! that it knows of, and is measured against the backends that changed since. So a pool with one
//! flapping backend does not compute every slot anew all the time. A new weight does clear it.
//!
//! A slow start does not show here: were scores made with the weight in force, addresses would leave
//! their backend and come back to it with each step, and two proxies that saw it come back at different
//! moments would not agree. A backend that comes back takes its own addresses at once; what a herd of
//! them may do to it is for admission to bound.
//!
//! A change is counted after it was made, so that whoever looks in between remembers more than the
//! count says, never less; looking at the same change once more does no harm.

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
    /// The weight that all scores are made with: its own, as of the last change that was told. Were
    /// it read live, an owner could lose a slot to another before the change is counted, and a third
    /// one with a better claim would not be looked at again.
    weight: AtomicU32,
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

    /// The owner of `source`'s slot; with `tried`, whose it would be without them.
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
            // Further than any remembered owner can follow.
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
        let mut best = match owner {
            // It went down this moment, and any other may be the next.
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
        // Were so many changes written down meanwhile that the first places were used again, what
        // was read from them is some other change.
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

    /// weight / −ln(u), with u uniform in (0, 1) by name and slot; `None` where not eligible.
    fn score(&self, index: u32, slot: u32) -> Option<f64> {
        self.score_above(index, slot, 0.0)
    }

    /// The score, or `None` also where it is certainly below `bar`: 1 − u ≤ −ln(u) tells most of
    /// them without a logarithm.
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

/// A higher score wins, any score beats none. Equal ones go by index: that takes a collision of 53
/// bits, or two backends of one name, which a pool does not have.
fn is_better(a: (Option<f64>, u32), b: (Option<f64>, u32)) -> bool {
    match (a.0, b.0) {
        (Some(x), Some(y)) => x > y || (x == y && a.1 < b.1),
        (some, _) => some.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::SourceHash;
    use crate::upstream::load::Load;

    const KEYS: u32 = 20_000;

    type Named = Vec<(String, Arc<Load>)>;

    fn named(weights: impl IntoIterator<Item = u32>) -> Named {
        let weights = weights.into_iter().enumerate();
        weights
            .map(|(i, weight)| (format!("10.0.0.{i}:3000"), Arc::new(Load::new(weight))))
            .collect()
    }

    fn hash(backends: &Named) -> SourceHash {
        let names: Vec<&str> = backends.iter().map(|(name, _)| name.as_str()).collect();
        SourceHash::new(&names, backends.iter().map(|(_, load)| Arc::clone(load)).collect())
    }

    /// The name of each key's owner.
    fn owners<'a>(hash: &SourceHash, backends: &'a Named) -> Vec<&'a str> {
        let owner = |key: u32| hash.pick(&key.to_be_bytes(), &[]).unwrap();
        (0..KEYS).map(|key| backends[owner(key) as usize].0.as_str()).collect()
    }

    fn moved(before: &[&str], after: &[&str]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    #[test]
    fn a_new_backend_takes_its_share_and_nothing_else_moves() {
        let eleven = named([1; 11]);
        let ten = eleven[..10].to_vec();
        let (before, after) = (hash(&ten), hash(&eleven));
        let (before, after) = (owners(&before, &ten), owners(&after, &eleven));
        let share = KEYS as usize / 11;
        assert!(moved(&before, &after).abs_diff(share) < share / 10);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == eleven[10].0);
        }
    }

    #[test]
    fn a_larger_table_moves_nothing() {
        // 32 backends have 2¹² entries, 33 have twice as many.
        let more = named([1; 33]);
        let fewer = more[..32].to_vec();
        let (before, after) = (hash(&fewer), hash(&more));
        assert!(before.entries.len() < after.entries.len());
        let (before, after) = (owners(&before, &fewer), owners(&after, &more));
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == more[32].0);
        }
    }

    #[test]
    fn only_the_keys_of_a_lost_backend_move_and_they_come_back() {
        let backends = named([1, 2, 3, 4, 5]);
        let hash = hash(&backends);
        let before = owners(&hash, &backends);
        backends[2].1.record_check(false, 1, 1);
        hash.state_changed(2);
        let without = owners(&hash, &backends);
        for (before, without) in before.iter().zip(&without) {
            assert_eq!(before == without, *before != backends[2].0);
        }
        backends[2].1.record_check(true, 1, 1);
        hash.state_changed(2);
        assert_eq!(moved(&before, &owners(&hash, &backends)), 0);
    }

    #[test]
    fn the_order_of_the_list_moves_nothing() {
        let backends = named([1, 2, 3, 4, 5]);
        let mut reversed = backends.clone();
        reversed.reverse();
        let (one, other) = (hash(&backends), hash(&reversed));
        assert_eq!(moved(&owners(&one, &backends), &owners(&other, &reversed)), 0);
    }

    #[test]
    fn keys_spread_by_weight() {
        let backends = named([1, 2, 3, 4]);
        let hash = hash(&backends);
        let owners = owners(&hash, &backends);
        for (name, load) in &backends {
            let owned = owners.iter().filter(|owner| *owner == name).count();
            let expected = KEYS as usize / 10 * load.weight() as usize;
            assert!(owned.abs_diff(expected) < expected / 10, "{owned} for {expected}");
        }
    }

    #[test]
    fn a_new_weight_moves_keys_to_where_it_grew() {
        let backends = named([1; 5]);
        let hash = hash(&backends);
        let before = owners(&hash, &backends);
        backends[0].1.set_weight(2);
        hash.state_changed(0);
        let after = owners(&hash, &backends);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == backends[0].0);
        }
        let expected = KEYS as usize / 3 - KEYS as usize / 5;
        assert!(moved(&before, &after).abs_diff(expected) < expected / 10);
    }

    #[test]
    fn a_tried_owner_is_followed_by_whose_slot_it_would_be_without_it() {
        let backends = named([1; 7]);
        let hash = hash(&backends);
        for key in 0..500u32 {
            let key = key.to_be_bytes();
            let owner = hash.pick(&key, &[]).unwrap();
            let next = hash.pick(&key, &[owner]).unwrap();
            assert_ne!(owner, next);
            backends[owner as usize].1.record_check(false, 1, 1);
            hash.state_changed(owner);
            assert_eq!(hash.pick(&key, &[]), Some(next));
            backends[owner as usize].1.record_check(true, 1, 1);
            hash.state_changed(owner);
        }
    }

    proptest! {
        #[test]
        fn remembered_owners_are_what_a_fresh_table_says(
            weights in prop::collection::vec(1..5u32, 1..12),
            steps in prop::collection::vec((0..300usize, any::<prop::sample::Index>(), 0..9u8), 1..12),
        ) {
            let backends = named(weights);
            let hash = hash(&backends);
            for (changes, first, kind) in steps {
                for change in 0..changes {
                    let index = (first.index(backends.len()) + change) % backends.len();
                    let load = &backends[index].1;
                    match kind {
                        0 if change == 0 => { load.set_weight(load.weight() + 1); }
                        _ => { load.record_check((change + usize::from(kind)) % 3 != 0, 1, 1); }
                    }
                    hash.state_changed(index as u32);
                }
                let fresh = self::hash(&backends);
                for key in 0..64u32 {
                    let key = key.to_be_bytes();
                    prop_assert_eq!(hash.pick(&key, &[]), fresh.pick(&key, &[]));
                }
            }
        }
    }

    #[test]
    fn owners_are_right_once_concurrent_changes_are_over() {
        let backends = named([1; 9]);
        let hash = hash(&backends);
        std::thread::scope(|scope| {
            for thread in 0..2usize {
                let (hash, backends) = (&hash, &backends);
                scope.spawn(move || {
                    for round in 0..4000 {
                        let index = (thread + round) % backends.len();
                        backends[index].1.record_check(round % 3 == 0, 1, 1);
                        hash.state_changed(index as u32);
                    }
                });
                scope.spawn(move || {
                    for key in 0..40_000u32 {
                        hash.pick(&(key % 512).to_be_bytes(), &[]);
                    }
                });
            }
        });
        let fresh = self::hash(&backends);
        for key in 0..512u32 {
            let key = key.to_be_bytes();
            assert_eq!(hash.pick(&key, &[]), fresh.pick(&key, &[]));
        }
    }
}

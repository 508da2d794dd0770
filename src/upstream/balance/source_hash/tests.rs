//! Which keys move on a change, shares by weight, and concurrent changes.

use std::sync::Arc;

use proptest::prelude::*;

use super::SourceHash;
use crate::upstream::load::Load;

const KEYS: u32 = 20_000;

type Named = Vec<(String, Arc<Load>)>;

fn named(weights: impl IntoIterator<Item = u32>) -> Named {
    let weights = weights.into_iter().enumerate();
    weights.map(|(i, weight)| (format!("10.0.0.{i}:3000"), Arc::new(Load::new(weight)))).collect()
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
fn a_new_backend_takes_its_share_and_no_other_key_moves() {
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
fn a_larger_cache_moves_no_key() {
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
fn only_the_keys_of_a_failed_backend_move_and_they_return() {
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
fn the_order_of_the_backends_does_not_matter() {
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
fn a_larger_weight_moves_keys_to_that_backend_only() {
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
fn after_a_tried_owner_the_next_best_backend_is_picked() {
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
    fn cached_owners_equal_computed_owners(
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
fn owners_are_correct_after_concurrent_changes() {
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

//! p2c: the less loaded of two backends that are drawn at random by weight.
//!
//! A tree holds the sums of the weights of the eligible backends, so that a draw is one walk from root to
//! leaf. Invariant: while no state or weight changes, each node holds the sum of the leaves below it; see
//! [`tree`](super::tree). Session counts are read at each pick, so the tree does not store them.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use super::tree::{Shape, update};
use crate::upstream::load::Load;

/// Draws before a scan. A draw fails only if a state changes during its walk.
const DRAWS: usize = 8;

/// Weighted draws over the backends of a pool.
#[derive(Debug)]
pub(super) struct Draw {
    shape: Shape,
    loads: Box<[Arc<Load>]>,
    /// Sums of the inner nodes; index 0 is unused.
    sums: Box<[AtomicU64]>,
    /// State of the random sequence (SplitMix64), which is good enough here and needs no lock.
    random: AtomicU64,
}

impl Draw {
    pub(super) fn new(loads: Vec<Arc<Load>>) -> Self {
        let shape = Shape::new(loads.len());
        let draw = Self {
            shape,
            loads: loads.into(),
            sums: (0..shape.inner()).map(|_| AtomicU64::new(0)).collect(),
            random: AtomicU64::new(RandomState::new().build_hasher().finish()),
        };
        draw.rebuild();
        draw
    }

    /// Picks the less loaded of two eligible backends outside `tried`, or the only one.
    pub(super) fn pick(&self, tried: &[u32]) -> Option<u32> {
        let first = self.draw(tried)?;
        let second = match tried {
            // The common case needs no allocation.
            [] => self.draw(&[first]),
            _ => self.draw(&[tried, &[first]].concat()),
        };
        match second {
            Some(second) if self.is_lighter(second, first) => Some(second),
            _ => Some(first),
        }
    }

    pub(super) fn state_changed(&self, index: u32) {
        for node in self.shape.path(index) {
            self.update(node);
        }
    }

    pub(super) fn rebuild(&self) {
        for node in (1..self.shape.inner()).rev() {
            self.update(node);
        }
    }

    /// Draws an eligible backend outside `without`, by weight.
    fn draw(&self, without: &[u32]) -> Option<u32> {
        for _ in 0..DRAWS {
            let total = self.sum_without(Shape::ROOT, without);
            if total == 0 {
                return None;
            }
            let drawn = self.walk(self.random() % total, without);
            if self.loads[drawn as usize].accepts_new() && !without.contains(&drawn) {
                return Some(drawn);
            }
        }
        (0..self.loads.len() as u32)
            .find(|index| self.loads[*index as usize].accepts_new() && !without.contains(index))
    }

    /// Returns the leaf at which the running sum of the weights exceeds `ticket`.
    fn walk(&self, mut ticket: u64, without: &[u32]) -> u32 {
        let mut node = Shape::ROOT;
        loop {
            if let Some(leaf) = self.shape.leaf(node) {
                return leaf;
            }
            let left = self.sum_without(2 * node, without);
            node *= 2;
            if ticket >= left {
                ticket -= left;
                node += 1;
            }
        }
    }

    fn is_lighter(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.loads[a as usize], &self.loads[b as usize]);
        // Does not add the new session, unlike least-sessions: of two idle backends the first drawn
        // one wins, because the draw has already considered its weight.
        let share = |x: &Load, y: &Load| {
            (x.fullness() + u64::from(x.requests())) * u64::from(y.effective_weight())
        };
        share(a, b) < share(b, a)
    }

    fn update(&self, node: usize) {
        let sum = &self.sums[node];
        update(
            || self.sum(2 * node) + self.sum(2 * node + 1),
            || sum.load(SeqCst),
            |value| sum.store(*value, SeqCst),
        );
    }

    /// Sum of the weights of the eligible backends below `node` outside `without`.
    fn sum_without(&self, node: usize, without: &[u32]) -> u64 {
        if self.shape.is_empty() {
            return 0;
        }
        let below = without.iter().filter(|leaf| self.shape.covers(node, **leaf));
        // Saturates, because a sum may be outdated during a change.
        self.sum(node).saturating_sub(below.map(|leaf| self.leaf_sum(*leaf)).sum())
    }

    fn sum(&self, node: usize) -> u64 {
        match self.shape.leaf(node) {
            Some(leaf) => self.leaf_sum(leaf),
            None => self.sums[node].load(SeqCst),
        }
    }

    fn leaf_sum(&self, leaf: u32) -> u64 {
        let load = &self.loads[leaf as usize];
        if load.accepts_new() { u64::from(load.effective_weight()) } else { 0 }
    }

    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.random.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Arc, atomic::Ordering::SeqCst},
    };

    use proptest::prelude::*;

    use super::Draw;
    use crate::upstream::load::{Lifecycle, Load};

    /// With a fixed random sequence, so that tests are reproducible.
    fn draw(weights: &[u32]) -> (Draw, Vec<Arc<Load>>) {
        let loads: Vec<_> = weights.iter().map(|&weight| Arc::new(Load::new(weight))).collect();
        let draw = Draw::new(loads.clone());
        draw.random.store(7, SeqCst);
        (draw, loads)
    }

    fn picks(draw: &Draw, backends: usize, times: usize) -> Vec<usize> {
        let mut picks = vec![0; backends];
        for _ in 0..times {
            picks[draw.pick(&[]).unwrap() as usize] += 1;
        }
        picks
    }

    #[test]
    fn idle_backends_are_picked_by_weight() {
        let weights = [1, 2, 3, 4];
        let (draw, _loads) = draw(&weights);
        for (picked, weight) in picks(&draw, 4, 100_000).into_iter().zip(weights) {
            let expected = 10_000 * weight as usize;
            assert!(picked.abs_diff(expected) < expected / 20, "{picked} for {expected}");
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        let (draw, loads) = draw(&[1, 1]);
        loads[0].add_session();
        assert_eq!(picks(&draw, 2, 100), [0, 100]);
        loads[1].add_request();
        loads[1].add_request();
        assert_eq!(picks(&draw, 2, 100), [100, 0]);
    }

    #[test]
    fn held_sessions_spread_by_weight() {
        let (draw, loads) = draw(&[1, 1, 2, 4]);
        for _ in 0..8000 {
            loads[draw.pick(&[]).unwrap() as usize].add_session();
        }
        for (load, share) in loads.iter().zip([1000, 1000, 2000, 4000u32]) {
            assert!(load.sessions().abs_diff(share) < 50, "{loads:?}");
        }
    }

    #[test]
    fn the_only_eligible_backend_is_picked() {
        let (draw, loads) = draw(&[1, 1, 1]);
        loads[1].set_lifecycle(Lifecycle::Draining);
        draw.state_changed(1);
        assert!((0..50).all(|_| draw.pick(&[2]) == Some(0)));
        assert_eq!(draw.pick(&[0, 2]), None);
    }

    proptest! {
        #[test]
        fn sums_follow_every_change_and_draws_find_an_eligible_backend(
            weights in prop::collection::vec(1..100u32, 1..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, 1..100u32), 0..60),
            tried in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let (draw, loads) = draw(&weights);
            for (index, change, weight) in changes {
                let index = index.index(loads.len());
                match change {
                    0 => { loads[index].record_check(false, 1, 1); }
                    1 => { loads[index].record_check(true, 1, 1); }
                    _ => { loads[index].set_weight(weight); }
                }
                draw.state_changed(index as u32);
            }
            let tried: BTreeSet<u32> = tried.iter().map(|i| i.index(loads.len()) as u32).collect();
            let tried = Vec::from_iter(tried);
            let may_be = |index: u32| loads[index as usize].accepts_new() && !tried.contains(&index);
            let any = (0..loads.len() as u32).any(may_be);
            for _ in 0..20 {
                let picked = draw.pick(&tried);
                prop_assert_eq!(picked.is_some(), any);
                prop_assert!(picked.is_none_or(may_be));
            }
        }
    }

    #[test]
    fn sums_are_correct_after_concurrent_changes() {
        let (draw, loads) = draw(&[3; 37]);
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (draw, loads) = (&draw, &loads);
                scope.spawn(move || {
                    for round in 0..3000 {
                        // Adjacent leaves share every node above them.
                        let index = (thread + round) % loads.len();
                        loads[index].record_check(round % 2 == 0, 1, 1);
                        draw.state_changed(index as u32);
                        if let Some(picked) = draw.pick(&[]) {
                            assert!((picked as usize) < loads.len());
                        }
                    }
                });
            }
        });
        for node in (1..draw.shape.inner()).rev() {
            assert_eq!(draw.sum(node), draw.sum(2 * node) + draw.sum(2 * node + 1));
        }
    }
}

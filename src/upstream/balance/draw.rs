//! p2c: the less loaded of two drawn at random by weight.
//!
//! A tree of sums over the weights of the eligible backends makes a draw one descent. Invariant:
//! once no change of state or weight is under way, each node holds the sum below it; see
//! [`tree`](super::tree). Loads are read live and need no upkeep.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use super::tree::{Shape, settle};
use crate::upstream::load::Load;

/// Draws before a scan. A draw misses only where a state changed during its descent.
const DRAWS: usize = 8;

/// Weighted draws over the backends of a pool.
#[derive(Debug)]
pub(super) struct Draw {
    shape: Shape,
    loads: Box<[Arc<Load>]>,
    /// Sums of the inner nodes; the place before the root is unused.
    sums: Box<[AtomicU64]>,
    /// State of the random sequence (SplitMix64): statistics need no more, and it takes no lock.
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

    /// The less loaded of two eligible backends outside `tried`, or the only one.
    pub(super) fn pick(&self, tried: &[u32]) -> Option<u32> {
        let first = self.draw(tried)?;
        let mut others = Vec::new();
        let others = match tried {
            // The common case needs no allocation.
            [] => &[first][..],
            _ => {
                others.extend(tried.iter().copied().chain([first]));
                &others[..]
            }
        };
        match self.draw(others) {
            Some(second) if self.is_lighter(second, first) => Some(second),
            _ => Some(first),
        }
    }

    pub(super) fn state_changed(&self, index: u32) {
        for node in self.shape.path(index) {
            self.settle(node);
        }
    }

    pub(super) fn rebuild(&self) {
        for node in (1..self.shape.inner()).rev() {
            self.settle(node);
        }
    }

    /// One eligible backend outside `without`, by weight.
    fn draw(&self, without: &[u32]) -> Option<u32> {
        for _ in 0..DRAWS {
            let total = self.sum_without(Shape::ROOT, without);
            if total == 0 {
                return None;
            }
            let drawn = self.descend(self.random() % total, without);
            if self.loads[drawn as usize].takes_new() && !without.contains(&drawn) {
                return Some(drawn);
            }
        }
        (0..self.loads.len() as u32)
            .find(|index| self.loads[*index as usize].takes_new() && !without.contains(index))
    }

    /// The leaf in whose stretch of the sum `ticket` falls.
    fn descend(&self, mut ticket: u64, without: &[u32]) -> u32 {
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
        let share = |x: &Load, y: &Load| {
            (u64::from(x.sessions()) + u64::from(x.requests()) + 1) * u64::from(y.weight())
        };
        share(a, b) < share(b, a)
    }

    fn settle(&self, node: usize) {
        let sum = &self.sums[node];
        settle(
            || self.sum(2 * node) + self.sum(2 * node + 1),
            || sum.load(SeqCst),
            |value| sum.store(*value, SeqCst),
        );
    }

    /// Weights of the eligible backends below `node` that are not left out.
    fn sum_without(&self, node: usize, without: &[u32]) -> u64 {
        if self.shape.is_empty() {
            return 0;
        }
        let below = without.iter().filter(|leaf| self.shape.covers(node, **leaf));
        // A sum may lag behind a change under way, hence the saturation.
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
        if load.takes_new() { u64::from(load.weight()) } else { 0 }
    }

    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.random.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

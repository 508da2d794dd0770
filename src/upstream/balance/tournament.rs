//! least-sessions and round-robin: a tournament tree whose root is the next backend.
//!
//! Each backend is a leaf, each inner node holds the better of the winners of its children, and the root
//! holds the best backend. Invariant: while nothing changes, each node holds the best leaf below it;
//! [`tree`](super::tree) explains why concurrent changes cannot break this.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use super::tree::{Shape, update};
use crate::upstream::load::{FULL_SHARE, Load};

/// Stride of a backend with an effective weight of 1: what a turn adds to its pass. A backend of weight 1
/// outside slow start has 2³², and one of the largest weight 2¹⁶.
const STRIDE: u64 = (1 << 32) * FULL_SHARE as u64;

/// How backends are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Fewer sessions relative to the weight, then the backend picked longest ago.
    LeastSessions,
    /// The lower pass: stride scheduling (Waldspurger, 1995).
    RoundRobin,
}

/// A leaf: a backend and what this selector stores about it.
#[derive(Debug)]
struct Leaf {
    load: Arc<Load>,
    /// [`Rank::LeastSessions`]: number of its last pick. [`Rank::RoundRobin`]: its pass.
    order: AtomicU64,
    /// [`Rank::RoundRobin`]: whether the backend was eligible at the last change.
    was_eligible: AtomicBool,
}

/// A tournament tree over the backends of a pool.
#[derive(Debug)]
pub(super) struct Tournament {
    rank: Rank,
    shape: Shape,
    leaves: Box<[Leaf]>,
    /// Winners of the inner nodes; index 0 is unused.
    winners: Box<[AtomicU32]>,
    /// [`Rank::LeastSessions`]: number of picks. [`Rank::RoundRobin`]: the pass of the last winner.
    clock: AtomicU64,
}

impl Tournament {
    /// Creates a tree for least-sessions.
    pub(super) fn least_sessions(loads: Vec<Arc<Load>>) -> Self {
        Self::new(Rank::LeastSessions, loads)
    }

    /// Creates a tree for round-robin.
    pub(super) fn round_robin(loads: Vec<Arc<Load>>) -> Self {
        Self::new(Rank::RoundRobin, loads)
    }

    fn new(rank: Rank, loads: Vec<Arc<Load>>) -> Self {
        let shape = Shape::new(loads.len());
        let leaves = (0u32..).zip(loads).map(|(index, load)| {
            let order = match rank {
                Rank::LeastSessions => 0,
                Rank::RoundRobin => initial_pass(index, &load),
            };
            let was_eligible = load.accepts_new().into();
            Leaf { load, order: AtomicU64::new(order), was_eligible }
        });
        let tournament = Self {
            rank,
            shape,
            leaves: leaves.collect(),
            winners: (0..shape.inner()).map(|_| AtomicU32::new(0)).collect(),
            clock: AtomicU64::new(0),
        };
        tournament.rebuild();
        tournament
    }

    /// Picks the best eligible backend outside `tried`, and moves it behind equal backends.
    pub(super) fn pick(&self, tried: &[u32]) -> Option<u32> {
        if self.shape.is_empty() {
            return None;
        }
        let best = self.best_eligible(tried)?;
        let leaf = self.leaf(best);
        match self.rank {
            Rank::LeastSessions => leaf.order.store(self.clock.fetch_add(1, SeqCst) + 1, SeqCst),
            Rank::RoundRobin => {
                self.clock.store(leaf.order.fetch_add(stride(&leaf.load), SeqCst), SeqCst);
            }
        }
        self.update_path(best);
        Some(best)
    }

    /// Returns the best eligible backend without changing the order.
    pub(super) fn preview(&self) -> Option<u32> {
        if self.shape.is_empty() { None } else { self.best_eligible(&[]) }
    }

    pub(super) fn load_changed(&self, index: u32) {
        if self.rank == Rank::LeastSessions {
            self.update_path(index);
        }
    }

    pub(super) fn state_changed(&self, index: u32) {
        let leaf = self.leaf(index);
        let eligible = leaf.load.accepts_new();
        if !leaf.was_eligible.swap(eligible, SeqCst) && eligible && self.rank == Rank::RoundRobin {
            self.rejoin(leaf);
        }
        self.update_path(index);
    }

    pub(super) fn rebuild(&self) {
        for leaf in &self.leaves {
            leaf.was_eligible.store(leaf.load.accepts_new(), SeqCst);
        }
        for node in (1..self.shape.inner()).rev() {
            self.update(node);
        }
    }

    /// Moves the pass of a backend that is eligible again up to the others. With its old pass, the backend
    /// would get every turn until it had caught up.
    fn rejoin(&self, leaf: &Leaf) {
        let now = self.clock.load(SeqCst);
        let stride = stride(&leaf.load);
        let order = leaf.order.load(SeqCst);
        if order.wrapping_sub(now) > stride {
            leaf.order.store(now.wrapping_add(stride / 2), SeqCst);
        }
    }

    fn best_eligible(&self, tried: &[u32]) -> Option<u32> {
        let best = self.best(Shape::ROOT, tried)?;
        if self.leaf(best).load.accepts_new() {
            return Some(best);
        }
        // All backends are down, or this one has just gone down and the thread that reported it has not
        // reached the root yet. Updating the path here avoids a wrong "no backend".
        self.update_path(best);
        self.best(Shape::ROOT, tried).filter(|best| self.leaf(*best).load.accepts_new())
    }

    /// Returns the best leaf below `node` outside `tried`, eligible or not. Walks only through nodes whose
    /// winner was tried; these are on the paths of the tried leaves.
    fn best(&self, node: usize, tried: &[u32]) -> Option<u32> {
        let winner = self.winner(node);
        if !tried.contains(&winner) {
            return Some(winner);
        }
        if self.shape.leaf(node).is_some() {
            return None;
        }
        match (self.best(2 * node, tried), self.best(2 * node + 1, tried)) {
            (Some(left), Some(right)) => Some(self.better(left, right)),
            (left, right) => left.or(right),
        }
    }

    fn update_path(&self, index: u32) {
        for node in self.shape.path(index) {
            self.update(node);
        }
    }

    fn update(&self, node: usize) {
        let winner = &self.winners[node];
        update(
            || self.better(self.winner(2 * node), self.winner(2 * node + 1)),
            || winner.load(SeqCst),
            |value| winner.store(*value, SeqCst),
        );
    }

    fn winner(&self, node: usize) -> u32 {
        self.shape.leaf(node).unwrap_or_else(|| self.winners[node].load(SeqCst))
    }

    fn leaf(&self, index: u32) -> &Leaf {
        &self.leaves[index as usize]
    }

    /// Returns the better of two leaves. Must depend on the leaves only.
    fn better(&self, a: u32, b: u32) -> u32 {
        match self.compare(self.leaf(a), self.leaf(b)).then(a.cmp(&b)) {
            Ordering::Greater => b,
            Ordering::Less | Ordering::Equal => a,
        }
    }

    fn compare(&self, a: &Leaf, b: &Leaf) -> Ordering {
        let eligible = b.load.accepts_new().cmp(&a.load.accepts_new());
        let (order_a, order_b) = (a.order.load(SeqCst), b.order.load(SeqCst));
        eligible.then_with(|| match self.rank {
            Rank::LeastSessions => fullness(&a.load, &b.load).then(order_a.cmp(&order_b)),
            // Passes wrap around; those of eligible backends are close to each other.
            Rank::RoundRobin => 0.cmp(&(order_b.wrapping_sub(order_a) as i64)),
        })
    }
}

/// Compares (sessions + 1) / weight without a division: the relative load after one more session.
fn fullness(a: &Load, b: &Load) -> Ordering {
    let share = |x: &Load, y: &Load| (x.fullness() + 1) * u64::from(y.effective_weight());
    share(a, b).cmp(&share(b, a))
}

/// Initial pass of a backend within its first stride. Multiples of the golden ratio spread the turns of
/// backends of equal weight evenly between those of a heavier backend.
fn initial_pass(index: u32, load: &Load) -> u64 {
    // In units of 2⁻²⁴, so that the product stays below 2⁶².
    (u64::from(index.wrapping_mul(0x9e37_79b9) >> 8) * stride(load)) >> 24
}

fn stride(load: &Load) -> u64 {
    STRIDE / u64::from(load.effective_weight())
}

#[cfg(test)]
mod tests;

//! least-sessions and round-robin: a tournament tree whose root is the backend to take next.
//!
//! Each backend is a leaf, each inner node names the better of its children's winners, the root the
//! best of all. Invariant: once no change is under way, each node names the best leaf below it; see
//! [`tree`](super::tree) for why concurrent changes cannot break it.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use super::tree::{Shape, settle};
use crate::upstream::load::{FULL_SHARE, Load};

/// How far a backend with one share of a weight of 1 moves on with each turn: one that is wholly in force
/// moves on by 2³², and the heaviest by 2¹⁶.
const STRIDE: u64 = (1 << 32) * FULL_SHARE as u64;

/// What makes one backend better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Fewer sessions for its weight, then the one picked longest ago.
    Fewest,
    /// The lower pass: stride scheduling (Waldspurger, 1995).
    InTurn,
}

/// A leaf: a backend and what this selector remembers of it.
#[derive(Debug)]
struct Leaf {
    load: Arc<Load>,
    /// [`Rank::Fewest`]: number of its last pick. [`Rank::InTurn`]: its pass.
    mark: AtomicU64,
    /// [`Rank::InTurn`]: whether it was eligible when last looked at.
    in_play: AtomicBool,
}

/// A tournament tree over the backends of a pool.
#[derive(Debug)]
pub(super) struct Tournament {
    rank: Rank,
    shape: Shape,
    seats: Box<[Leaf]>,
    /// Winners of the inner nodes; the place before the root is unused.
    winners: Box<[AtomicU32]>,
    /// [`Rank::Fewest`]: number of picks. [`Rank::InTurn`]: the pass of the last winner.
    clock: AtomicU64,
}

impl Tournament {
    /// Fewest sessions for its weight.
    pub(super) fn fewest(loads: Vec<Arc<Load>>) -> Self {
        Self::new(Rank::Fewest, loads)
    }

    /// In turn, by weight.
    pub(super) fn in_turn(loads: Vec<Arc<Load>>) -> Self {
        Self::new(Rank::InTurn, loads)
    }

    fn new(rank: Rank, loads: Vec<Arc<Load>>) -> Self {
        let shape = Shape::new(loads.len());
        let seats = (0u32..).zip(loads).map(|(index, load)| {
            let mark = match rank {
                Rank::Fewest => 0,
                Rank::InTurn => phase(index, &load),
            };
            let in_play = load.accepts_new().into();
            Leaf { load, mark: AtomicU64::new(mark), in_play }
        });
        let tournament = Self {
            rank,
            shape,
            seats: seats.collect(),
            winners: (0..shape.inner()).map(|_| AtomicU32::new(0)).collect(),
            clock: AtomicU64::new(0),
        };
        tournament.rebuild();
        tournament
    }

    /// The best eligible backend outside `tried`; it moves behind its equals.
    pub(super) fn pick(&self, tried: &[u32]) -> Option<u32> {
        if self.shape.is_empty() {
            return None;
        }
        let best = self.best_eligible(tried)?;
        let seat = self.seat(best);
        match self.rank {
            Rank::Fewest => seat.mark.store(self.clock.fetch_add(1, SeqCst) + 1, SeqCst),
            Rank::InTurn => {
                self.clock.store(seat.mark.fetch_add(stride(&seat.load), SeqCst), SeqCst);
            }
        }
        self.climb(best);
        Some(best)
    }

    /// The best eligible backend, which stays where it is.
    pub(super) fn preview(&self) -> Option<u32> {
        if self.shape.is_empty() { None } else { self.best_eligible(&[]) }
    }

    pub(super) fn load_changed(&self, index: u32) {
        if self.rank == Rank::Fewest {
            self.climb(index);
        }
    }

    pub(super) fn state_changed(&self, index: u32) {
        let seat = self.seat(index);
        let eligible = seat.load.accepts_new();
        if !seat.in_play.swap(eligible, SeqCst) && eligible && self.rank == Rank::InTurn {
            self.rejoin(seat);
        }
        self.climb(index);
    }

    pub(super) fn rebuild(&self) {
        for seat in &self.seats {
            seat.in_play.store(seat.load.accepts_new(), SeqCst);
        }
        for node in (1..self.shape.inner()).rev() {
            self.settle(node);
        }
    }

    /// Puts a seat that was out of play back among the others: were its pass the one it left with,
    /// it would get every turn until it had caught up.
    fn rejoin(&self, seat: &Leaf) {
        let now = self.clock.load(SeqCst);
        let stride = stride(&seat.load);
        let mark = seat.mark.load(SeqCst);
        if mark.wrapping_sub(now) > stride {
            seat.mark.store(now.wrapping_add(stride / 2), SeqCst);
        }
    }

    fn best_eligible(&self, tried: &[u32]) -> Option<u32> {
        let best = self.best(Shape::ROOT, tried)?;
        if self.seat(best).load.accepts_new() {
            return Some(best);
        }
        // All are down, or this one went down this moment and whoever took it down is still on the
        // way to the root: going that way too costs less than a wrong "none left".
        self.climb(best);
        self.best(Shape::ROOT, tried).filter(|best| self.seat(*best).load.accepts_new())
    }

    /// The best below `node` outside `tried`, eligible or not. Only nodes whose winner was tried are
    /// descended from: those lie on the tried leaves' paths.
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

    fn climb(&self, index: u32) {
        for node in self.shape.path(index) {
            self.settle(node);
        }
    }

    fn settle(&self, node: usize) {
        let winner = &self.winners[node];
        settle(
            || self.better(self.winner(2 * node), self.winner(2 * node + 1)),
            || winner.load(SeqCst),
            |value| winner.store(*value, SeqCst),
        );
    }

    fn winner(&self, node: usize) -> u32 {
        self.shape.leaf(node).unwrap_or_else(|| self.winners[node].load(SeqCst))
    }

    fn seat(&self, index: u32) -> &Leaf {
        &self.seats[index as usize]
    }

    /// The better of two leaves. It must be a function of what the leaves hold and of nothing else.
    fn better(&self, a: u32, b: u32) -> u32 {
        match self.compare(self.seat(a), self.seat(b)).then(a.cmp(&b)) {
            Ordering::Greater => b,
            Ordering::Less | Ordering::Equal => a,
        }
    }

    fn compare(&self, a: &Leaf, b: &Leaf) -> Ordering {
        let eligible = b.load.accepts_new().cmp(&a.load.accepts_new());
        let (mark_a, mark_b) = (a.mark.load(SeqCst), b.mark.load(SeqCst));
        eligible.then_with(|| match self.rank {
            Rank::Fewest => fullness(&a.load, &b.load).then(mark_a.cmp(&mark_b)),
            // Passes wrap around; those in play are never far from each other.
            Rank::InTurn => 0.cmp(&(mark_b.wrapping_sub(mark_a) as i64)),
        })
    }
}

/// Compares (sessions + 1) / weight without dividing: how full each would be after one more.
fn fullness(a: &Load, b: &Load) -> Ordering {
    let share = |x: &Load, y: &Load| (x.fullness() + 1) * u64::from(y.effective_weight());
    share(a, b).cmp(&share(b, a))
}

/// Where in its first stride a backend begins: by multiples of the golden ratio, so that the turns of
/// backends of equal weight lie evenly between those of a heavier one instead of in a row.
fn phase(index: u32, load: &Load) -> u64 {
    // In 2²⁴ths, so that the product stays below 2⁶².
    (u64::from(index.wrapping_mul(0x9e37_79b9) >> 8) * stride(load)) >> 24
}

fn stride(load: &Load) -> u64 {
    STRIDE / u64::from(load.effective_weight())
}

#[cfg(test)]
mod tests;

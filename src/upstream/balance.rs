//! Choosing among backends: a prebuilt selector per pool, without locks and without I/O.
//!
//! A selector knows its backends as [`Load`]s by index. Whoever changes a load tells the selector
//! afterwards ([`Selector::load_changed`], [`Selector::state_changed`]), and it brings what it has
//! derived up to date in O(log n). Picking never waits for anybody.
//!
//! | policy | pick | change of load | change of state or weight |
//! |---|---|---|---|
//! | least-sessions, round-robin | O(log n) | O(log n) | O(log n) |
//! | p2c | O(log n) | nothing to do | O(log n) |
//! | source-hash | O(1), O(n) the first time a slot is used | nothing to do | O(1) |

mod draw;
mod source_hash;
mod tournament;
mod tree;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use self::{draw::Draw, source_hash::SourceHash, tournament::Tournament};
use super::load::Load;
use crate::config::Balance;

/// One pool's policy with everything it has derived from its backends.
#[derive(Debug)]
pub struct Selector {
    policy: Policy,
    replaced: AtomicBool,
}

#[derive(Debug)]
enum Policy {
    /// Fewest sessions for its weight, or whose turn it is.
    Tournament(Tournament),
    /// The less loaded of two drawn by weight.
    Draw(Draw),
    /// By the client's address.
    SourceHash(SourceHash),
}

impl Selector {
    /// A selector over these backends; names matter to source-hash alone, which knows a backend by
    /// nothing else.
    pub fn new<'a>(balance: Balance, backends: impl Iterator<Item = (&'a str, Arc<Load>)>) -> Self {
        let (names, loads): (Vec<&str>, Vec<Arc<Load>>) = backends.unzip();
        let policy = match balance {
            Balance::LeastSessions => Policy::Tournament(Tournament::fewest(loads)),
            Balance::RoundRobin => Policy::Tournament(Tournament::in_turn(loads)),
            Balance::P2c => Policy::Draw(Draw::new(loads)),
            Balance::SourceHash => Policy::SourceHash(SourceHash::new(&names, loads)),
        };
        Self { policy, replaced: AtomicBool::new(false) }
    }

    /// The index of the backend that should take the next session; `None` where every eligible one
    /// is among `tried`, which has no index twice. `source` counts for source-hash alone.
    pub fn pick(&self, source: &[u8], tried: &[u32]) -> Option<u32> {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.pick(tried),
            Policy::Draw(draw) => draw.pick(tried),
            Policy::SourceHash(hash) => hash.pick(source, tried),
        }
    }

    /// The index that the next [`pick`](Self::pick) would give, without taking a turn; `None` too where
    /// that is left to chance.
    pub fn preview(&self, source: &[u8]) -> Option<u32> {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.preview(),
            Policy::Draw(_) => None,
            Policy::SourceHash(hash) => hash.pick(source, &[]),
        }
    }

    /// A backend left for another selector: from now on not every change is told here.
    pub fn set_replaced(&self) {
        self.replaced.store(true, SeqCst);
    }

    /// Whether what is derived here may be stale.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(SeqCst)
    }

    /// A session came or went.
    pub fn load_changed(&self, index: u32) {
        if let Policy::Tournament(tournament) = &self.policy {
            tournament.load_changed(index);
        }
    }

    /// Eligibility or weight changed.
    pub fn state_changed(&self, index: u32) {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.state_changed(index),
            Policy::Draw(draw) => draw.state_changed(index),
            Policy::SourceHash(hash) => hash.state_changed(index),
        }
    }

    /// Another part of the configured weight is in force; see [`source_hash`] for why not there.
    pub fn share_changed(&self, index: u32) {
        if !matches!(self.policy, Policy::SourceHash(_)) {
            self.state_changed(index);
        }
    }

    /// Derives everything anew, for changes that nobody could report because nobody knew of this
    /// selector yet.
    pub fn rebuild(&self) {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.rebuild(),
            Policy::Draw(draw) => draw.rebuild(),
            Policy::SourceHash(hash) => hash.rebuild(),
        }
    }
}

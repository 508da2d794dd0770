//! Choosing among backends: a prebuilt selector per pool, without locks and without I/O.
//!
//! A selector refers to its backends as [`Load`]s by index. After a load has changed, the selector is
//! notified ([`Selector::load_changed`], [`Selector::state_changed`]) and updates its derived data in
//! O(log n). Picking never waits.
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

/// The balance policy of one pool, with the data that it derives from the backends.
#[derive(Debug)]
pub struct Selector {
    policy: Policy,
    replaced: AtomicBool,
}

#[derive(Debug)]
enum Policy {
    /// least-sessions and round-robin.
    Tournament(Tournament),
    /// p2c: the less loaded of two backends drawn by weight.
    Draw(Draw),
    /// source-hash: by the client's address.
    SourceHash(SourceHash),
}

impl Selector {
    /// Creates a selector for these backends. Only source-hash uses their names.
    pub fn new<'a>(balance: Balance, backends: impl Iterator<Item = (&'a str, Arc<Load>)>) -> Self {
        let (names, loads): (Vec<&str>, Vec<Arc<Load>>) = backends.unzip();
        let policy = match balance {
            Balance::LeastSessions => Policy::Tournament(Tournament::least_sessions(loads)),
            Balance::RoundRobin => Policy::Tournament(Tournament::round_robin(loads)),
            Balance::P2c => Policy::Draw(Draw::new(loads)),
            Balance::SourceHash => Policy::SourceHash(SourceHash::new(&names, loads)),
        };
        Self { policy, replaced: AtomicBool::new(false) }
    }

    /// Picks the backend for the next session and returns its index; `None` if every eligible backend is
    /// in `tried`, which must not contain duplicates. Only source-hash uses `source`.
    pub fn pick(&self, source: &[u8], tried: &[u32]) -> Option<u32> {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.pick(tried),
            Policy::Draw(draw) => draw.pick(tried),
            Policy::SourceHash(hash) => hash.pick(source, tried),
        }
    }

    /// Returns the index that the next [`pick`](Self::pick) would return, without changing the order;
    /// `None` also if the policy is random.
    pub fn preview(&self, source: &[u8]) -> Option<u32> {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.preview(),
            Policy::Draw(_) => None,
            Policy::SourceHash(hash) => hash.pick(source, &[]),
        }
    }

    /// Records that a backend has moved to another selector, so that changes may be missing here.
    pub fn set_replaced(&self) {
        self.replaced.store(true, SeqCst);
    }

    /// Whether the derived data may be outdated.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(SeqCst)
    }

    /// Updates after a session began or ended.
    pub fn load_changed(&self, index: u32) {
        if let Policy::Tournament(tournament) = &self.policy {
            tournament.load_changed(index);
        }
    }

    /// Updates after a change of eligibility or weight.
    pub fn state_changed(&self, index: u32) {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.state_changed(index),
            Policy::Draw(draw) => draw.state_changed(index),
            Policy::SourceHash(hash) => hash.state_changed(index),
        }
    }

    /// Updates after a step of slow start. [`source_hash`] says why it ignores slow start.
    pub fn share_changed(&self, index: u32) {
        if !matches!(self.policy, Policy::SourceHash(_)) {
            self.state_changed(index);
        }
    }

    /// Derives all data again, for changes from before the backends joined this selector.
    pub fn rebuild(&self) {
        match &self.policy {
            Policy::Tournament(tournament) => tournament.rebuild(),
            Policy::Draw(draw) => draw.rebuild(),
            Policy::SourceHash(hash) => hash.rebuild(),
        }
    }
}

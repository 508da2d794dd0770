//! Which pool of a split a request goes to.
//!
//! The data path and `explain` both call [`choose`]. It has no state: a session is found where it is stored.

use std::time::Instant;

use moorline_http::RequestHead;

use super::{cookie::AffinityCookie, engine_request::EngineRequest};
use crate::{
    snapshot::{PoolShare, SplitTarget},
    sticky::SessionTable,
};

/// Why a request goes to a pool of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SplitReason {
    /// The pool has the session.
    Session,
    /// A header field or a cookie forces the request to the pool.
    Forced,
    /// The affinity cookie names a backend of the pool.
    Cookie,
    /// The weights.
    Weight,
}

/// Chooses the pool of a request. `draw` chooses by weight.
pub(crate) fn choose<'s>(
    split: &'s SplitTarget,
    sids: &SessionTable,
    request: &RequestHead,
    engine: Option<&EngineRequest>,
    draw: impl FnOnce(&OpenShares<'s>) -> &'s PoolShare,
) -> (&'s PoolShare, SplitReason) {
    let sid = engine.and_then(|engine| engine.sid.as_deref());
    if let Some(sid) = sid {
        let now = Instant::now();
        let knows = |share: &&PoolShare| {
            let upstream = &share.pool.upstream;
            upstream.config().sticky.engine_io && sids.peek(upstream.name(), sid, now).is_some()
        };
        if let Some(share) = split.shares.iter().find(knows) {
            return (share, SplitReason::Session);
        }
    }
    let forced = |share: &&PoolShare| share.forcing.as_ref().is_some_and(|f| f.forces(request));
    if let Some(share) = split.shares.iter().find(forced) {
        return (share, SplitReason::Forced);
    }
    // A pool without weight keeps its sessions, and gets no new ones.
    let named = |share: &&PoolShare| {
        let takes = share.weight > 0 || sid.is_some();
        takes && AffinityCookie::of(&request.head, &share.pool, false, "").target().is_some()
    };
    if let Some(share) = split.shares.iter().find(named) {
        return (share, SplitReason::Cookie);
    }
    (draw(&OpenShares::of(split)), SplitReason::Weight)
}

/// The pools of a split that get requests by weight: those with a backend that takes new sessions, or all of them if no
/// pool has one.
pub(crate) struct OpenShares<'s> {
    split: &'s SplitTarget,
    /// A bit for each pool.
    open: u16,
}

impl<'s> OpenShares<'s> {
    fn of(split: &'s SplitTarget) -> Self {
        let weighted = split.shares.iter().enumerate().filter(|(_, share)| share.weight > 0);
        let bits = |open: u16, (at, share): (usize, &PoolShare)| {
            if share.pool.upstream.accepts_new() { open | 1 << at } else { open }
        };
        match weighted.fold(0, bits) {
            0 => Self { split, open: u16::MAX },
            open => Self { split, open },
        }
    }

    fn shares(&self) -> impl Iterator<Item = &'s PoolShare> {
        let open = self.open;
        let shares = self.split.shares.iter().enumerate();
        shares.filter(move |(at, _)| open & 1 << at != 0).map(|(_, share)| share)
    }

    /// Returns the sum of the weights, which is not 0.
    pub(crate) fn total(&self) -> u32 {
        self.shares().map(|share| share.weight).sum()
    }

    /// Draws a pool at random, by weight.
    pub(crate) fn draw(&self) -> &'s PoolShare {
        let mut place = fastrand::u32(..self.total());
        let holds = |share: &&PoolShare| {
            let holds = place < share.weight;
            place = place.saturating_sub(share.weight);
            holds
        };
        self.shares().find(holds).unwrap_or(&self.split.shares[0])
    }

    /// Returns the pool that gets most requests.
    pub(crate) fn heaviest(&self) -> &'s PoolShare {
        // `max_by_key` returns the last of several.
        let first = |heaviest: &'s PoolShare, share: &'s PoolShare| {
            if share.weight > heaviest.weight { share } else { heaviest }
        };
        self.shares().reduce(first).unwrap_or(&self.split.shares[0])
    }
}

//! The pool that a backend belongs to, and how it reports changes to the pool's selector.

use std::{
    cell::OnceCell,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Instant,
};

use super::Backend;
use crate::upstream::{balance::Selector, panic_threshold::PanicThreshold};

/// A backend's place in its pool: the selector, the panic threshold, and its index in both.
pub(in crate::upstream) struct Membership {
    pub(in crate::upstream) selector: Arc<Selector>,
    pub(in crate::upstream) threshold: Arc<PanicThreshold>,
    pub(in crate::upstream) index: u32,
}

impl Backend {
    /// Moves to a new selector. Changes before this are not reported there: see
    /// [`Selector::rebuild`].
    pub(in crate::upstream) fn join(&self, membership: Membership) {
        let before = self.membership.swap(Some(Arc::new(membership)));
        // Pairs with the fence in `notify_selector`.
        fence(Ordering::SeqCst);
        if let Some(before) = before {
            before.selector.set_replaced();
        }
    }

    /// Returns its index in `selector`; `None` if it is a member of another selector.
    pub(in crate::upstream) fn index_in(&self, selector: &Arc<Selector>) -> Option<u32> {
        let membership = self.membership.load();
        let current = membership.as_ref().filter(|m| Arc::ptr_eq(&m.selector, selector));
        current.map(|membership| membership.index)
    }

    /// Whether the backend belongs to a pool: it has joined one and was not evicted since.
    pub(in crate::upstream) fn is_in_pool(&self) -> bool {
        self.membership.load().is_some()
    }

    /// Schedules a slow start, which begins at the first [`tick`](Self::tick).
    pub(in crate::upstream) fn schedule_slow_start(&self) {
        self.recovery.schedule_slow_start(&self.load);
    }

    /// Advances slow start, and ends an ejection whose time is over. Returns whether an ejection ended.
    pub(in crate::upstream) fn tick(&self, level: &OnceCell<Option<f64>>, now: Instant) -> bool {
        let membership = self.membership.load();
        let Some(membership) = membership.as_ref() else { return false };
        let tick = self.recovery.tick(&self.load, &membership.threshold, level, now);
        if tick.changed {
            self.notify_selector(if tick.ejection_ended {
                Selector::state_changed
            } else {
                Selector::share_changed
            });
        }
        if membership.threshold.has_minimum() {
            // The health of the other backends decides whether this one keeps its sessions.
            self.open_or_close_idle();
        }
        tick.ejection_ended
    }

    pub(super) fn notify_selector(&self, change: fn(&Selector, u32)) {
        // Either this sees a new membership, or the rebuild after joining sees the change before this.
        fence(Ordering::SeqCst);
        if let Some(membership) = self.membership.load().as_ref() {
            change(&membership.selector, membership.index);
        }
    }
}

//! A backend's connections, and that it takes no new sessions while none is free.

use std::sync::Arc;

use super::{Backend, InUse, Pending};
use crate::{config, upstream::balance::Selector};

impl Backend {
    /// Counts one connection as in use, until the guard is dropped; `None` where all that there may
    /// be are, or are somebody's who waits.
    pub fn connection(self: &Arc<Self>) -> Option<InUse> {
        self.connections.add().then(|| self.used())
    }

    /// The same, once there may be one more, after all who came before. For those who hold a
    /// [`Pending`] and drop it later than this.
    pub async fn free_connection(self: &Arc<Self>) -> InUse {
        self.connections.added().await;
        self.used()
    }

    /// Counts one request as waiting for a connection; `None` where too many wait already.
    pub fn pending(&self) -> Option<Pending<'_>> {
        self.connections.add_pending().then(|| Pending(self))
    }

    /// Closes idle connections that leave no room for one more.
    pub fn make_room(&self) {
        if let Some(room) = self.connections.room() {
            self.idle.shrink(room);
        }
    }

    /// Connections in use, tunnels included.
    pub fn connections_in_use(&self) -> usize {
        self.connections.in_use()
    }

    /// Requests that wait for a connection.
    pub fn requests_pending(&self) -> usize {
        self.connections.pending()
    }

    /// Takes over the limits of its newest pool.
    pub(in crate::upstream) fn limit(&self, limits: &config::Limits) {
        self.connections.limit(limits);
        self.settle_full();
    }

    fn used(self: &Arc<Self>) -> InUse {
        self.settle_full();
        InUse(Arc::clone(self))
    }

    /// Brings the state up to date with the connections. Whoever stores what is no longer so looks once
    /// more and sees it; the limit is the same for all.
    pub(super) fn settle_full(&self) {
        loop {
            let full = self.connections.is_full();
            if full == self.load.is_full() {
                return;
            }
            if self.load.set_full(full) {
                self.tell_seat(Selector::state_changed);
            }
        }
    }
}

//! A backend's connections, and that it takes no new sessions while none is free.

use std::sync::Arc;

use super::{Backend, ConnectionGuard, PendingGuard};
use crate::{config, upstream::balance::Selector};

impl Backend {
    /// Counts one connection as in use, until the guard is dropped; `None` where all that there may
    /// be are, or are somebody's who waits.
    pub fn connection(self: &Arc<Self>) -> Option<ConnectionGuard> {
        self.connections.add().then(|| self.used())
    }

    /// The same, once there may be one more, after all who came before. For those who hold a
    /// [`PendingGuard`] and drop it later than this.
    pub async fn wait_for_connection(self: &Arc<Self>) -> ConnectionGuard {
        self.connections.added().await;
        self.used()
    }

    /// Counts one request as waiting for a connection; `None` where too many wait already.
    pub fn pending(&self) -> Option<PendingGuard<'_>> {
        self.connections.add_pending().then(|| PendingGuard(self))
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
        self.update_full();
    }

    fn used(self: &Arc<Self>) -> ConnectionGuard {
        self.update_full();
        ConnectionGuard(Arc::clone(self))
    }

    /// Brings the state up to date with the connections. Whoever stores what is no longer so looks once
    /// more and sees it; the limit is the same for all.
    pub(super) fn update_full(&self) {
        loop {
            let full = self.connections.is_full();
            if full == self.load.is_full() {
                return;
            }
            if self.load.set_full(full) {
                self.notify_selector(Selector::state_changed);
            }
        }
    }
}

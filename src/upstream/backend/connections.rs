//! Connections of a backend. While none is free, the backend takes no new sessions.

use std::sync::Arc;

use super::{Backend, ConnectionGuard, PendingGuard};
use crate::{config, upstream::balance::Selector};

impl Backend {
    /// Counts one connection as in use, until the guard is dropped. Returns `None` if all connections of
    /// the limit are in use or assigned to waiting requests.
    pub fn connection(self: &Arc<Self>) -> Option<ConnectionGuard> {
        self.connections.add().then(|| self.guard())
    }

    /// Waits for a free connection, first come, first served, and counts it as in use. The caller must
    /// hold a [`PendingGuard`] until this returns.
    pub async fn wait_for_connection(self: &Arc<Self>) -> ConnectionGuard {
        self.connections.wait().await;
        self.guard()
    }

    /// Counts one request as waiting for a connection; `None` if too many wait already.
    pub fn pending(&self) -> Option<PendingGuard<'_>> {
        self.connections.add_pending().then(|| PendingGuard(self))
    }

    /// Closes idle connections until one more connection may be opened.
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

    /// Applies the limits of its newest pool.
    pub(in crate::upstream) fn limit(&self, limits: &config::Limits) {
        self.connections.limit(limits);
        self.update_full();
    }

    fn guard(self: &Arc<Self>) -> ConnectionGuard {
        self.update_full();
        ConnectionGuard(Arc::clone(self))
    }

    /// Updates the state from the connections. A thread that stores an outdated value checks once more
    /// and corrects it.
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

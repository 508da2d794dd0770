//! What counts at a backend while it lives: sessions, requests, connections, and those who wait.

use std::{fmt, sync::Arc, time::Instant};

use super::Backend;
use crate::upstream::{admission::TimeSlot, balance::Selector};

/// One session or tunnel on a backend, counted while this lives.
#[must_use = "the session is counted only while this lives"]
pub struct SessionGuard(pub(super) Arc<Backend>);

/// One request in flight to a backend, counted while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct RequestGuard(pub(super) Arc<Backend>);

/// One connection to a backend in use, a tunnel's too, counted while this lives.
#[must_use = "the connection is counted only while this lives"]
pub struct ConnectionGuard(pub(super) Arc<Backend>);

/// One request that waits for a connection, counted while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct PendingGuard<'a>(pub(super) &'a Backend);

/// The place of a new session among those that wait for a backend to admit them; dropped before its
/// moment, it is given up.
#[derive(Debug)]
#[must_use = "the place is kept only while this lives"]
pub struct AdmissionTurn<'a> {
    pub(super) backend: &'a Backend,
    pub(super) at: Instant,
    pub(super) moment: TimeSlot,
}

impl SessionGuard {
    /// The backend it is on.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.load.remove_session();
        self.0.notify_selector(Selector::load_changed);
    }
}

impl fmt::Debug for SessionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionGuard").field(&self.0.name).finish()
    }
}

impl RequestGuard {
    /// The backend it goes to.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.load.remove_request();
    }
}

impl fmt::Debug for RequestGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestGuard").field(&self.0.name).finish()
    }
}

impl ConnectionGuard {
    /// The backend it goes to.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.remove();
        self.0.update_full();
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionGuard").field(&self.0.name).finish()
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.connections.remove_pending();
        // It may have been given a connection that it did not stay to take.
        self.0.update_full();
    }
}

impl AdmissionTurn<'_> {
    /// When it comes.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl Drop for AdmissionTurn<'_> {
    fn drop(&mut self) {
        self.backend.schedule.leave(self.moment, Instant::now() < self.at);
    }
}

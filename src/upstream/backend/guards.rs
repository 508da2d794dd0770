//! Guards that count sessions, requests and connections of a backend while they live.

use std::{fmt, sync::Arc, time::Instant};

use super::Backend;
use crate::upstream::{admission::TimeSlot, balance::Selector};

/// Counts one session or tunnel on a backend while this lives.
#[must_use = "the session is counted only while this lives"]
pub struct SessionGuard(pub(super) Arc<Backend>);

/// Counts one request in flight to a backend while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct RequestGuard(pub(super) Arc<Backend>);

/// Counts one connection to a backend in use, also that of a tunnel, while this lives.
#[must_use = "the connection is counted only while this lives"]
pub struct ConnectionGuard(pub(super) Arc<Backend>);

/// Counts one request that waits for a connection while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct PendingGuard<'a>(pub(super) &'a Backend);

/// The time slot of a new session that waits for admission. If this is dropped before the slot begins,
/// the slot is given back.
#[derive(Debug)]
#[must_use = "the slot is reserved only while this lives"]
pub struct AdmissionTurn<'a> {
    pub(super) backend: &'a Backend,
    pub(super) at: Instant,
    pub(super) slot: TimeSlot,
}

impl SessionGuard {
    /// The backend of the session.
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
    /// The backend of the request.
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
    /// The backend of the connection.
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
        // The request may have been assigned a connection that it did not take.
        self.0.update_full();
    }
}

impl AdmissionTurn<'_> {
    /// When the slot begins.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl Drop for AdmissionTurn<'_> {
    fn drop(&mut self) {
        self.backend.schedule.leave(self.slot, Instant::now() < self.at);
    }
}

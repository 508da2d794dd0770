//! What counts at a backend while it lives: sessions, requests, connections, and those who wait.

use std::{fmt, sync::Arc, time::Instant};

use super::Backend;
use crate::upstream::{admission::Moment, balance::Selector};

/// One session or tunnel on a backend, counted while this lives.
#[must_use = "the session is counted only while this lives"]
pub struct Hold(pub(super) Arc<Backend>);

/// One request in flight to a backend, counted while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct InFlight(pub(super) Arc<Backend>);

/// One connection to a backend in use, a tunnel's too, counted while this lives.
#[must_use = "the connection is counted only while this lives"]
pub struct InUse(pub(super) Arc<Backend>);

/// One request that waits for a connection, counted while this lives.
#[must_use = "the request is counted only while this lives"]
pub struct Pending<'a>(pub(super) &'a Backend);

/// The place of a new session among those that wait for a backend to admit them; dropped before its
/// moment, it is given up.
#[derive(Debug)]
#[must_use = "the place is kept only while this lives"]
pub struct Turn<'a> {
    pub(super) backend: &'a Backend,
    pub(super) at: Instant,
    pub(super) moment: Moment,
}

impl Hold {
    /// The backend it is on.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.load.remove_session();
        self.0.tell_seat(Selector::load_changed);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.0.name).finish()
    }
}

impl InFlight {
    /// The backend it goes to.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load.remove_request();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.0.name).finish()
    }
}

impl InUse {
    /// The backend it goes to.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.connections.remove();
        self.0.settle_full();
    }
}

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InUse").field(&self.0.name).finish()
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.connections.remove_pending();
        // It may have been given a connection that it did not stay to take.
        self.0.settle_full();
    }
}

impl Turn<'_> {
    /// When it comes.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.backend.schedule.leave(self.moment, Instant::now() < self.at);
    }
}

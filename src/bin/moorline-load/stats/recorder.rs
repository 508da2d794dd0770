//! Where clients report to.

use std::{sync::Arc, time::Instant};

use super::Failure;

/// Takes what the clients of one thread report. Cheap to call: one uncontended lock, no allocation.
#[derive(Debug)]
pub(crate) struct Recorder {}

/// How a client lost its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Counted as a disconnect: nobody asked for it.
    Unwanted,
    /// Its node is one that the run itself took away.
    NodeGone,
    /// The course of the run told the client to drop (a herd).
    Ordered,
}

/// A connected client: counted as such until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    recorder: Arc<Recorder>,
}

impl Recorder {
    /// A client is connected, as far as its kind goes (Socket.IO: CONNECT was acknowledged), to a node
    /// where it told its name; `intended` is when the attempt was due.
    pub(crate) fn connected(self: &Arc<Self>, node: Option<&str>, intended: Instant) -> Seat {
        Seat { recorder: Arc::clone(self) }
    }

    /// A client changed from polling to WebSocket.
    pub(crate) fn upgraded(&self) {}

    /// A message, request or packet of payload went out.
    pub(crate) fn sent(&self, bytes: usize) {}

    /// Its answer came; `intended` is when it was due to be sent.
    pub(crate) fn answered(&self, intended: Instant, bytes: usize) {}

    /// A message to all came; `sent` is when it was due to be sent.
    pub(crate) fn heard(&self, sent: Instant, bytes: usize) {}

    /// Payload that answers nothing, such as a download.
    pub(crate) fn received(&self, bytes: usize) {}

    /// A session from `started` to its wanted end.
    pub(crate) fn finished(&self, started: Instant) {}

    /// Something failed.
    pub(crate) fn failed(&self, failure: &Failure) {}

    /// A connected client lost its connection; `failure` says how.
    pub(crate) fn lost(&self, loss: Loss, failure: &Failure) {}

    /// A node answered that is not the session's.
    pub(crate) fn misrouted(&self, expected: &str, answered: &str) {}
}

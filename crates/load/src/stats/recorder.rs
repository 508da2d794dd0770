//! Receives the reports of clients.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{ErrorKind, Failure, tally::Tally};

/// Maximum nodes; further ones share one name. Limits the list if a server invents a new name for each
/// answer.
const MAX_NODES: usize = 256;

/// Receives the reports of the clients of one thread. Cheap: one uncontended lock, and an allocation only for
/// the first occurrence of a node or a kind of error.
#[derive(Debug)]
pub(crate) struct Recorder {
    state: Mutex<RecorderState>,
    gauge: Arc<ConnectedGauge>,
}

/// Number of connected clients of all threads, with its exact peak.
#[derive(Debug, Default)]
pub(super) struct ConnectedGauge {
    now: AtomicU64,
    peak: AtomicU64,
}

/// How a client lost its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Unexpected: counts as a disconnect.
    Unexpected,
    /// The node was stopped at the end of its drain: counts as a disconnect.
    Undrained,
    /// The run itself has killed, hung or reset the node.
    NodeDown,
    /// The server asked the client to reconnect.
    Moved,
    /// The run dropped the connection (herd).
    Dropped,
}

/// Counts a client as connected until dropped.
#[derive(Debug)]
pub(crate) struct ConnectedGuard {
    recorder: Arc<Recorder>,
    node: Option<u32>,
}

/// A node, as the clients of one thread see it.
#[derive(Clone, Debug)]
pub(super) struct NodeCount {
    pub(super) name: Box<str>,
    /// Clients connected now.
    pub(super) connected: u64,
    /// Clients that ever connected.
    pub(super) sessions: u64,
}

/// Figures of the whole run, and the tally that the collector takes.
#[derive(Debug)]
pub(super) struct RecorderState {
    tally: Tally,
    pub(super) connected: u64,
    pub(super) nodes: Vec<NodeCount>,
    /// First failure of each kind, in the order of [`ErrorKind::ALL`].
    pub(super) samples: [Option<Box<str>>; ErrorKind::ALL.len()],
    pub(super) misrouting: Option<Box<str>>,
}

impl ConnectedGauge {
    /// Maximum clients connected at once.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Recorder {
    pub(super) fn new(gauge: Arc<ConnectedGauge>) -> Self {
        let state = Mutex::new(RecorderState {
            tally: Tally::new(),
            connected: 0,
            nodes: Vec::new(),
            samples: Default::default(),
            misrouting: None,
        });
        Self { state, gauge }
    }

    /// Reports a connected client (Socket.IO: CONNECT was acknowledged), with its node if named. `intended`
    /// is when the attempt was due.
    pub(crate) fn connected(
        self: &Arc<Self>,
        node: Option<&str>,
        intended: Instant,
    ) -> ConnectedGuard {
        let latency = intended.elapsed();
        let mut state = self.state();
        state.connected += 1;
        let now = self.gauge.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.gauge.peak.fetch_max(now, Ordering::Relaxed);
        state.tally.counters.connects += 1;
        state.tally.latencies.connect.record(latency);
        let node = node.map(|name| state.connect_to_node(name));
        drop(state);
        ConnectedGuard { recorder: Arc::clone(self), node }
    }

    /// Whether a client of this thread is connected.
    pub(crate) fn has_connected_clients(&self) -> bool {
        self.state().connected > 0
    }

    /// Reports that a session's node has sent its name.
    pub(crate) fn node_named(&self) {
        self.state().tally.counters.named += 1;
    }

    /// Reports an upgrade from polling to WebSocket.
    pub(crate) fn upgraded(&self) {
        self.state().tally.counters.upgrades += 1;
    }

    /// Reports a sent message or request.
    pub(crate) fn sent(&self, bytes: usize) {
        let counters = &mut self.state().tally.counters;
        counters.sent += 1;
        counters.bytes_sent += bytes as u64;
    }

    /// Reports an answer. `intended` is when the message was due.
    pub(crate) fn answered(&self, intended: Instant, bytes: usize) {
        let latency = intended.elapsed();
        let tally = &mut self.state().tally;
        tally.counters.answered += 1;
        tally.counters.bytes_received += bytes as u64;
        tally.latencies.message.record(latency);
    }

    /// Reports messages, with their intended times, that will have no answer but are not errors: their
    /// connection ended, or the run itself has made their node faulty.
    pub(crate) fn unanswered(&self, intended: impl Iterator<Item = Instant>) {
        let now = Instant::now();
        let tally = &mut self.state().tally;
        for intended in intended {
            tally.counters.unanswered += 1;
            tally.latencies.unanswered.record(now.saturating_duration_since(intended));
        }
    }

    /// Reports a received broadcast. `sent` is when it was due.
    pub(crate) fn received_broadcast(&self, sent: Instant, bytes: usize) {
        let latency = sent.elapsed();
        let tally = &mut self.state().tally;
        tally.counters.broadcasts += 1;
        tally.counters.bytes_received += bytes as u64;
        tally.latencies.broadcast.record(latency);
    }

    /// Reports received data that is not an answer, such as a download.
    pub(crate) fn received(&self, bytes: usize) {
        self.state().tally.counters.bytes_received += bytes as u64;
    }

    /// Reports a session that started at `started` and ended as planned.
    pub(crate) fn finished(&self, started: Instant) {
        let latency = started.elapsed();
        let tally = &mut self.state().tally;
        tally.counters.finished += 1;
        tally.latencies.session.record(latency);
    }

    /// Reports a failure.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.state().count_failure(failure);
    }

    /// Reports a lost connection and its reason. A disconnect is also an error.
    pub(crate) fn lost(&self, loss: Loss, failure: &Failure) {
        let mut state = self.state();
        match loss {
            Loss::Unexpected | Loss::Undrained => {
                state.tally.counters.disconnects += 1;
                state.tally.counters.undrained += u64::from(loss == Loss::Undrained);
                state.count_failure(failure);
            }
            Loss::NodeDown => state.tally.counters.node_gone += 1,
            Loss::Moved => state.tally.counters.moved += 1,
            Loss::Dropped => state.tally.counters.dropped += 1,
        }
    }

    /// Reports an answer from a node that does not own the session.
    pub(crate) fn misrouted(&self, expected: &str, answered: &str) {
        let mut state = self.state();
        state.tally.counters.misrouted += 1;
        state.misrouting.get_or_insert_with(|| {
            format!("a session of {expected} was answered by {answered}").into()
        });
    }

    /// Swaps the tally with `empty`, and returns the rest.
    pub(super) fn swap(&self, empty: &mut Tally) -> MutexGuard<'_, RecorderState> {
        let mut state = self.state();
        mem::swap(&mut state.tally, empty);
        state
    }

    fn state(&self) -> MutexGuard<'_, RecorderState> {
        // Plain sums: a panic in another thread cannot leave them inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecorderState {
    fn connect_to_node(&mut self, name: &str) -> u32 {
        let known = self.nodes.iter().position(|node| &*node.name == name);
        let index = known.unwrap_or_else(|| self.add_node(name));
        self.nodes[index].connected += 1;
        self.nodes[index].sessions += 1;
        index as u32
    }

    fn add_node(&mut self, name: &str) -> usize {
        if self.nodes.len() > MAX_NODES {
            return MAX_NODES;
        }
        let name = if self.nodes.len() < MAX_NODES { name } else { "others" };
        self.nodes.push(NodeCount { name: name.into(), connected: 0, sessions: 0 });
        self.nodes.len() - 1
    }

    fn count_failure(&mut self, failure: &Failure) {
        let kind = failure.kind as usize;
        self.tally.counters.errors += 1;
        self.tally.errors[kind] += 1;
        self.samples[kind].get_or_insert_with(|| failure.detail.as_str().into());
    }
}

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        let mut state = self.recorder.state();
        state.connected -= 1;
        self.recorder.gauge.now.fetch_sub(1, Ordering::Relaxed);
        if let Some(node) = self.node {
            state.nodes[node as usize].connected -= 1;
        }
    }
}

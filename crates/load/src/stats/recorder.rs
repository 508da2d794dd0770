//! Where clients report to.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{ErrorKind, Failure, tally::Tally};

/// Nodes beyond this many share one name: a server that invents a name for each answer must not make
/// the list endless.
const MOST_NODES: usize = 256;

/// Takes what the clients of one thread report. Cheap to call: one uncontended lock, no allocation
/// but for a node or a kind of error that is seen for the first time.
#[derive(Debug)]
pub(crate) struct Recorder {
    desk: Mutex<Desk>,
    gauge: Arc<Gauge>,
}

/// Clients of all threads that are connected now: whoever comes and goes between two looks counts too.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

/// How a client lost its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Counted as a disconnect: nobody asked for it.
    Unwanted,
    /// Its node was stopped at the end of its drain: counted as a disconnect.
    Undrained,
    /// Its node is one that the run itself has hurt.
    NodeGone,
    /// The server asked it to come back, with its Close frame.
    Moved,
    /// The course of the run told the client to drop (a herd).
    Ordered,
}

/// A connected client: counted as such until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    recorder: Arc<Recorder>,
    node: Option<u32>,
}

/// A node as the clients of one thread see it.
#[derive(Clone, Debug)]
pub(super) struct NodeCount {
    pub(super) name: Box<str>,
    /// Clients on it now.
    pub(super) connected: u64,
    /// Clients that ever connected to it.
    pub(super) sessions: u64,
}

/// What lives for the whole run, and the tally that the collector takes away.
#[derive(Debug)]
pub(super) struct Desk {
    tally: Tally,
    pub(super) connected: u64,
    pub(super) nodes: Vec<NodeCount>,
    /// The first failure of each kind, in the order of [`ErrorKind::ALL`].
    pub(super) samples: [Option<Box<str>>; ErrorKind::ALL.len()],
    pub(super) misrouting: Option<Box<str>>,
}

impl Gauge {
    /// Most clients that were connected at once.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Recorder {
    pub(super) fn new(gauge: Arc<Gauge>) -> Self {
        let desk = Mutex::new(Desk {
            tally: Tally::new(),
            connected: 0,
            nodes: Vec::new(),
            samples: Default::default(),
            misrouting: None,
        });
        Self { desk, gauge }
    }

    /// A client is connected, as far as its kind goes (Socket.IO: CONNECT was acknowledged), to a node
    /// where it told its name; `intended` is when the attempt was due.
    pub(crate) fn connected(self: &Arc<Self>, node: Option<&str>, intended: Instant) -> Seat {
        let latency = intended.elapsed();
        let mut desk = self.desk();
        desk.connected += 1;
        let now = self.gauge.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.gauge.peak.fetch_max(now, Ordering::Relaxed);
        desk.tally.counters.connects += 1;
        desk.tally.latencies.connect.record(latency);
        let node = node.map(|name| desk.seat_at(name));
        drop(desk);
        Seat { recorder: Arc::clone(self), node }
    }

    /// Whether any of its clients is connected now.
    pub(crate) fn is_anyone_connected(&self) -> bool {
        self.desk().connected > 0
    }

    /// A node told its name.
    pub(crate) fn named(&self) {
        self.desk().tally.counters.named += 1;
    }

    /// A client changed from polling to WebSocket.
    pub(crate) fn upgraded(&self) {
        self.desk().tally.counters.upgrades += 1;
    }

    /// A message, request or packet of payload went out.
    pub(crate) fn sent(&self, bytes: usize) {
        let counters = &mut self.desk().tally.counters;
        counters.sent += 1;
        counters.bytes_sent += bytes as u64;
    }

    /// Its answer came; `intended` is when it was due to be sent.
    pub(crate) fn answered(&self, intended: Instant, bytes: usize) {
        let latency = intended.elapsed();
        let tally = &mut self.desk().tally;
        tally.counters.answered += 1;
        tally.counters.bytes_received += bytes as u64;
        tally.latencies.message.record(latency);
    }

    /// Messages, due to be sent at these times, will have no answer, and that is no error: their
    /// connection ended, or the run itself has hurt their node.
    pub(crate) fn unanswered(&self, intended: impl Iterator<Item = Instant>) {
        let now = Instant::now();
        let tally = &mut self.desk().tally;
        for intended in intended {
            tally.counters.unanswered += 1;
            tally.latencies.unanswered.record(now.saturating_duration_since(intended));
        }
    }

    /// A message to all came; `sent` is when it was due to be sent.
    pub(crate) fn heard(&self, sent: Instant, bytes: usize) {
        let latency = sent.elapsed();
        let tally = &mut self.desk().tally;
        tally.counters.heard += 1;
        tally.counters.bytes_received += bytes as u64;
        tally.latencies.broadcast.record(latency);
    }

    /// Payload that answers nothing, such as a download.
    pub(crate) fn received(&self, bytes: usize) {
        self.desk().tally.counters.bytes_received += bytes as u64;
    }

    /// A session from `started` to its wanted end.
    pub(crate) fn finished(&self, started: Instant) {
        let latency = started.elapsed();
        let tally = &mut self.desk().tally;
        tally.counters.finished += 1;
        tally.latencies.session.record(latency);
    }

    /// Something failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.desk().count_failure(failure);
    }

    /// A connected client lost its connection; `failure` says how. A disconnect is an error too.
    pub(crate) fn lost(&self, loss: Loss, failure: &Failure) {
        let mut desk = self.desk();
        match loss {
            Loss::Unwanted | Loss::Undrained => {
                desk.tally.counters.disconnects += 1;
                desk.tally.counters.undrained += u64::from(loss == Loss::Undrained);
                desk.count_failure(failure);
            }
            Loss::NodeGone => desk.tally.counters.node_gone += 1,
            Loss::Moved => desk.tally.counters.moved += 1,
            Loss::Ordered => desk.tally.counters.dropped += 1,
        }
    }

    /// A node answered that is not the session's.
    pub(crate) fn misrouted(&self, expected: &str, answered: &str) {
        let mut desk = self.desk();
        desk.tally.counters.misrouted += 1;
        desk.misrouting.get_or_insert_with(|| {
            format!("a session of {expected} was answered by {answered}").into()
        });
    }

    /// Takes what was counted since the last time, leaves `empty` in its place, and shows the rest.
    pub(super) fn swap(&self, empty: &mut Tally) -> MutexGuard<'_, Desk> {
        let mut desk = self.desk();
        mem::swap(&mut desk.tally, empty);
        desk
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Plain sums: a panic elsewhere leaves none of them half done.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn seat_at(&mut self, name: &str) -> u32 {
        let known = self.nodes.iter().position(|node| &*node.name == name);
        let index = known.unwrap_or_else(|| self.add_node(name));
        self.nodes[index].connected += 1;
        self.nodes[index].sessions += 1;
        index as u32
    }

    fn add_node(&mut self, name: &str) -> usize {
        if self.nodes.len() > MOST_NODES {
            return MOST_NODES;
        }
        let name = if self.nodes.len() < MOST_NODES { name } else { "others" };
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

impl Drop for Seat {
    fn drop(&mut self) {
        let mut desk = self.recorder.desk();
        desk.connected -= 1;
        self.recorder.gauge.now.fetch_sub(1, Ordering::Relaxed);
        if let Some(node) = self.node {
            desk.nodes[node as usize].connected -= 1;
        }
    }
}

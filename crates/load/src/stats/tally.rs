//! What is counted between two visits of the collector.

use std::{ops::AddAssign, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ErrorKind;

/// Longer latencies are counted as this one: a day.
const LONGEST_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// Significant decimal digits of a recorded latency.
const DIGITS: u8 = 3;

/// What happened, as sums since the start (or since the last second, where a second says so).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    /// Clients that got connected, as far as their kind goes, returns included.
    pub(crate) connects: u64,
    /// Changes from polling to WebSocket.
    pub(crate) upgrades: u64,
    /// Messages, requests or packets of payload that went out.
    pub(crate) sent: u64,
    /// Answers to them.
    pub(crate) answered: u64,
    /// Messages that waited for their answer when their connection ended; none of the errors.
    pub(crate) unanswered: u64,
    /// Broadcasts that came in.
    pub(crate) heard: u64,
    /// Payload that went out.
    pub(crate) bytes_sent: u64,
    /// Payload that came in: answers, broadcasts and downloads.
    pub(crate) bytes_received: u64,
    /// Sessions that came to their wanted end.
    pub(crate) finished: u64,
    /// Failures of all kinds, lost connections included.
    pub(crate) errors: u64,
    /// Connections lost that nobody asked for; each of them is one of the errors too.
    pub(crate) disconnects: u64,
    /// Connections lost with a node that a deploy stopped at the end of its drain; each of them is one of
    /// the disconnects too.
    pub(crate) undrained: u64,
    /// Connections lost with a node that the run itself has killed, hung or reset; none of the errors.
    pub(crate) node_gone: u64,
    /// Clients that were asked to come back; none of the errors. A WebSocket is asked by a Close with code
    /// 1012 ("service restart"), a session that polls by a code 1 of the proxy itself while its node drains.
    pub(crate) moved: u64,
    /// Connections dropped because the course of the run wanted it (a herd); none of the errors.
    pub(crate) dropped: u64,
    /// Answers from a node that is not the session's.
    pub(crate) misrouted: u64,
    /// Sessions whose node told its name: without any, no answer can be known to be misrouted.
    pub(crate) named: u64,
}

impl Counters {
    /// What was added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            connects: self.connects.saturating_sub(earlier.connects),
            upgrades: self.upgrades.saturating_sub(earlier.upgrades),
            sent: self.sent.saturating_sub(earlier.sent),
            answered: self.answered.saturating_sub(earlier.answered),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            heard: self.heard.saturating_sub(earlier.heard),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            finished: self.finished.saturating_sub(earlier.finished),
            errors: self.errors.saturating_sub(earlier.errors),
            disconnects: self.disconnects.saturating_sub(earlier.disconnects),
            undrained: self.undrained.saturating_sub(earlier.undrained),
            node_gone: self.node_gone.saturating_sub(earlier.node_gone),
            moved: self.moved.saturating_sub(earlier.moved),
            dropped: self.dropped.saturating_sub(earlier.dropped),
            misrouted: self.misrouted.saturating_sub(earlier.misrouted),
            named: self.named.saturating_sub(earlier.named),
        }
    }
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        self.connects += other.connects;
        self.upgrades += other.upgrades;
        self.sent += other.sent;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.heard += other.heard;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.finished += other.finished;
        self.errors += other.errors;
        self.disconnects += other.disconnects;
        self.undrained += other.undrained;
        self.node_gone += other.node_gone;
        self.moved += other.moved;
        self.dropped += other.dropped;
        self.misrouted += other.misrouted;
        self.named += other.named;
    }
}

/// Latencies in microseconds. Its size is fixed when it is made: recording allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS);
        Self(histogram.expect("these bounds are fine"))
    }

    /// One more.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// All of another's.
    pub(crate) fn add(&mut self, other: &Self) {
        if !other.0.is_empty() {
            self.0.add(&other.0).expect("all have the same bounds");
        }
    }

    /// None again. What never held one is not touched, so that its pages stay unmapped.
    pub(crate) fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }

    /// For percentiles and curves.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// The latencies of a run.
#[derive(Clone, Debug)]
pub(crate) struct LatencySet {
    /// From the time an attempt was due to the connected client.
    pub(crate) connect: Latencies,
    /// From the time a message was due to its answer.
    pub(crate) message: Latencies,
    /// From the time a message was due to the end of its connection, which came before an answer.
    pub(crate) unanswered: Latencies,
    /// From the time a broadcast was due to its arrival at each client.
    pub(crate) broadcast: Latencies,
    /// From the start of a session to its wanted end.
    pub(crate) session: Latencies,
}

impl LatencySet {
    /// None yet.
    pub(crate) fn new() -> Self {
        let none = Latencies::new;
        Self {
            connect: none(),
            message: none(),
            unanswered: none(),
            broadcast: none(),
            session: none(),
        }
    }

    /// All of another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.message.add(&other.message);
        self.unanswered.add(&other.unanswered);
        self.broadcast.add(&other.broadcast);
        self.session.add(&other.session);
    }

    /// None again.
    pub(crate) fn clear(&mut self) {
        self.connect.clear();
        self.message.clear();
        self.unanswered.clear();
        self.broadcast.clear();
        self.session.clear();
    }
}

/// Errors by kind, in the order of [`ErrorKind::ALL`].
pub(crate) type ErrorCounts = [u64; ErrorKind::ALL.len()];

/// What one thread reported since it was last visited.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) counters: Counters,
    pub(crate) errors: ErrorCounts,
    pub(crate) latencies: LatencySet,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            counters: Counters::default(),
            errors: ErrorCounts::default(),
            latencies: LatencySet::new(),
        }
    }

    /// All of another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counters += &other.counters;
        for (sum, more) in self.errors.iter_mut().zip(&other.errors) {
            *sum += more;
        }
        self.latencies.add(&other.latencies);
    }

    /// Nothing again.
    pub(crate) fn clear(&mut self) {
        self.counters = Counters::default();
        self.errors = ErrorCounts::default();
        self.latencies.clear();
    }
}

//! What is counted between two collections.

use std::{ops::AddAssign, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ErrorKind;

/// Maximum latency, one day; longer ones are counted as this.
const MAX_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// Significant decimal digits of a recorded latency.
const DIGITS: u8 = 3;

/// Counters since the start of the run, or of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    /// Clients that connected, including reconnects.
    pub(crate) connects: u64,
    /// Upgrades from polling to WebSocket.
    pub(crate) upgrades: u64,
    /// Sent messages, requests and broadcasts.
    pub(crate) sent: u64,
    /// Answers to them.
    pub(crate) answered: u64,
    /// Messages still unanswered when their connection ended; not errors.
    pub(crate) unanswered: u64,
    /// Received broadcasts.
    pub(crate) broadcasts: u64,
    /// Sent payload in bytes.
    pub(crate) bytes_sent: u64,
    /// Received payload in bytes: answers, broadcasts and downloads.
    pub(crate) bytes_received: u64,
    /// Sessions that ended as planned.
    pub(crate) finished: u64,
    /// Failures of all kinds, including disconnects.
    pub(crate) errors: u64,
    /// Connections that were lost unexpectedly; each is also an error.
    pub(crate) disconnects: u64,
    /// Connections lost with a node that a deploy stopped at the end of its drain; each is also a disconnect.
    pub(crate) undrained: u64,
    /// Connections lost with a node that the run itself killed, hung or reset; not errors.
    pub(crate) node_gone: u64,
    /// Clients that were asked to reconnect; not errors. A WebSocket is asked by a Close with code 1012
    /// ("service restart"), a polling session by a code 1 of the proxy itself while its node drains.
    pub(crate) moved: u64,
    /// Connections that the run dropped (herd); not errors.
    pub(crate) dropped: u64,
    /// Answers from a node that does not own the session.
    pub(crate) misrouted: u64,
    /// Sessions whose node sent its name. If 0, misrouting cannot be detected.
    pub(crate) named: u64,
}

impl Counters {
    /// Returns the difference to `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            connects: self.connects.saturating_sub(earlier.connects),
            upgrades: self.upgrades.saturating_sub(earlier.upgrades),
            sent: self.sent.saturating_sub(earlier.sent),
            answered: self.answered.saturating_sub(earlier.answered),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            broadcasts: self.broadcasts.saturating_sub(earlier.broadcasts),
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
        self.broadcasts += other.broadcasts;
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

/// Latencies in microseconds. All memory is allocated by `new`; recording does not allocate.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty histogram.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_MICROS, DIGITS);
        Self(histogram.expect("the bounds are valid"))
    }

    /// Adds a latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds all latencies of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        if !other.0.is_empty() {
            self.0.add(&other.0).expect("all histograms have the same bounds");
        }
    }

    /// Removes all latencies. An unused histogram is not written to, so that its pages stay unmapped.
    pub(crate) fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }

    /// Returns the histogram, for percentiles and curves.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// The latencies of a run.
#[derive(Clone, Debug)]
pub(crate) struct LatencySet {
    /// From a due attempt to the connection.
    pub(crate) connect: Latencies,
    /// From a due message to its answer.
    pub(crate) message: Latencies,
    /// From a due message to the end of its connection, without an answer.
    pub(crate) unanswered: Latencies,
    /// From a due broadcast to its arrival at each client.
    pub(crate) broadcast: Latencies,
    /// From the start of a session to its planned end.
    pub(crate) session: Latencies,
}

impl LatencySet {
    /// Empty histograms.
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

    /// Adds all latencies of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.message.add(&other.message);
        self.unanswered.add(&other.unanswered);
        self.broadcast.add(&other.broadcast);
        self.session.add(&other.session);
    }

    /// Removes all latencies.
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

/// What one thread has reported since the last collection.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) counters: Counters,
    pub(crate) errors: ErrorCounts,
    pub(crate) latencies: LatencySet,
}

impl Tally {
    /// An empty tally.
    pub(crate) fn new() -> Self {
        Self {
            counters: Counters::default(),
            errors: ErrorCounts::default(),
            latencies: LatencySet::new(),
        }
    }

    /// Adds the figures of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counters += &other.counters;
        for (sum, more) in self.errors.iter_mut().zip(&other.errors) {
            *sum += more;
        }
        self.latencies.add(&other.latencies);
    }

    /// Removes all figures.
    pub(crate) fn clear(&mut self) {
        self.counters = Counters::default();
        self.errors = ErrorCounts::default();
        self.latencies.clear();
    }
}

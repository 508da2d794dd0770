//! What a run leaves behind: seconds, marks, moments and totals.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::tally::{Counters, ErrorCounts, Latencies, LatencySet};
use crate::cost;

/// Everything that was seen of a run.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When the run began, by the wall clock.
    pub(crate) started: SystemTime,
    /// From the beginning to the last count.
    pub(crate) length: Duration,
    /// Sums over the whole run.
    pub(crate) totals: Counters,
    /// Errors of the whole run by kind.
    pub(crate) errors: ErrorCounts,
    /// The first failure of each kind, described.
    pub(crate) samples: [Option<Box<str>>; super::ErrorKind::ALL.len()],
    /// The first answer from a wrong node, described.
    pub(crate) misrouting: Option<Box<str>>,
    /// Latencies of the whole run.
    pub(crate) latencies: LatencySet,
    /// Latency of messages answered in the steady phase.
    pub(crate) steady: Latencies,
    /// Nodes that told their names, in the order of their first session.
    pub(crate) nodes: Vec<NodeTotal>,
    /// Most clients connected at once.
    pub(crate) peak: u64,
    /// The run second by second.
    pub(crate) seconds: Vec<Arc<Second>>,
    /// What happened on the way, in order of time.
    pub(crate) marks: Vec<Mark>,
    /// Sums and costs at the borders of the phases, in order of time.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// The processes whose cost was measured.
    pub(crate) processes: Vec<cost::Process>,
}

/// A node over the whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeTotal {
    /// As it told.
    pub(crate) name: Box<str>,
    /// Clients that ever connected to it.
    pub(crate) sessions: u64,
}

/// How things stand at one moment of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Look {
    /// Seconds from the start of the run.
    pub(crate) at_s: f64,
    /// Clients connected now.
    pub(crate) connected: u64,
    /// Sums since the start.
    pub(crate) totals: Counters,
    /// Errors since the start by kind; kinds without any are left out.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Clients connected now by node; nodes that nobody is on are left out.
    pub(crate) nodes: BTreeMap<Box<str>, u64>,
}

/// What happened within about a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// Its end, from the start of the run.
    pub(crate) at: Duration,
    /// Its length: a second, or what was left of it at the end.
    pub(crate) span: Duration,
    /// Sums of this second alone.
    pub(crate) counters: Counters,
    /// Errors of this second by kind.
    pub(crate) errors: ErrorCounts,
    /// Clients connected at its end.
    pub(crate) connected: u64,
    /// Clients connected at its end by node, in the order of [`Record::nodes`]; nodes that are
    /// missing at its end had not been seen yet.
    pub(crate) on_node: Vec<u64>,
    /// From due to connected.
    pub(crate) connect: Quantiles,
    /// From due to answered.
    pub(crate) message: Quantiles,
    /// From due to heard.
    pub(crate) broadcast: Quantiles,
    /// What the measured processes had spent at its end; empty where none are measured.
    pub(crate) spent: Vec<cost::Spent>,
}

/// Latencies of a second, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// How many were recorded; the rest is 0 where none was.
    pub(crate) count: u64,
    /// Half of them took at most this long.
    pub(crate) p50_us: u64,
    /// Nine of ten took at most this long.
    pub(crate) p90_us: u64,
    /// 99 of a hundred took at most this long.
    pub(crate) p99_us: u64,
    /// The longest.
    pub(crate) max_us: u64,
}

impl Quantiles {
    /// Of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

/// Something that happened to all: a vertical line in the charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// From the start of the run.
    pub(crate) at: Duration,
    /// A few words: "replacing node-2".
    pub(crate) text: String,
}

/// A border between phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moment {
    /// Before the first arrival.
    Before,
    /// All have arrived and settled.
    SteadyStart,
    /// Just before the order to leave.
    SteadyEnd,
    /// All have left.
    After,
}

/// How far things were at a border between phases.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Which border.
    pub(crate) moment: Moment,
    /// From the start of the run.
    pub(crate) at: Duration,
    /// Sums since the start.
    pub(crate) counters: Counters,
    /// Clients connected.
    pub(crate) connected: u64,
    /// What the measured processes had spent; empty where none are measured.
    pub(crate) spent: Vec<cost::Spent>,
}

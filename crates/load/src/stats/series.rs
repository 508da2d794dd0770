//! The results of a run: seconds, marks, checkpoints and totals.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::tally::{Counters, ErrorCounts, Latencies, LatencySet};
use crate::cost;

/// All results of a run.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Start of the run, wall clock.
    pub(crate) started: SystemTime,
    /// From the start to the last collection.
    pub(crate) length: Duration,
    /// Totals of the run.
    pub(crate) totals: Counters,
    /// Errors of the run by kind.
    pub(crate) errors: ErrorCounts,
    /// First failure of each kind.
    pub(crate) samples: [Option<Box<str>>; super::ErrorKind::ALL.len()],
    /// Description of the first misrouted answer.
    pub(crate) misrouting: Option<Box<str>>,
    /// Latencies of the run.
    pub(crate) latencies: LatencySet,
    /// Latency of messages answered in the steady phase.
    pub(crate) steady: Latencies,
    /// Nodes that sent their names, in the order of their first session.
    pub(crate) nodes: Vec<NodeTotal>,
    /// Maximum clients connected at once.
    pub(crate) peak: u64,
    /// One entry per second.
    pub(crate) seconds: Vec<Arc<Second>>,
    /// Events of the run, in order of time.
    pub(crate) marks: Vec<Mark>,
    /// Totals and resource usage at the boundaries of the phases, in order of time.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// The measured processes.
    pub(crate) processes: Vec<cost::Process>,
}

/// A node over the whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeTotal {
    /// Name that the node sent.
    pub(crate) name: Box<str>,
    /// Clients that ever connected.
    pub(crate) sessions: u64,
}

/// Status at one moment of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    /// Seconds since the start of the run.
    pub(crate) at_s: f64,
    /// Clients connected now.
    pub(crate) connected: u64,
    /// Totals since the start.
    pub(crate) totals: Counters,
    /// Errors since the start by kind, without kinds that did not occur.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Clients connected now by node, without nodes that have none.
    pub(crate) nodes: BTreeMap<Box<str>, u64>,
}

/// Figures of about one second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// End, from the start of the run.
    pub(crate) at: Duration,
    /// Length: one second, or less at the end of the run.
    pub(crate) span: Duration,
    /// Totals of this second.
    pub(crate) counters: Counters,
    /// Errors of this second by kind.
    pub(crate) errors: ErrorCounts,
    /// Clients connected at the end.
    pub(crate) connected: u64,
    /// Clients connected at the end by node, in the order of [`Record::nodes`]. Nodes seen only later are
    /// missing.
    pub(crate) on_node: Vec<u64>,
    /// Time from a due attempt to the connection.
    pub(crate) connect: Quantiles,
    /// Time from a due message to its answer.
    pub(crate) message: Quantiles,
    /// Time from a due broadcast to its arrival.
    pub(crate) broadcast: Quantiles,
    /// Usage of the measured processes at the end; may be empty.
    pub(crate) usage: Vec<cost::ProcessUsage>,
}

/// Latencies of one second, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// Number of values; if 0, the other fields are 0 too.
    pub(crate) count: u64,
    /// Median.
    pub(crate) p50_us: u64,
    /// 90th percentile.
    pub(crate) p90_us: u64,
    /// 99th percentile.
    pub(crate) p99_us: u64,
    /// Maximum.
    pub(crate) max_us: u64,
}

impl Quantiles {
    /// Computes the quantiles of a histogram of microseconds.
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

/// An event of the run; a vertical line in the charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Time since the start of the run.
    pub(crate) at: Duration,
    /// Description: "replacing node-2".
    pub(crate) text: String,
}

/// A boundary between phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moment {
    /// Before the first arrival.
    Before,
    /// All clients have arrived, and the effects of the arrivals are over.
    SteadyStart,
    /// Just before the command to disconnect.
    SteadyEnd,
    /// All clients have disconnected.
    After,
}

/// Totals and usage at a boundary between phases.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// The boundary.
    pub(crate) moment: Moment,
    /// Time since the start of the run.
    pub(crate) at: Duration,
    /// Totals since the start.
    pub(crate) counters: Counters,
    /// Clients connected.
    pub(crate) connected: u64,
    /// Usage of the measured processes; may be empty.
    pub(crate) usage: Vec<cost::ProcessUsage>,
}

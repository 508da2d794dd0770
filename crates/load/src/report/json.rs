//! The figures of a run as a JSON document, for programs and for the HTML page.
//!
//! `_s` means seconds (since the start of the run, for points in time), `_us` microseconds; sizes are in
//! bytes. Fields may be added; other changes increase [`FORMAT`].

use std::{collections::BTreeMap, fs};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    assertions::Verdict,
    checkpoint::{CheckpointRow, rounded, seconds},
    formatting,
    phase_cost::TotalCost,
    scenario_summary::ScenarioSummary,
};
use crate::{
    cost::{self, ProcessUsage},
    scenario::Scenario,
    stats::{Counters, ErrorCounts, ErrorKind, Quantiles, Record, Second},
};

/// Version of the format.
pub(crate) const FORMAT: u32 = 2;

/// Points of a latency curve per halving of the share above it.
const CURVE_STEPS: u32 = 8;

/// All figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Name and version of the harness: `moorline-load 0.1.0`.
    pub(crate) program: String,
    /// Start of the run, wall clock, RFC 3339, UTC.
    pub(crate) started: String,
    /// Length of the run.
    pub(crate) length_s: f64,
    /// The machine of the harness.
    pub(crate) machine: Machine,
    /// User and system CPU time of the harness itself until now.
    pub(crate) harness_cpu_s: f64,
    /// What the run does.
    pub(crate) scenario: ScenarioSummary,
    /// Results of the checks.
    pub(crate) verdict: Verdict,
    /// Totals of the run.
    pub(crate) totals: Counters,
    /// Maximum clients connected at once.
    pub(crate) peak_connected: u64,
    /// Latencies of the run.
    pub(crate) latency: LatencyRow,
    /// Errors by kind, without kinds that did not occur.
    pub(crate) errors: Vec<ErrorRow>,
    /// Description of the first misrouted answer.
    pub(crate) misrouting: Option<String>,
    /// Nodes that sent their names.
    pub(crate) nodes: Vec<NodeRow>,
    /// Events of the run.
    pub(crate) marks: Vec<MarkRow>,
    /// Measured processes.
    pub(crate) processes: Vec<ProcessRow>,
    /// Totals and resource usage at the boundaries of the phases.
    pub(crate) checkpoints: Vec<CheckpointRow>,
    /// CPU time and memory relative to the work done; `null` if no process was measured.
    pub(crate) cost: Option<TotalCost>,
    /// One entry per second.
    pub(crate) seconds: Vec<SecondRow>,
}

/// The machine of the harness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of the processor.
    pub(crate) processor: String,
    /// Cores that the harness may use.
    pub(crate) cores: usize,
    /// Memory in bytes; 0 if unknown.
    pub(crate) memory_bytes: u64,
    /// Kernel and its release.
    pub(crate) kernel: String,
}

/// Latencies from intended times; `null` if there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencyRow {
    /// From a due attempt to the connection.
    pub(crate) connect: Option<Distribution>,
    /// From a due message to its answer.
    pub(crate) message: Option<Distribution>,
    /// From a due message to its answer, for answers in the steady phase.
    pub(crate) message_steady: Option<Distribution>,
    /// From a due broadcast to its arrival at each client.
    pub(crate) broadcast: Option<Distribution>,
    /// From the start of a session to its planned end.
    pub(crate) session: Option<Distribution>,
}

/// One kind of latency, exact to three digits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub(crate) count: u64,
    pub(crate) min_us: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) p9999_us: u64,
    pub(crate) max_us: u64,
    /// Distribution curve, ascending.
    pub(crate) curve: Vec<CurvePoint>,
}

/// One point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CurvePoint {
    /// 0.99 for the 99th percentile.
    pub(crate) quantile: f64,
    /// Latency at this quantile.
    pub(crate) value_us: u64,
    /// Number of values up to this latency.
    pub(crate) count: u64,
}

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorRow {
    /// `code1`, `engine_io`, `upgrade_refused`, `tls`, `connect`, `timeout`, `disconnect`,
    /// `wrong_echo`, `status` or `protocol`.
    pub(crate) kind: String,
    /// Number of errors.
    pub(crate) count: u64,
    /// Description of the first one.
    pub(crate) sample: Option<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    /// Name that the node sent.
    pub(crate) name: String,
    /// Clients that ever connected.
    pub(crate) sessions: u64,
    /// Maximum clients at the end of a second.
    pub(crate) peak_connected: u64,
}

/// An event of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MarkRow {
    /// Time of the event.
    pub(crate) at_s: f64,
    /// Description.
    pub(crate) text: String,
}

/// A measured process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessRow {
    /// Process id.
    pub(crate) pid: u32,
    /// Name from the kernel.
    pub(crate) name: String,
    /// When the process was first found to have ended; `null`: it outlived the run.
    pub(crate) ended_s: Option<f64>,
}

/// Figures of one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SecondRow {
    /// End of the second.
    pub(crate) at_s: f64,
    /// Length, the divisor of rates: one second, or less at the end of the run.
    pub(crate) span_s: f64,
    /// Clients connected at the end.
    pub(crate) connected: u64,
    /// Totals of this second.
    pub(crate) counters: Counters,
    /// Errors of this second by kind, without kinds that did not occur.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Clients connected at the end, in the order of `nodes`.
    pub(crate) on_node: Vec<u64>,
    /// Time from a due attempt to the connection.
    pub(crate) connect: Quantiles,
    /// Time from a due message to its answer.
    pub(crate) message: Quantiles,
    /// Time from a due broadcast to its arrival.
    pub(crate) broadcast: Quantiles,
    /// Usage of each process since its start.
    pub(crate) usage: Vec<ProcessUsage>,
}

impl Document {
    /// Returns the figures of a run of `scenario`.
    pub(crate) fn new(scenario: &Scenario, record: &Record, verdict: Verdict) -> Self {
        let nodes = record.nodes.len();
        let checkpoints = record.checkpoints.iter().map(CheckpointRow::new).collect::<Vec<_>>();
        Self {
            format: FORMAT,
            program: format!("moorline-load {}", env!("CARGO_PKG_VERSION")),
            started: humantime::format_rfc3339_seconds(record.started).to_string(),
            length_s: seconds(record.length),
            machine: Machine::this(),
            harness_cpu_s: seconds(cost::own_cpu()),
            scenario: ScenarioSummary::new(scenario),
            verdict,
            totals: record.totals,
            peak_connected: record.peak,
            latency: LatencyRow::new(record),
            errors: error_rows(record),
            misrouting: record.misrouting.as_deref().map(formatting::sanitized),
            nodes: node_rows(record),
            marks: record
                .marks
                .iter()
                .map(|mark| MarkRow {
                    at_s: seconds(mark.at),
                    text: formatting::sanitized(&mark.text),
                })
                .collect(),
            processes: process_rows(record),
            cost: TotalCost::new(&checkpoints),
            checkpoints,
            seconds: record.seconds.iter().map(|second| SecondRow::new(second, nodes)).collect(),
        }
    }
}

impl Machine {
    fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let memory = field(&memory, "MemTotal:").and_then(|size| size.strip_suffix(" kB"));
        Self {
            processor: field(&cpuinfo, "model name\t:").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.and_then(|size| size.parse::<u64>().ok()).unwrap_or(0) * 1024,
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

impl LatencyRow {
    fn new(record: &Record) -> Self {
        let all = &record.latencies;
        Self {
            connect: Distribution::of(all.connect.histogram()),
            message: Distribution::of(all.message.histogram()),
            message_steady: Distribution::of(record.steady.histogram()),
            broadcast: Distribution::of(all.broadcast.histogram()),
            session: Distribution::of(all.session.histogram()),
        }
    }
}

impl Distribution {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let point = |step: hdrhistogram::iterators::IterationValue<u64>, count| CurvePoint {
            quantile: rounded(step.quantile_iterated_to(), 9),
            value_us: step.value_iterated_to(),
            count,
        };
        let curve = histogram.iter_quantiles(CURVE_STEPS).scan(0, |count, step| {
            *count += step.count_since_last_iteration();
            Some(point(step, *count))
        });
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min_us: histogram.min(),
            mean_us: rounded(histogram.mean(), 3),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: histogram.max(),
            curve: curve.collect(),
        })
    }
}

impl SecondRow {
    fn new(second: &Second, nodes: usize) -> Self {
        let mut on_node = second.on_node.clone();
        on_node.resize(nodes, 0);
        Self {
            at_s: seconds(second.at),
            span_s: seconds(second.span),
            connected: second.connected,
            counters: second.counters,
            errors: kinds(&second.errors).map(|(kind, n)| (kind.label().to_owned(), n)).collect(),
            on_node,
            connect: second.connect,
            message: second.message,
            broadcast: second.broadcast,
            usage: second.usage.clone(),
        }
    }
}

fn kinds(errors: &ErrorCounts) -> impl Iterator<Item = (ErrorKind, u64)> {
    ErrorKind::ALL.into_iter().zip(*errors).filter(|&(_, count)| count > 0)
}

fn error_rows(record: &Record) -> Vec<ErrorRow> {
    let row = |(kind, count): (ErrorKind, u64)| ErrorRow {
        kind: kind.label().to_owned(),
        count,
        sample: record.samples[kind as usize].as_deref().map(formatting::sanitized),
    };
    kinds(&record.errors).map(row).collect()
}

fn node_rows(record: &Record) -> Vec<NodeRow> {
    let peak = |index: usize| {
        let counts = record.seconds.iter().filter_map(move |second| second.on_node.get(index));
        counts.copied().max().unwrap_or(0)
    };
    let row = |(index, node): (usize, &crate::stats::NodeTotal)| NodeRow {
        name: formatting::sanitized(&node.name),
        sessions: node.sessions,
        peak_connected: peak(index),
    };
    record.nodes.iter().enumerate().map(row).collect()
}

fn process_rows(record: &Record) -> Vec<ProcessRow> {
    let row = |process: &crate::cost::Process| ProcessRow {
        pid: process.pid,
        name: formatting::sanitized(&process.name),
        ended_s: process.ended.map(seconds),
    };
    record.processes.iter().map(row).collect()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

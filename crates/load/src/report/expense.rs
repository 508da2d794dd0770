//! What the measured processes spent, related to what was done meanwhile.

use serde::{Deserialize, Serialize};

use super::json::{CheckpointRow, rounded};
use crate::stats::Moment;

/// What all measured processes together spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From the first moment before arrivals to the end; `null` where the run ended before.
    pub(crate) whole: Option<Expense>,
    /// In the steady phase: no arrivals, no leaving; `null` where the run never got there.
    pub(crate) steady: Option<Expense>,
    /// Memory (PSS) gained from before the first arrival to the end of the steady phase, by each
    /// client connected then, in bytes; `null` where none was.
    pub(crate) pss_per_connection_bytes: Option<f64>,
}

/// What was spent between two moments. Quotients are `null` where there was nothing to divide by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expense {
    /// Time between the two.
    pub(crate) length_s: f64,
    /// User and system CPU time. The kernel counts it in steps of 10 ms.
    pub(crate) cpu_s: f64,
    /// CPU time by wall time: 1 is one core fully used.
    pub(crate) cores: f64,
    /// CPU time by answered messages.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// CPU time by clients that got connected.
    pub(crate) cpu_us_per_connect: Option<f64>,
    /// CPU time by sessions that came to their wanted end.
    pub(crate) cpu_us_per_session: Option<f64>,
    /// CPU time by GiB of payload, both directions together.
    pub(crate) cpu_s_per_gib: Option<f64>,
}

impl Cost {
    /// `None` where no process was measured.
    pub(super) fn new(checkpoints: &[CheckpointRow]) -> Option<Self> {
        let at = |moment| checkpoints.iter().find(|checkpoint| checkpoint.moment == moment);
        let measured = checkpoints.iter().any(|checkpoint| !checkpoint.spent.is_empty());
        let between = |from, to| Some(Expense::between(at(from)?, at(to)?));
        measured.then(|| Self {
            whole: between(Moment::Before, Moment::After),
            steady: between(Moment::SteadyStart, Moment::SteadyEnd),
            pss_per_connection_bytes: growth(at(Moment::Before), at(Moment::SteadyEnd)),
        })
    }
}

impl Expense {
    fn between(from: &CheckpointRow, to: &CheckpointRow) -> Self {
        let length = rounded(to.at_s - from.at_s, 6);
        let cpu_us = cpu(to).saturating_sub(cpu(from)) as f64;
        let done = to.counters.since(&from.counters);
        let by = |divisor: u64| (divisor > 0).then(|| cpu_us / divisor as f64);
        let short = |value| rounded(value, 6);
        let bytes = done.bytes_sent + done.bytes_received;
        Self {
            length_s: length,
            cpu_s: cpu_us / 1e6,
            cores: if length > 0.0 { short(cpu_us / 1e6 / length) } else { 0.0 },
            cpu_us_per_message: by(done.answered).map(short),
            cpu_us_per_connect: by(done.connects).map(short),
            cpu_us_per_session: by(done.finished).map(short),
            cpu_s_per_gib: by(bytes).map(|per_byte| short(per_byte * f64::from(1 << 30) / 1e6)),
        }
    }
}

fn cpu(at: &CheckpointRow) -> u64 {
    at.spent.iter().map(|spent| spent.user_us + spent.system_us).sum()
}

fn growth(before: Option<&CheckpointRow>, then: Option<&CheckpointRow>) -> Option<f64> {
    let (before, then) = (before?, then?);
    let pss = |at: &CheckpointRow| at.spent.iter().map(|spent| spent.pss_bytes as f64).sum::<f64>();
    (then.connected > 0).then(|| rounded((pss(then) - pss(before)) / then.connected as f64, 3))
}

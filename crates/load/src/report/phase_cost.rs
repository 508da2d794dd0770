//! CPU time and memory of the measured processes, relative to the work done.

use serde::{Deserialize, Serialize};

use super::checkpoint::{CheckpointRow, rounded};
use crate::stats::Moment;

/// Usage of all measured processes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TotalCost {
    /// From before the first arrival to the end; `null` if the run ended earlier.
    pub(crate) whole: Option<PhaseCost>,
    /// In the steady phase; `null` if the run did not reach it.
    pub(crate) steady: Option<PhaseCost>,
    /// Growth of the memory (PSS) from before the first arrival to the end of the steady phase, per connected
    /// client, in bytes; `null` if no client was connected.
    pub(crate) pss_per_connection_bytes: Option<f64>,
}

/// Usage between two moments. Quotients are `null` if their divisor is zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PhaseCost {
    /// Wall time in seconds.
    pub(crate) length_s: f64,
    /// User and system CPU time. The kernel counts in steps of 10 ms.
    pub(crate) cpu_s: f64,
    /// CPU time per wall time: 1 is one fully used core.
    pub(crate) cores: f64,
    /// CPU time per answered message.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// CPU time per connected client.
    pub(crate) cpu_us_per_connect: Option<f64>,
    /// CPU time per session that ended as planned.
    pub(crate) cpu_us_per_session: Option<f64>,
    /// CPU time per GiB of payload in both directions.
    pub(crate) cpu_s_per_gib: Option<f64>,
}

impl TotalCost {
    /// `None` if no process was measured.
    pub(super) fn new(checkpoints: &[CheckpointRow]) -> Option<Self> {
        let at = |moment| checkpoints.iter().find(|checkpoint| checkpoint.moment == moment);
        let measured = checkpoints.iter().any(|checkpoint| !checkpoint.usage.is_empty());
        let between = |from, to| Some(PhaseCost::between(at(from)?, at(to)?));
        measured.then(|| Self {
            whole: between(Moment::Before, Moment::After),
            steady: between(Moment::SteadyStart, Moment::SteadyEnd),
            pss_per_connection_bytes: growth(at(Moment::Before), at(Moment::SteadyEnd)),
        })
    }
}

impl PhaseCost {
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
    at.usage.iter().map(|usage| usage.user_us + usage.system_us).sum()
}

fn growth(before: Option<&CheckpointRow>, then: Option<&CheckpointRow>) -> Option<f64> {
    let (before, then) = (before?, then?);
    let pss = |at: &CheckpointRow| at.usage.iter().map(|usage| usage.pss_bytes as f64).sum::<f64>();
    (then.connected > 0).then(|| rounded((pss(then) - pss(before)) / then.connected as f64, 3))
}

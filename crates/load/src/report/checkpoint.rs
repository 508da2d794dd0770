//! Totals at the boundaries between phases, as the JSON document has them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    cost::ProcessUsage,
    stats::{Checkpoint, Counters, Moment},
};

/// Totals and usage at a boundary between phases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckpointRow {
    /// `before`, `steady_start`, `steady_end` or `after`.
    pub(crate) moment: Moment,
    /// Time of the boundary.
    pub(crate) at_s: f64,
    /// Clients connected.
    pub(crate) connected: u64,
    /// Totals since the start.
    pub(crate) counters: Counters,
    /// Usage of each process since its start.
    pub(crate) usage: Vec<ProcessUsage>,
}

impl CheckpointRow {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        Self {
            moment: checkpoint.moment,
            at_s: seconds(checkpoint.at),
            connected: checkpoint.connected,
            counters: checkpoint.counters,
            usage: checkpoint.usage.clone(),
        }
    }
}

/// Seconds with six digits.
pub(super) fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64(), 6)
}

/// Rounds to a number of digits, so that the JSON text is short and is parsed to the same value.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

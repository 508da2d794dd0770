//! Counts, latencies and errors of a run, gathered by second.
//!
//! Owns one [`Recorder`] for each thread that drives clients, and the [`Collector`] that empties them
//! once a second. Latency is what the caller says it is: from the intended time of a send, so that a
//! stalled target cannot hide its stall (coordinated omission). Must not know who looks at them.

mod collector;
mod failure;
mod recorder;
mod series;
mod tally;

pub(crate) use self::{
    collector::Collector,
    failure::{ErrorKind, Failure},
    recorder::{Loss, Recorder, Seat},
    series::{Checkpoint, Moment, NodeTotal, Quantiles, Record, Second},
    tally::{Counters, ErrorCounts},
};
#[cfg(test)]
pub(crate) use self::{
    series::Mark,
    tally::{Latencies, LatencySet},
};

#[cfg(test)]
mod tests;

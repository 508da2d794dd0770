//! Counts, latencies and errors of a run, per second.
//!
//! Owns one [`Recorder`] per thread of clients, and the [`Collector`] that collects from them once a second.
//! Latency counts from the intended time of a message, so that a target that stalls cannot hide it
//! (coordinated omission). Does not know about reports.

mod collector;
mod failure;
mod recorder;
mod series;
mod tally;

pub(crate) use self::{
    collector::Collector,
    failure::{ErrorKind, Failure},
    recorder::{ConnectedGuard, Loss, Recorder},
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

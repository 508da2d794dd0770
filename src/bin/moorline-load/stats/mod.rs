//! Counts, latencies and errors of a run, gathered by second.
//!
//! Owns one [`Recorder`] for each thread that drives clients, and the [`Collector`] that empties them
//! once a second. Latency is what the caller says it is: from the intended time of a send, so that a
//! stalled target cannot hide its stall (coordinated omission).

mod failure;
mod recorder;

pub(crate) use self::{
    failure::{ErrorKind, Failure},
    recorder::{Loss, Recorder, Seat},
};

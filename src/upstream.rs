//! Backends: their state, how one is chosen, connections to them.
//!
//! [`Backend`](backend::Backend) is the live one: it outlives configurations and owns its counters,
//! health and idle connections. [`Pool`](pool::Pool) is a configuration's view of several, with the
//! policy that picks among them. Who fails under traffic is left out by [`outlier`] and comes back by
//! `recovery`, as far as `threshold` lets anybody be left out; `limits` bounds a backend's connections, and
//! `admission` how many new sessions it is given in a time; `responsiveness` knows since when it has not been heard. This module knows neither HTTP nor who asks.

mod admission;
pub mod backend;
pub mod balance;
mod budget;
pub mod connect;
pub mod connector;
mod diagnosis;
mod limits;
pub mod load;
pub mod outlier;
mod panic_threshold;
pub mod pool;
mod recovery;
mod responsiveness;
pub mod reuse;

pub use backend::{
    AdmissionOutcome, AdmissionTurn, Backend, ConnectionGuard, Lifecycle, PendingGuard,
    RequestGuard, SessionGuard, Transition,
};
pub use connect::{ConnectError, connect};
pub use connector::BackendConnector;
pub use diagnosis::{CheckFailure, Diagnosis};
pub use outlier::EjectionReason;
pub use pool::{Pool, source};
pub use recovery::TICK_INTERVAL;
pub use reuse::{ANY_AGE, Acquired, Permit, Reusable};

//! Backends: their state, how one is chosen, and connections to them.
//!
//! [`Backend`] is the live state: it outlives configurations and owns the counters,
//! health and idle connections. [`Pool`] is a configuration's view of several backends, with
//! the balance policy. This module depends neither on HTTP nor on its callers.
//!
//! | Module | Task |
//! |---|---|
//! | `outlier` | Detects backends that fail under traffic. |
//! | `recovery` | Ends ejections, and raises the weight during slow start. |
//! | `panic_threshold` | Limits ejections; ignores health if too few backends are healthy. |
//! | `limits` | Limits the connections of a backend. |
//! | `admission` | Limits the rate of new sessions of a backend. |
//! | [`reach`] | Picks, admits, connects, and tries another backend after a failure. |
//! | `responsiveness` | Records since when a backend has not responded. |

mod admission;
pub mod backend;
pub mod balance;
mod budget;
pub mod connect;
pub mod connector;
mod diagnosis;
pub mod kept;
mod limits;
pub mod load;
pub mod outlier;
mod panic_threshold;
pub mod pool;
pub mod reach;
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
pub use kept::KeptConnection;
pub use outlier::EjectionReason;
pub use pool::{Pool, source};
pub use recovery::TICK_INTERVAL;
pub use reuse::{ANY_AGE, Acquired, CloseWatch, Permit, Reusable};

//! Backends: their state, how one is chosen, connections to them.
//!
//! [`Backend`](backend::Backend) is the live one: it outlives configurations and owns its counters,
//! health and idle connections. [`Pool`](pool::Pool) is a configuration's view of several, with the
//! policy that picks among them. Who fails under traffic is left out by [`outlier`] and comes back by
//! `recovery`, as far as `quorum` lets anybody be left out; `limits` bounds a backend's connections, and
//! `admission` how many new sessions it is given in a time; `silence` knows since when it has not been heard. This module knows neither HTTP nor who asks.

mod admission;
pub mod backend;
pub mod balance;
mod budget;
pub mod connect;
mod diagnosis;
pub mod dial;
mod limits;
pub mod load;
pub mod outlier;
mod panic_threshold;
pub mod pool;
mod recovery;
pub mod reuse;
mod silence;

pub use backend::{Admitted, Backend, Hold, InFlight, InUse, Life, Pending, Transition, Turn};
pub use connect::{ConnectError, connect};
pub use diagnosis::{CheckFailure, Diagnosis};
pub use dial::Dial;
pub use outlier::Reason;
pub use pool::{Pool, source};
pub use recovery::TEND;
pub use reuse::{ANY_AGE, Acquired, Permit, Reusable};

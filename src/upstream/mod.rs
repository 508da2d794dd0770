//! Backends: their state, how one is chosen, connections to them.
//!
//! [`Backend`](backend::Backend) is the live one: it outlives configurations and owns its counters,
//! health and idle connections. [`Pool`](pool::Pool) is a configuration's view of several, with the
//! policy that picks among them. This module knows neither HTTP nor who asks.

pub mod backend;
pub mod balance;
mod budget;
pub mod connect;
pub mod load;
pub mod pool;
pub mod reuse;

pub use backend::{Backend, Hold, InFlight, Life, Transition};
pub use connect::{ConnectError, connect};
pub use pool::Pool;
pub use reuse::{Acquired, Permit, Reusable};

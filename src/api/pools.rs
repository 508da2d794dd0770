//! Pools and backends, and requests that add a backend or change its weight.

use serde::{Deserialize, Serialize};

use super::DrainState;

/// A pool and its backends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PoolState {
    /// Name in the configuration file.
    pub name: String,
    /// Balance policy, as written in the configuration file.
    pub balance: String,
    /// Source of the backends: `configuration`, `dns`, `srv` or `http`.
    pub source: String,
    /// Why the newest answer of the source cannot be used; the last good answer stays in use. `None`: it
    /// can be used.
    pub source_error: Option<String>,
    /// Whether the pool was removed from the configuration; its backends drain.
    pub removed: bool,
    /// Backends of the pool, then removed backends that still hold sessions.
    pub backends: Vec<BackendState>,
}

/// One backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendState {
    /// Name of its pool.
    pub pool: String,
    /// Name, unique in the pool.
    pub name: String,
    /// Address, as configured.
    pub address: String,
    /// Origin of the backend.
    pub origin: BackendOrigin,
    /// State of the backend for new sessions.
    pub state: BackendCondition,
    /// Weight, as configured or as set through this API.
    pub weight: u32,
    /// Whether the backend takes new sessions only while no other backend of the pool can.
    pub backup: bool,
    /// Share of the weight that is used, 0 to 1; less than 1 during a slow start.
    pub ramp: f64,
    /// Live sessions, including those with a tunnel and the tunnels of earlier processes.
    pub sessions: u64,
    /// Open tunnels, including those of earlier processes.
    pub tunnels: u64,
    /// Requests in flight.
    pub requests: u64,
    /// Unix time at which the backend came up or went down.
    pub since: f64,
    /// Why the backend is down or ejected; `None`: it is neither.
    pub reason: Option<String>,
    /// The newest failed check, also while the backend is up; `None`: no check has failed.
    pub last_failure: Option<CheckFailureInfo>,
    /// For a removed backend whose sessions continue: the configured backend with the same address, as
    /// `pool/backend`.
    pub continues_as: Option<String>,
    /// Progress of the drain, if the backend drains.
    pub drain: Option<DrainState>,
}

/// A failed check of a backend: a health check, or a request without an answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CheckFailureInfo {
    /// Time of the check, in Unix time.
    pub at: f64,
    /// What was expected, and what happened.
    pub reason: String,
}

/// Origin of a backend.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendOrigin {
    /// The configuration or a list file that it names.
    Configured,
    /// The pool's source.
    Discovered,
    /// A command of this API; valid until restart.
    Added,
}

/// State of a backend for new sessions; the first that applies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendCondition {
    /// Removed from the configuration, and still holding sessions.
    Leaving,
    /// Drained by a command, and empty.
    Drained,
    /// Drained by a command, and not empty yet.
    Draining,
    /// Its health checks fail.
    Down,
    /// Excluded for its failures under traffic.
    Ejected,
    /// A backup that takes no new sessions, because another backend of the pool does.
    Standby,
    /// Takes new sessions, with a growing share of its weight.
    SlowStart,
    /// Takes new sessions.
    Up,
}

/// All pools.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pools {
    /// Pools, in the order of the configuration file.
    pub pools: Vec<PoolState>,
}

/// The backends that a command changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Backends {
    /// Backends by pool, in the order of the configuration file.
    pub backends: Vec<BackendState>,
}

/// A backend to add to a pool until restart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Host and port, or `unix:` and the path of a socket.
    pub address: String,
    /// Name; the address if omitted.
    #[serde(default)]
    pub name: Option<String>,
    /// Weight; 1 if omitted.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Whether the backend is a backup of the others; false if omitted.
    #[serde(default)]
    pub backup: bool,
}

/// A new weight for a backend, until restart.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewWeight {
    /// Weight, 1 to 65535.
    pub weight: u32,
}

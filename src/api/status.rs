//! State of the process, its listeners and its newest reload.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::PoolState;

/// State of a process and all its parts.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime: f64,
    /// State of the process.
    pub state: ProcessState,
    /// Progress of the drain, if the process drains.
    pub drain: Option<DrainState>,
    /// Open client connections of any kind.
    pub connections: u64,
    /// Open tunnels of all backends: WebSockets and layer-4 streams.
    pub tunnels: u64,
    /// Live sessions of all backends, including those with a tunnel.
    pub sessions: u64,
    /// The listeners.
    pub listeners: Vec<ListenerState>,
    /// The pools.
    pub pools: Vec<PoolState>,
    /// The newest reload; `None`: none since the start.
    pub reload: Option<ReloadState>,
    /// Processes that this one took over from and that still hold connections.
    pub predecessors: Vec<Predecessor>,
}

/// State of a process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// Takes new sessions.
    Serving,
    /// Takes no new sessions.
    Draining,
    /// Shuts down: accepts no new connections.
    Stopping,
}

/// Progress of a drain.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainState {
    /// Start of the drain, in Unix time.
    pub since: f64,
    /// Seconds until the deadline; `None`: no deadline, the drain ends when the last session has
    /// ended.
    pub seconds_left: Option<f64>,
    /// Seconds until the drain begins to close tunnels; 0 once it has begun.
    pub seconds_to_closes: Option<f64>,
    /// Open tunnels. The name is part of the protocol between the processes of an upgrade.
    pub sockets_left: u64,
    /// Live sessions, including those with a tunnel.
    pub sessions_left: u64,
}

/// A named group of listening addresses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ListenerState {
    /// Name in the configuration file.
    pub name: String,
    /// Protocol, as written in the configuration file.
    pub protocol: String,
    /// Bound addresses.
    pub addresses: Vec<SocketAddr>,
    /// Certificates currently in use.
    pub certificates: Vec<CertificateState>,
    /// Why the newest certificate order failed; `None`: it did not fail.
    pub certificate_error: Option<String>,
}

/// A certificate that a listener uses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CertificateState {
    /// DNS names in the certificate.
    pub names: Vec<String>,
    /// Expiry in Unix time; `None`: the date cannot be read.
    pub expires: Option<f64>,
}

/// Result of a reload.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReloadState {
    /// Time of the reload, in Unix time.
    pub at: f64,
    /// All errors, if the reload was rejected.
    pub error: Option<String>,
}

/// A process that handed over to this one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Predecessor {
    /// Process id.
    pub pid: u32,
    /// What the process still holds.
    pub drain: DrainState,
}

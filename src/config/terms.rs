//! Settings of operation: discovery, drains, reloads, upgrades, overload protection and the admin API.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// How a backend or a process is drained: it gets no new sessions; in the last part of the time,
/// connections are closed one by one; at the deadline, the remaining connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// Time from the start to the deadline.
    pub within: Duration,
    /// The last part of `within`, over which connections are closed evenly; at most `within`.
    pub spread: Duration,
}

impl DrainConfig {
    /// A drain that closes connections in its second half.
    pub const fn within(within: Duration) -> Self {
        let spread = Duration::from_millis(within.as_millis() as u64 / 2);
        Self { within, spread }
    }
}

/// How changes of the configuration take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Reload if a file of the configuration changes; otherwise only on request.
    pub watch: bool,
    /// Time between two comparisons of the watched files, for changes that the system does not report.
    pub interval: Duration,
    /// Maximum number of sessions that a reload may disconnect, unless the request says otherwise; `None`:
    /// unlimited.
    pub max_disconnects: Option<u64>,
}

/// How a process hands over to a new binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// How the old process drains the connections that cannot be handed over.
    pub drain: DrainConfig,
    /// Time limit for the new process to become ready, from its start.
    pub ready: Duration,
}

/// The admin API and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// Address of `/metrics`, `/live` and `/ready`, without authentication; `None`: not served.
    pub metrics: Option<SocketAddr>,
    /// The unix socket of the API, mode 0600.
    pub socket: AdminSocket,
    /// The API over TCP, with a token; `None`: not served.
    pub remote: Option<AdminRemote>,
}

/// The unix socket of the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// `moorline.sock` in the runtime folder of the unit or the user, unless another process has it.
    #[default]
    Usual,
    /// At this path.
    At(PathBuf),
    /// Disabled.
    Off,
}

/// The admin API over TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminRemote {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Bearer token that every request needs, at least 16 bytes.
    pub token: String,
}

impl fmt::Debug for AdminRemote {
    /// Shows the address, never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminRemote").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Discovery of a pool's backends while the process runs. On a failure, the last good answer stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSource {
    /// The A and AAAA records of a name: each address is a backend.
    Dns(Dns),
    /// The SRV records of a name: hosts, ports and weights. `Dns::port` is not used.
    Srv(Dns),
    /// A JSON list.
    Http(HttpSource),
}

/// A DNS name, which is looked up again when its records expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name, in lower case.
    pub name: String,
    /// Port of every address; SRV records have ports themselves.
    pub port: u16,
    /// The DNS server; `None`: the servers of the system.
    pub resolver: Option<SocketAddr>,
    /// Minimum time between two lookups, whatever the TTL of the records.
    pub min_ttl: Duration,
    /// Maximum time between two lookups.
    pub max_ttl: Duration,
}

/// A URL of a JSON list of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSource {
    /// An `http` or `https` URL.
    pub url: String,
    /// Time from one request to the next.
    pub interval: Duration,
    /// Time limit of the whole response.
    pub timeout: Duration,
}

/// When a backend that fails under traffic is ejected, and for how long. It gets no new sessions then.
///
/// A failure is a failed connection attempt, a missing or invalid response, or status 500, 502, 503 or
/// 504.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Consecutive failures that eject a backend.
    pub consecutive: u32,
    /// Percentage of failures within `interval` that ejects a backend; 0: disabled.
    pub error_rate: u8,
    /// Minimum number of requests within `interval` for `error_rate`.
    pub min_requests: u32,
    /// Time over which the error rate is measured.
    pub interval: Duration,
    /// Duration of the first ejection. Each further ejection lasts that much longer.
    pub ejection: Duration,
    /// Maximum duration of an ejection.
    pub max_ejection: Duration,
    /// Maximum percentage of the pool's backends that are ejected at the same time.
    pub max_ejected: u8,
}

/// Limits per backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections, tunnels included; `None`: unlimited.
    pub connections: Option<usize>,
    /// Maximum number of requests that wait for a connection (see
    /// [`Reuse::max_total`](super::Reuse::max_total)); `None`: unlimited.
    pub pending: Option<usize>,
}

/// Limits of the header of a request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Maximum size in bytes, with the first line.
    pub size: usize,
    /// Maximum number of fields.
    pub fields: usize,
}

/// A number of events per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Number of events, at least 1.
    pub times: u32,
    /// The time.
    pub per: Duration,
}

impl Rate {
    /// Time between two events.
    pub fn interval(self) -> Duration {
        self.per / self.times.max(1)
    }
}

/// Rate limit of new sessions per backend, so that many clients that reconnect at once do not overload
/// it. Requests of known sessions never wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Rate of handshakes and upgrades without a session, per backend.
    pub rate: Rate,
    /// Maximum number of them that wait, per backend.
    pub queue: usize,
    /// Maximum time that they wait, shorter than a client's 20 s.
    pub deadline: Duration,
}

/// How tunnels of backends with more than a fair share are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceConfig {
    /// Rate of closed tunnels, over the whole pool.
    pub rate: Rate,
}

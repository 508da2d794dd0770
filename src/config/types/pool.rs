//! Types of pools and their backends.

use std::{fmt, net::SocketAddr, path::Path, time::Duration};

use super::{
    Admission, BackendSource, BackendTls, DrainConfig, HealthConfig, Limits, Outlier,
    RebalanceConfig, Sticky,
};
use crate::config::ProxyOut;

/// Interchangeable backends and how they are used.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Name in the file, and in logs and metrics.
    pub name: String,
    /// The backends, inline and from files; names are unique within the pool. Empty only if a
    /// backend list file is empty, or with discovery.
    pub backends: Vec<BackendConfig>,
    /// Discovery of backends; `None`: the configuration contains all backends.
    pub source: Option<BackendSource>,
    /// How a backend is chosen for a new session.
    pub balance: Balance,
    /// Health checks.
    pub health: HealthConfig,
    /// Session affinity.
    pub sticky: Sticky,
    /// Time limits of each phase.
    pub timeouts: Timeouts,
    /// Limits of idle connections to each backend.
    pub reuse: Reuse,
    /// How the sessions of a removed or drained backend are ended.
    pub drain: DrainConfig,
    /// Time over which a new or recovered backend grows to its full weight; zero: no slow start.
    pub slow_start: Duration,
    /// Ejection of backends that fail under traffic; `None`: disabled.
    pub outlier: Option<Outlier>,
    /// Panic threshold: if a smaller percentage of the backends is healthy, health is ignored; 0: disabled.
    pub healthy_minimum: u8,
    /// Limits per backend.
    pub limits: Limits,
    /// Rate limit of new sessions per backend; `None`: unlimited.
    pub admission: Option<Admission>,
    /// How tunnels of backends with more than a fair share are closed; `None`: never.
    pub rebalance: Option<RebalanceConfig>,
    /// Maximum age of a tunnel, minus up to a tenth at random; `None`: unlimited.
    pub max_connection_age: Option<Duration>,
    /// Time over which the tunnels of a backend that is down are closed; `None`: they stay open.
    pub on_down: Option<Duration>,
    /// TLS settings of connections to the backends; `None`: no TLS.
    pub tls: Option<BackendTls>,
    /// PROXY header at the start of connections to the backends; `None`: no header.
    pub proxy_protocol: Option<ProxyOut>,
    /// Limits of a response's header.
    pub response_header: HeaderLimits,
    /// Path prefixes of requests that backends may hold open.
    pub long_polls: Vec<String>,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendConfig {
    /// Name in the file; the default is the address as typed.
    pub name: String,
    /// Host and port, or the path of a Unix socket.
    pub address: Address,
    /// Share of new sessions relative to the other backends; at least 1.
    pub weight: u32,
    /// Whether the backend takes new sessions only while no other backend of the pool can.
    pub backup: bool,
}

/// Host and port, or a Unix socket; the host is an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// IPv4, IPv6 (without brackets) or a DNS name in lower case; or `unix:` and an absolute path.
    pub host: String,
    /// TCP port, never 0; 0 for a Unix socket.
    pub port: u16,
}

/// Begins the address of a Unix socket.
pub(in crate::config) const UNIX: &str = "unix:";

impl Address {
    /// The path of the Unix socket; `None` if this is a host and a port.
    pub fn unix_path(&self) -> Option<&Path> {
        (self.port == 0).then(|| self.host.strip_prefix(UNIX)).flatten().map(Path::new)
    }

    /// Whether the host is a name that DNS resolves.
    pub fn has_name(&self) -> bool {
        self.unix_path().is_none() && self.literal().is_none()
    }

    /// The socket address, if the host is an IP address.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unix_path().is_some() {
            f.write_str(&self.host)
        } else if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a backend is chosen for a client without affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Fewest open sessions and tunnels, by weight.
    #[default]
    LeastSessions,
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two random backends, by weight.
    P2c,
    /// By a hash of the client's address, so that a client returns to its backend.
    SourceHash,
}

impl Balance {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeastSessions => "least-sessions",
            Self::RoundRobin => "round-robin",
            Self::P2c => "p2c",
            Self::SourceHash => "source-hash",
        }
    }
}

/// Time limits of each phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// One connection attempt to a backend.
    pub connect: Duration,
    /// From the last byte of the request to the end of the response's header. For an Engine.IO poll, at
    /// least `pingInterval + pingTimeout` of its session. Other long polls use
    /// [`stream_idle`](Self::stream_idle) instead.
    pub response_header: Duration,
    /// Maximum pause within a body, in either direction.
    pub body_idle: Duration,
    /// Maximum silence of an event stream, and maximum duration of a long poll; `None`: unlimited.
    pub stream_idle: Option<Duration>,
    /// Maximum pause in a tunnel; `None`: unlimited.
    pub tunnel_idle: Option<Duration>,
    /// Maximum pause in a half-closed tunnel.
    pub half_closed: Duration,
}

/// Limits of idle connections to each backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Maximum number of idle connections.
    pub max_idle: usize,
    /// Maximum number of HTTP connections, without tunnels; `None`: unlimited.
    pub max_total: Option<usize>,
    /// Maximum time that a connection stays idle.
    pub idle_timeout: Duration,
}

/// Limits of the header of a request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Maximum size in bytes, with the first line.
    pub size: usize,
    /// Maximum number of fields.
    pub fields: usize,
}

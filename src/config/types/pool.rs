//! Types of pools and their backends.

use std::{fmt, net::SocketAddr, time::Duration};

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
    /// backend list file is empty, or if a source provides the backends.
    pub backends: Vec<BackendConfig>,
    /// What brings backends while the process runs; `None`: the configuration has them all.
    pub source: Option<BackendSource>,
    /// How a backend is chosen for a new session.
    pub balance: Balance,
    /// How backends are probed.
    pub health: HealthConfig,
    /// How sessions are kept on their backend.
    pub sticky: Sticky,
    /// Deadlines per phase.
    pub timeouts: Timeouts,
    /// Bounds of the kept-alive connections to each backend.
    pub reuse: Reuse,
    /// How a removed or drained backend is emptied of the sessions it has.
    pub drain: DrainConfig,
    /// Over how long a backend that is new or has come back grows into its full weight; zero: at once.
    pub slow_start: Duration,
    /// When a backend that fails under traffic is left out; `None`: never.
    pub outlier: Option<Outlier>,
    /// Percent of the backends: where fewer are healthy, health is ignored and all are used; 0: never.
    pub healthy_minimum: u8,
    /// What one backend is given at once, at most.
    pub limits: Limits,
    /// How many new sessions a backend is given in a time; `None`: as many as come.
    pub admission: Option<Admission>,
    /// How tunnels are shed from backends that have more than their share; `None`: never.
    pub rebalance: Option<RebalanceConfig>,
    /// How long a tunnel lives at most, minus up to a tenth at random; `None`: unlimited.
    pub max_connection_age: Option<Duration>,
    /// Over how long the tunnels of a backend that is down are closed; `None`: they are kept.
    pub on_down: Option<Duration>,
    /// TLS settings of connections to the backends; `None`: no TLS.
    pub tls: Option<BackendTls>,
    /// Which PROXY header connections to the backends begin with; `None`: none does.
    pub proxy_protocol: Option<ProxyOut>,
    /// Limits of a response's header.
    pub response_header: HeaderLimits,
    /// Paths below which a backend may hold a request for as long as it likes.
    pub long_polls: Vec<String>,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendConfig {
    /// Given name; the address as typed where none was given.
    pub name: String,
    /// Its address.
    pub address: Address,
    /// Share of new sessions relative to its neighbours; at least 1.
    pub weight: u32,
}

/// Host and port; the host is an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// IPv4, IPv6 (without brackets) or a DNS name in lower case.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl Address {
    /// The socket address, if the host is an IP address.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a backend is chosen for a client without affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Fewest live sessions and tunnels for its weight.
    #[default]
    LeastSessions,
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two drawn at random by weight.
    P2c,
    /// By the client's address, so that a client returns to its backend while it is there.
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

/// Deadlines per phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection to a backend, each try.
    pub connect: Duration,
    /// From the last byte of the request to the end of the response's header. An Engine.IO poll's is never
    /// shorter than its session's own `pingInterval + pingTimeout`; other long polls have
    /// [`stream_idle`](Self::stream_idle) instead.
    pub response_header: Duration,
    /// Longest pause within a body, in either direction.
    pub body_idle: Duration,
    /// Longest silence of an event stream, and longest time that a long poll is held; `None`: unlimited.
    pub stream_idle: Option<Duration>,
    /// Longest pause in a tunnel; `None`: unlimited.
    pub tunnel_idle: Option<Duration>,
    /// Longest pause in a tunnel of which one side has ended its direction.
    pub half_closed: Duration,
}

/// Bounds of the kept-alive connections to each backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Most connections kept while idle.
    pub max_idle: usize,
    /// Most HTTP connections at all, tunnels not counted; `None`: unlimited.
    pub max_total: Option<usize>,
    /// How long one is kept while idle.
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

//! Types of backend discovery.

use std::{net::SocketAddr, time::Duration};

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

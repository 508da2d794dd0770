//! The terms on which a fleet is run: where backends come from while the process runs, how things are
//! emptied and handed over, what backends are spared, and where operators come in.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// How something is emptied without dropping everybody at once: nothing new; then, in the last part
/// of the time, closes one by one; at the deadline, what is left is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// From the order to the deadline.
    pub within: Duration,
    /// Over how long before the deadline closes are spread evenly; at most `within`.
    pub spread: Duration,
}

impl DrainConfig {
    /// Closes spread over the second half.
    pub const fn within(within: Duration) -> Self {
        let spread = Duration::from_millis(within.as_millis() as u64 / 2);
        Self { within, spread }
    }
}

/// How the configuration's file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whenever it, or a file that it names, changes; else only by order.
    pub watch: bool,
    /// Time between two comparisons of the watched files, for changes that the system does not report.
    pub interval: Duration,
    /// Most sessions that it may disconnect, unless an order says otherwise; `None`: any number.
    pub max_disconnects: Option<u64>,
}

/// How a process hands over to a new binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// How the old process is emptied of the connections that cannot be handed over.
    pub drain: DrainConfig,
    /// Deadline of the new process's readiness, from its start.
    pub ready: Duration,
}

/// Where operators ask and order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// Address of `/metrics`, `/live` and `/ready`, for anybody who reaches it; `None`: not served.
    pub metrics: Option<SocketAddr>,
    /// The unix socket of the API, mode 0600.
    pub socket: AdminSocket,
    /// The API over TCP, for who brings the token; `None`: not served.
    pub remote: Option<AdminRemote>,
}

/// Where the admin API's unix socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// `moorline.sock` in the unit's or the user's runtime folder, where no other process has it.
    #[default]
    Usual,
    /// Here.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// The admin API over TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminRemote {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Bearer token that every request has to bring; at least 16 bytes.
    pub token: String,
}

impl fmt::Debug for AdminRemote {
    /// Says where, never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminRemote").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What brings a pool's backends while the process runs. The last good answer is kept on failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSource {
    /// The A and AAAA records of a name: each address is a backend.
    Dns(Dns),
    /// The SRV records of a name: targets, ports and weights. `Dns::port` is not used.
    Srv(Dns),
    /// A JSON list.
    Http(HttpSource),
}

/// A name that is looked up again when its records expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name, in lower case.
    pub name: String,
    /// Port of every address; SRV records have their own.
    pub port: u16,
    /// The server to ask; `None`: those of the system.
    pub resolver: Option<SocketAddr>,
    /// Shortest time until it is looked up again, whatever the records say.
    pub min_ttl: Duration,
    /// Longest time.
    pub max_ttl: Duration,
}

/// A URL that answers with a JSON list of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSource {
    /// An `http` or `https` URL.
    pub url: String,
    /// Time from one request to the next.
    pub interval: Duration,
    /// Deadline of the whole answer.
    pub timeout: Duration,
}

/// When a backend that fails under traffic is left out for new sessions, and for how long.
///
/// A failure is a connection that cannot be opened, an answer that does not come or is no HTTP, or one
/// with status 500, 502, 503 or 504.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject.
    pub consecutive: u32,
    /// Percent of failures within `interval` that eject; 0: none do.
    pub error_rate: u8,
    /// Requests within `interval` from which on their rate counts.
    pub min_requests: u32,
    /// The stretch of time over which the rate is taken.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one lasts that much longer.
    pub ejection: Duration,
    /// How long one lasts at most.
    pub max_ejection: Duration,
    /// Percent of the pool's backends that may be ejected at once.
    pub max_ejected: u8,
}

/// What one backend is given at once, at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections, tunnels included; `None`: unlimited.
    pub connections: Option<usize>,
    /// Requests that wait for a connection (see [`Reuse::max_total`](super::Reuse::max_total)); `None`: unlimited.
    pub pending: Option<usize>,
}

/// What the header of a request or a response may have, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Bytes, first line included.
    pub size: usize,
    /// Fields.
    pub fields: usize,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So often, at least 1.
    pub times: u32,
    /// In this time.
    pub per: Duration,
}

impl Rate {
    /// Time from one to the next.
    pub fn interval(self) -> Duration {
        self.per / self.times.max(1)
    }
}

/// How many new sessions each backend is given in a time, so that a herd that returns does not
/// trample it. Requests of known sessions never wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Handshakes and upgrades without a session, per backend.
    pub rate: Rate,
    /// How many of them may wait, per backend.
    pub queue: usize,
    /// How long one may wait; well inside a client's own 20 s.
    pub deadline: Duration,
}

/// How tunnels are shed from backends that have more than their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceConfig {
    /// Tunnels closed, over the whole pool.
    pub rate: Rate,
}

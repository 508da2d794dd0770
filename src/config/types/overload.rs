//! Types of limits and rates per backend.

use std::time::Duration;

/// Limits per backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections, tunnels included; `None`: unlimited.
    pub connections: Option<usize>,
    /// Maximum number of requests that wait for a connection (see
    /// [`Reuse::max_total`](super::Reuse::max_total)); `None`: unlimited.
    pub pending: Option<usize>,
}

/// A number of events per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

//! Types of health checks.

use std::time::Duration;

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What a probe does.
    pub probe: ProbeConfig,
    /// Time between probes of one backend, ±10 % jitter.
    pub interval: Duration,
    /// Deadline of one probe, from connect to verdict.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures, of probes or of connects, that take it down.
    pub fall: u32,
}

/// What a health probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeConfig {
    /// Nothing: a backend is always up.
    Off,
    /// Open a TCP connection.
    Tcp,
    /// `GET` a path and look at the status.
    Http {
        /// Path and query, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
        /// Statuses that count as healthy, inclusive.
        status: (u16, u16),
    },
    /// An Engine.IO session from its beginning to its end: handshake, upgrade probe, close. Finds a dead
    /// event loop that an HTTP 200 hides.
    EngineIo {
        /// Path, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
    /// A WebSocket handshake: a valid 101, then a Close.
    WebSocket {
        /// Path and query, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
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

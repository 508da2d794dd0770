//! Types of health checks.

use std::time::Duration;

/// Health checks of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What a probe does.
    pub probe: ProbeConfig,
    /// Time between two probes of one backend, ±10 %.
    pub interval: Duration,
    /// Time limit of one probe, from the connection attempt to the result.
    pub timeout: Duration,
    /// Consecutive successes after which a backend is up.
    pub rise: u32,
    /// Consecutive failures, of probes or of connection attempts, after which a backend is down.
    pub fall: u32,
}

/// What a health probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeConfig {
    /// No probe: every backend is up.
    Off,
    /// Open a TCP connection.
    Tcp,
    /// Request a path with `GET` and check the status.
    Http {
        /// Path and query, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
        /// Statuses that count as healthy, inclusive.
        status: (u16, u16),
    },
    /// Open an Engine.IO session, upgrade it and close it. Detects a blocked event loop, which an HTTP
    /// probe may not detect.
    EngineIo {
        /// Path, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
    /// Open a WebSocket and close it.
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

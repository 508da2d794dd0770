//! Types of settings of the whole process.

use std::{fmt, path::PathBuf, time::Duration};

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

/// Limits over all clients of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Maximum number of open client connections, tunnels included; `None`: what the limit of open files
    /// allows.
    pub connections: Option<usize>,
    /// Maximum number of TLS handshakes with clients at the same time; `None`: by the number of cores.
    pub handshakes: Option<usize>,
}

/// Handoff to a new binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// How the old process closes the connections that cannot be handed over.
    pub drain: DrainConfig,
    /// Time limit for the new process to become ready, from its start.
    pub ready: Duration,
}

/// When backends get `Forwarded` (RFC 7239) in addition to `X-Forwarded-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// If a trusted proxy sent it.
    #[default]
    Pass,
    /// With every request.
    Always,
}

impl Forwarded {
    /// The setting's value in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Always => "always",
        }
    }
}

/// Destination of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogConfig {
    /// No access log.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// Keys that several proxies may share. The first key makes cookies or tickets; all keys are accepted.
#[derive(Clone, PartialEq, Eq)]
pub enum SharedKeys {
    /// From a file or the environment: at least one, each at least 32 bytes.
    Configured(Vec<Vec<u8>>),
    /// Generated at start: lost on restart and not shared with other proxies.
    Generated,
}

impl fmt::Debug for SharedKeys {
    /// Shows the number of keys, never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(keys) => write!(f, "Configured({} keys)", keys.len()),
            Self::Generated => f.write_str("Generated"),
        }
    }
}

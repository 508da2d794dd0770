//! Plans, reloads and upgrades of the binary.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What applying a configuration would change, or has changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Whether nothing changes.
    pub empty: bool,
    /// Each change, in the order of the file.
    pub changes: Vec<Change>,
    /// Number of tunnels that would be closed or cut.
    pub disconnected_tunnels: u64,
    /// Number of sessions that would end, including those with a tunnel.
    pub disconnected_sessions: u64,
    /// Seconds until the last session ends, if they do not end by themselves before.
    pub by: Option<f64>,
}

/// One change of a plan.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    /// What changes.
    pub what: ChangedThing,
    /// How it changes.
    pub how: ChangeKind,
    /// Name of the listener, pool or setting, host and path of the route, or `pool/backend`.
    pub name: String,
    /// Short description.
    pub detail: String,
    /// Number of tunnels that would be closed or cut.
    pub tunnels: u64,
    /// Number of sessions that would end, including those with a tunnel.
    pub sessions: u64,
    /// Seconds until the last session ends, if the sessions do not end by themselves before.
    pub by: Option<f64>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, how, name, detail, .. } = self;
        write!(f, "{} {name} {}", what.label(), how.label())?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

/// The part of the configuration that changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangedThing {
    /// A listener.
    Listener,
    /// A route.
    Route,
    /// A pool.
    Pool,
    /// A backend.
    Backend,
    /// Another setting of the process.
    Setting,
}

impl ChangedThing {
    /// Name for display.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Pool => "pool",
            Self::Backend => "backend",
            Self::Setting => "setting",
        }
    }
}

impl ChangeKind {
    /// Name for display.
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Kept => "kept",
        }
    }
}

/// How a part of the configuration changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// New in the configuration.
    Added,
    /// Removed.
    Removed,
    /// Kept, with other settings.
    Changed,
    /// Set by a command of this API, and kept.
    Kept,
}

/// Options of a reload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Reject the reload if it would disconnect more tunnels, streams and polling sessions.
    #[serde(default)]
    pub max_disconnects: Option<u64>,
}

/// A configuration to plan.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Text of the file; `None`: the file of the running process, as it is now.
    #[serde(default)]
    pub text: Option<String>,
    /// Absolute path of the file; relative paths in the text start at its directory.
    #[serde(default)]
    pub path: Option<String>,
}

/// The binary to hand over to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Absolute path of the binary; the binary of this process if omitted.
    #[serde(default)]
    pub binary: Option<String>,
}

/// Result of a binary upgrade.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Upgraded {
    /// Id of the new process.
    pub pid: u32,
}

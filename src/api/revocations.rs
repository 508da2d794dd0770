//! Requests that end the sessions of a subject.

use serde::{Deserialize, Serialize};

/// A subject whose sessions end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// The subject, as in the claim `sub` of its tokens.
    pub subject: String,
}

/// What a revocation has ended.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Revoked {
    /// The subject.
    pub subject: String,
    /// Number of Engine.IO sessions that end, with or without a tunnel.
    pub sessions: u64,
    /// Number of tunnels that are closed.
    pub tunnels: u64,
}

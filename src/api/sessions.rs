//! Sessions, and requests to find and close one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Id;

/// A tunnel, a layer-4 stream, or a polling session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionState {
    /// Id, to close the session with.
    pub id: Id,
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// Kind of session.
    pub kind: SessionKind,
    /// Client address, without a port for a polling session. `None`: another process opened the
    /// session.
    pub client: Option<String>,
    /// Seconds since the session was opened, or was found by an owner search. `None`: another process
    /// opened it.
    pub age: Option<f64>,
}

/// Kind of a session.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// An upgraded connection.
    Tunnel,
    /// A layer-4 connection.
    Stream,
    /// An Engine.IO session without a tunnel.
    Polling,
}

/// A list of sessions, up to the requested limit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionList {
    /// Number of all sessions.
    pub total: u64,
    /// The listed sessions.
    pub sessions: Vec<SessionState>,
}

/// A session to find.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FindRequest {
    /// The session id, as clients send it in `sid=`.
    pub sid: String,
}

impl fmt::Debug for FindRequest {
    /// A session id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindRequest").finish_non_exhaustive()
    }
}

/// The closed session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Closed {
    /// Id of the closed session.
    pub closed: Id,
}

/// The pools and backends that know a session id.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Whereabouts {
    /// The session in each pool that knows it.
    pub found: Vec<SessionState>,
}

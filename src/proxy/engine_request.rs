//! The Engine.IO parameters of a request.

use crate::sticky::engine_io::{self, Framing, Transport};

/// Engine.IO parameters of a request, from its query.
#[derive(Debug)]
pub(crate) struct EngineRequest {
    /// Session id; `None` on a handshake.
    pub(crate) sid: Option<Box<str>>,
    /// Whether the transport is long polling.
    pub(crate) polling: bool,
    /// Framing of the session's payloads.
    pub(super) framing: Framing,
}

/// Returns the Engine.IO parameters of a request with this query; `None` if it is not an Engine.IO request.
pub(crate) fn engine_request(query: Option<&str>) -> Option<EngineRequest> {
    let query = engine_io::query(query?)?;
    Some(EngineRequest {
        polling: query.transport == Transport::Polling,
        framing: Framing::of(&query),
        sid: query.sid.map(Into::into),
    })
}

//! What a backend holds, counted for operators. `status`, `backends`, `plan`, `reload` and `drain` show
//! these numbers.
//!
//! - A **connection** is an open TCP connection of a client to a listener. (The metric of that name leaves
//!   out connections that have become tunnels.)
//! - A **tunnel** is a client's connection that carries a WebSocket, or a layer-4 stream.
//! - A **session** belongs to one client and one backend, and is lost if the backend is removed: an
//!   Engine.IO session, or a tunnel without one. A session counts once, however many tunnels it has. Two
//!   clients with a tunnel and two clients that poll are two tunnels and four sessions.
//! - A session **polls** while it has no tunnel.
//!
//! Ids of ended sessions stay in the table of session ids for a while. They are not counted here.

use crate::{handoff::Predecessors, shared::SharedState, upstream::Backend};

/// What a backend holds, in this process and in its predecessors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldCount {
    /// Open tunnels.
    pub(super) tunnels: u64,
    /// Live sessions, including those with a tunnel.
    pub(super) sessions: u64,
}

impl HeldCount {
    /// Counts what one backend holds.
    pub(super) fn of(backend: &Backend, proxy: &SharedState, predecessors: &Predecessors) -> Self {
        // Predecessors hold tunnels only: polling sessions were handed over.
        let older = predecessors.tunnels_of(backend);
        Self {
            tunnels: proxy.tunnels.of(backend.serial()) as u64 + older,
            sessions: backend.sessions() as u64 + older,
        }
    }
}

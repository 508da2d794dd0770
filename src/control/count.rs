//! What is counted for an operator. Every number that `status`, `backends`, `plan`, `reload` and `drain`
//! show is one of these.
//!
//! - A **connection** is an open TCP connection of a client to a listener, whatever it carries. (The metric
//!   of that name leaves out those that have become tunnels.)
//! - A **tunnel** is a client's connection that carries a WebSocket, or a stream of layer 4.
//! - A **session** is what one client has with one backend, and loses if the backend goes: an Engine.IO
//!   session, or a tunnel without one. A session is counted once, however many tunnels it has. So four
//!   clients are four sessions: two with a tunnel and two that poll are two tunnels and four sessions.
//! - A session **polls** while it has no tunnel.
//!
//! Ids of sessions that have ended stay in the table of session ids for a while, and are not counted here.

use crate::{handoff::Predecessors, shared::SharedState, upstream::Backend};

/// What a backend holds, here and in the processes before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldCount {
    /// Open tunnels.
    pub(super) tunnels: u64,
    /// Live sessions, those with a tunnel included.
    pub(super) sessions: u64,
}

impl HeldCount {
    /// The count of one backend.
    pub(super) fn of(backend: &Backend, proxy: &SharedState, before: &Predecessors) -> Self {
        // Sessions that poll have gone over to this process.
        let before = before.tunnels_of(backend);
        Self {
            tunnels: proxy.tunnels.of(backend.serial()) as u64 + before,
            sessions: backend.sessions() as u64 + before,
        }
    }
}

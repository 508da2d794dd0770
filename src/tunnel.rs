//! Upgraded connections: bytes both ways until both sides have said that they are done.
//!
//! A tunnel sees two byte streams and a [`TunnelObserver`]; it knows nothing of HTTP, routes or configuration,
//! and never looks into a payload. What it promises:
//!
//! - **No buffer while idle.** Bytes move through a buffer of the thread ([`copy`]); a tunnel owns
//!   memory only while a write is short. Bulk between plain sockets goes through a pipe ([`splice`]),
//!   on the same terms.
//! - **Backpressure.** While a write is short, nothing more is read from its other side.
//! - **Half-close.** A FIN is passed on once everything before it is; the other direction goes on,
//!   for [`TunnelOptions::half_closed`] without a byte at most.
//! - **Resets are passed on** at once, as resets.
//! - **One ending.** The guard hears of it exactly once, or is dropped by a panic.
//! - **Closed between frames.** Where the bytes are known to be a WebSocket's, the headers of its
//!   frames are followed ([`frame`]), and an ordered [`close`] interrupts none of them.
//!
//! Tunnels are found again by backend through the [`TunnelRegistry`], by which they are closed and cut.

pub mod close;
mod copy;
pub mod frame;
mod registry;
pub mod splice;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use bytes::Bytes;

pub use self::{
    close::CloseReason,
    copy::Tunnel,
    registry::{AgeLimit, OpenTunnel, SHARDS, TunnelId, TunnelRegistry, TunnelTicket},
};
use crate::error::Termination;

/// How a tunnel ended and what it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSummary {
    /// Why.
    pub termination: Termination,
    /// Bytes from client to backend.
    pub to_backend: u64,
    /// Bytes from backend to client.
    pub to_client: u64,
}

/// Hears of a tunnel's end. Dropped unheard where the tunnel's task panicked or was dropped.
pub trait TunnelObserver: Unpin {
    /// The tunnel is over; both sockets are about to close. There is an error where more is known of a
    /// failure than its kind.
    fn end(self, ended: TunnelSummary, error: Option<&io::Error>);
}

/// One end of a tunnel: the stream, and what had been read from it before.
#[derive(Debug)]
pub struct TunnelEndpoint<S> {
    /// The stream itself.
    pub stream: S,
    /// Bytes already read from it that belong to the other end.
    pub early: Bytes,
}

/// What a tunnel goes by.
#[derive(Clone, Copy, Debug)]
pub struct TunnelOptions {
    /// The longest pause; `None`: unlimited.
    pub idle: Option<Duration>,
    /// The longest pause of the open direction once the other one has ended: a peer that has sent FIN and
    /// never gets one back must not be held for ever.
    pub half_closed: Duration,
    /// Whether both directions are a WebSocket's from the first byte on, so that it can be closed
    /// between two frames.
    pub framed: bool,
}

impl Default for TunnelOptions {
    /// No limit but that of a half-closed tunnel, and nothing is known of its bytes.
    fn default() -> Self {
        Self { idle: None, half_closed: Duration::from_secs(60), framed: false }
    }
}

/// Moves bytes between `client` and `backend` until the tunnel ends.
///
/// The future is the whole cost of an open tunnel: spawn it in a task of its own.
pub fn run<A, B, G>(
    client: TunnelEndpoint<A>,
    backend: TunnelEndpoint<B>,
    guard: G,
    ticket: TunnelTicket,
    options: TunnelOptions,
) -> Tunnel<A, B, G>
where
    A: crate::net::stream::ByteStream,
    B: crate::net::stream::ByteStream,
    G: TunnelObserver,
{
    Tunnel::new(client, backend, guard, ticket, options)
}

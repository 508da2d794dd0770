//! Tunnels: bytes in both directions until both sides have ended.
//!
//! A tunnel has two byte streams and a [`TunnelObserver`]. It does not depend on HTTP, routes or
//! configuration, and never inspects payload. It guarantees:
//!
//! - **No buffer while idle.** Bytes move through a buffer of the thread (`copy`); a tunnel owns
//!   memory only after a short write. Bulk data between plain sockets moves through a pipe
//!   ([`splice`]) under the same rules.
//! - **Backpressure.** After a short write, nothing more is read from the other side.
//! - **Half-close.** A FIN is passed on after all bytes before it. The other direction continues,
//!   for at most [`TunnelOptions::half_closed`] without a byte.
//! - **Resets are passed on** at once, as resets.
//! - **One end.** The observer is called exactly once, or is dropped by a panic.
//! - **Closed between frames.** In a WebSocket tunnel, frame headers are tracked ([`frame`]), and a
//!   [`close`] by the proxy interrupts no frame.
//! - **Limited messages.** The client's stream may be a [`LimitedStream`], which refuses messages that are
//!   too large or too many; the tunnel then closes.
//!
//! The [`TunnelRegistry`] finds tunnels by backend, and closes and cuts them.

pub mod close;
mod copy;
mod direction;
pub mod frame;
mod messages;
mod reason;
mod registry;
pub mod splice;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use bytes::Bytes;

pub use self::{
    copy::Tunnel,
    messages::{LimitedStream, MessageLimits},
    reason::CloseReason,
    registry::{
        AgeLimit, OpenTunnel, SHARDS, TunnelCloser, TunnelId, TunnelRegistry, TunnelTicket,
    },
};
use crate::error::Termination;

/// How a tunnel ended, and how many bytes it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSummary {
    /// Why the tunnel ended.
    pub termination: Termination,
    /// Bytes from client to backend.
    pub to_backend: u64,
    /// Bytes from backend to client.
    pub to_client: u64,
}

/// Called at the end of a tunnel. Dropped without a call if the task of the tunnel panicked or was
/// dropped.
pub trait TunnelObserver: Unpin {
    /// Called when the tunnel has ended; both sockets are about to close. `error` is set if it says
    /// more than the kind of the failure.
    fn end(self, ended: TunnelSummary, error: Option<&io::Error>);
}

/// One end of a tunnel: the stream, and bytes that were read from it before.
#[derive(Debug)]
pub struct TunnelEndpoint<S> {
    /// The stream.
    pub stream: S,
    /// Bytes already read from the stream, for the other end.
    pub early: Bytes,
}

/// Options of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelOptions {
    /// Idle timeout; `None`: no limit.
    pub idle: Option<Duration>,
    /// Idle timeout of the open direction after the other one has ended: a peer that never answers a
    /// FIN must not hold the tunnel.
    pub half_closed: Duration,
    /// Whether both directions carry WebSocket frames from the first byte on, so that the tunnel can
    /// be closed between two frames.
    pub framed: bool,
}

impl Default for TunnelOptions {
    /// No idle timeout except for half-closed tunnels, and no frames.
    fn default() -> Self {
        Self { idle: None, half_closed: Duration::from_secs(60), framed: false }
    }
}

/// Moves bytes between `client` and `backend` until the tunnel ends.
///
/// The future is the whole cost of an open tunnel: spawn it in a separate task.
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

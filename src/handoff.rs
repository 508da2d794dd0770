//! Handoff to a new binary without losing a session.
//!
//! The old process starts the new one with its own command line. The standard input of the new process is
//! one end of a unix socket pair, and its environment has [`HANDOFF_VARIABLE`]. The old process sends its
//! listening sockets, keys and sessions over this channel ([`wire`]). It stops accepting when the new
//! process accepts.
//!
//! ```text
//! old                                              new
//!  ├ Hello, Socket…, Keys, Backend…, Value…, Offered ─▶ reads its configuration, uses the sockets
//!  │                                                 │ that it needs, binds others, builds everything
//!  ◀───────────────────────────────── Hello, Prepared ┤
//!  ├ Sessions…, Value…, Transferred ─────────────────▶ stores them, accepts
//!  ◀──────────────────────────────────────────── Ready ┤
//!  │ stops accepting, releases the admin sockets     │
//!  ├ Released ───────────────────────────────────────▶ serves the admin sockets, logs `ready`
//!  ├ Sessions (new ones), Ended, State (each second) ─▶ stores and shows them
//!  ◀─────────────────────── Directives (at each change) ┤
//!  └ end of file: no connection is left              │
//! ```
//!
//! # Invariants
//!
//! - The old process serves as usual until it receives `Ready`. If the new process fails before (it does
//!   not start, ends, hangs, uses another protocol version or rejects its configuration), the old process
//!   ends it, logs the reason and closes the channel.
//! - No connection is refused: at any time at least one process accepts from the same sockets, and the
//!   kernel queues connections until then.
//! - The new process has all sessions before it accepts. Sessions that the old process learns later are sent
//!   afterwards. If one is sent too late, the owner search finds its backend.
//! - Connections stay in their process. The old process answers requests in progress and closes each
//!   keep-alive connection with its next response. Tunnels end by themselves or in the shutdown.
//! - An old process without connections waits until its own predecessors have ended, because it passes
//!   their messages on.
//! - The newest process decides what happens to the tunnels of a backend in all processes. Each process
//!   applies its directives and sends them to its predecessor.
//! - If the old process dies after it has sent `Offered`, the new one serves. If the old process is asked
//!   to shut down, it ends the new one first. If the old process lives but closes the channel, the new one
//!   ends: the two never serve independently.
//! - Keys are sent over the channel only. They are never logged or written to a file.

mod child;
mod launch;
mod message;
mod parent;
mod predecessors;
mod successor;
mod wire;

pub use self::{
    child::{HandoffChannel, Inheritance, Takeover},
    launch::{Launch, LaunchError},
    message::{
        BackendDirective, BackendIdentity, BackendRecord, DrainDirective, DrainUntil, HeldTunnels,
        PredecessorState, Secrets, Values,
    },
    parent::{HandoffError, HandoffOffer},
    predecessors::Predecessors,
    successor::{Successor, SuccessorFeed},
};

/// Environment variable that is set if the standard input of a process is a channel to the old process.
pub const HANDOFF_VARIABLE: &str = "MOORLINE_HANDED_OVER";

/// Version of the messages; both processes must have the same one.
const PROTOCOL: u32 = 1;

/// Maximum number of sessions in one message.
const SESSIONS: usize = 1024;

//! Handing over to a new binary without losing a session.
//!
//! The old process starts the new one by its own command line, with one end of a unix socket pair as
//! the new one's standard input and [`HANDED`] in its environment. Over that channel ([`wire`]) go
//! listening sockets, then what must not be forgotten, and only when the new process accepts does the
//! old one stop to.
//!
//! ```text
//! old                                              new
//!  ├ Hello, Socket…, Keys, Backend…, Value…, Offered ─▶ reads its configuration, adopts the sockets
//!  │                                                 │ it asks for, binds the rest, builds everything
//!  ◀───────────────────────────────── Hello, Prepared ┤
//!  ├ Sessions…, Value…, Transferred ─────────────────▶ remembers them, accepts
//!  ◀──────────────────────────────────────────── Ready ┤
//!  │ stops accepting, leaves the admin's sockets     │
//!  ├ Released ───────────────────────────────────────▶ serves the admin's sockets, says `ready`
//!  ├ Sessions (learned late), Ended, State (each s) ──▶ remembers, shows
//!  ◀──────────────────────────── Fates (at each change) ┤
//!  └ end of file: it is empty                          │
//! ```
//!
//! # Invariants
//!
//! - The old process serves as if nothing was until `Ready` has come. Whatever goes wrong before, a
//!   program that does not start, ends, hangs, speaks another protocol or refuses its configuration,
//!   ends the new process, is told in a sentence, and leaves nothing behind.
//! - No connection is refused: at each moment one of the two, or both, accept from the same sockets,
//!   and what neither has accepted waits in the kernel's queue.
//! - A session is known to the new process before that accepts; one that the old process learns after
//!   its table was read is sent after it. Where that comes late, an owner search finds it.
//! - Connections stay where they are. The old process answers what is under way and asks each
//!   kept-alive connection to close with its next answer; tunnels end by themselves or in its drain.
//! - An old process that is empty stays until those before it have ended: it tells on what they say.
//! - What becomes of a backend is the newest process's to say, for the tunnels in all of them: each one
//!   does as it is told and tells those before it.
//! - An old process that dies without a word once it has offered its sockets leaves a new one that
//!   serves. One that is told to stop ends the new one first, and a new one whose old one lives and says
//!   no more ends by itself: the two never serve side by side.
//! - Keys cross the channel, are in no text, and reach no file.

mod child;
mod launch;
mod message;
mod parent;
mod predecessors;
mod successor;
mod wire;

pub use self::{
    child::{HandoffChannel, Inheritance, Takeover},
    launch::Launch,
    message::{
        BackendDirective, BackendIdentity, BackendRecord, DrainDirective, DrainUntil, HeldTunnels,
        PredecessorState, Secrets, Values,
    },
    parent::{HandoffError, HandoffOffer},
    predecessors::Predecessors,
    successor::{Successor, SuccessorFeed},
};

/// Variable that tells a process that its standard input is a channel to the one before it.
pub const HANDED: &str = "MOORLINE_HANDED_OVER";

/// Version of what is said on the channel; the two sides must agree.
const PROTOCOL: u32 = 1;

/// Most sessions in one message.
const SESSIONS: usize = 1024;

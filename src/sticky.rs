//! How a session stays on its backend.
//!
//! Two sources say where a request belongs: its session id, which [`engine_io`] reads from requests
//! and replies and the [`table`] maps to a backend, and the sticky [`cookie`], for clients that keep
//! one. [`choose`] decides between them. Where neither speaks, the [`memory`] of sessions that ended a
//! moment ago may still know a client that comes back. Nothing here does I/O or speaks HTTP.

mod choice;
pub mod cookie;
pub mod engine_io;
pub mod recent_sessions;
pub mod table;

pub use self::{
    choice::{AffinityHints, Choice, choose, choose_and_recognise, preview},
    cookie::{Context, Found, Ids, Keys, MadeKey, set_cookie},
    recent_sessions::{Ending, Memory, Recalled},
    table::{Cursor, Known, Learned, Opener, Session, SessionHold, SessionId, Table},
};

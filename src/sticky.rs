//! Session affinity: keeps every session on its backend.
//!
//! Two sources identify the backend of a request. [`engine_io`] reads the session id from requests and replies, and
//! the [`table`] maps it to a backend. The affinity [`cookie`] serves clients that keep cookies. [`choose`] decides
//! between them. Without either, [`recent_sessions`] may recognize a client that reconnects. This module does no
//! I/O. Of HTTP it knows only queries, bodies and the cookie fields.

mod choice;
pub mod cookie;
pub mod engine_io;
mod engine_paths;
pub mod recent_sessions;
pub mod table;

pub(crate) use self::engine_paths::{EnginePaths, EnginePlace};
pub use self::{
    choice::{AffinityHints, Choice, choose, choose_and_recognize, preview},
    cookie::{CookieContext, CookieIds, CookieKeys, CookieMatch, GeneratedKey, set_cookie},
    recent_sessions::{Recalled, RecentSessions, SessionEnding},
    table::{
        Cursor, KnownSession, Learned, Opener, SessionHold, SessionId, SessionSummary, SessionTable,
    },
};

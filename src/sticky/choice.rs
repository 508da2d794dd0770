//! The decision: which backend a request belongs to, from what it brings along.
//!
//! The sid knows best: it names a session, which lives on one backend and nowhere else. The cookie
//! comes second: it names the backend that this browser was on. Only where neither speaks is the
//! balance policy free.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Table;
use crate::upstream::Backend;

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clues<'a> {
    /// The Engine.IO session id in its query.
    pub sid: Option<&'a str>,
    /// The backend that its sticky cookie names.
    pub moored: Option<&'a Arc<Backend>>,
}

/// Where a request must go, or how that is to be found out.
#[derive(Clone, Debug)]
pub enum Choice {
    /// To the backend of its session, which is forgotten after this lifetime without a request.
    Session(Arc<Backend>, Duration),
    /// To the backend that the cookie names, or to another where that one cannot be reached.
    Cookie(Arc<Backend>),
    /// Nowhere: the backend of its session is dead, and the session with it.
    Gone,
    /// To the backend that turns out to know the sid; this one, from the cookie, is asked first.
    Search(Option<Arc<Backend>>),
    /// Wherever the balance policy says.
    Free,
}

/// Decides for a request to `pool`.
pub fn choose(table: &Table, pool: &str, clues: Clues<'_>, now: Instant) -> Choice {
    if let Some(sid) = clues.sid {
        return match table.find(pool, sid, now) {
            Some(known) if known.backend.keeps_sessions() => {
                Choice::Session(known.backend, known.lifetime)
            }
            Some(_) => Choice::Gone,
            None => Choice::Search(clues.moored.filter(|b| b.keeps_sessions()).cloned()),
        };
    }
    match clues.moored {
        Some(backend) if backend.takes_new() => Choice::Cookie(Arc::clone(backend)),
        _ => Choice::Free,
    }
}

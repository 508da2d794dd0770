//! The decision: which backend a request belongs to, from what it brings along.
//!
//! The sid knows best: it names a session, which lives on one backend and nowhere else. The cookie
//! comes second: it names the backend that this browser was on. Only where neither speaks is the
//! balance policy free.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Known, Table, recent_sessions::Key};
use crate::upstream::{Backend, Life};

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct AffinityHints<'a> {
    /// The Engine.IO session id in its query.
    pub sid: Option<&'a str>,
    /// The backend that its sticky cookie names.
    pub cookie: Option<&'a Arc<Backend>>,
}

/// Where a request must go, or how that is to be found out.
#[derive(Clone, Debug)]
pub enum Choice {
    /// To the backend of its session, which is forgotten after this lifetime without a request.
    Session(Arc<Backend>, Duration),
    /// To the backend that the cookie names, or to another where that one cannot be reached.
    Cookie(Arc<Backend>),
    /// To the backend that its last session was on, or to another where that one cannot be reached.
    Memory(Arc<Backend>),
    /// Nowhere: the backend of its session has left the configuration and been emptied, and the session
    /// has ended with it.
    Gone,
    /// Nowhere: its session was let go, though its backend lives.
    LetGo,
    /// To the backend that turns out to know the sid; this one, from the cookie, is asked first.
    Search(Option<Arc<Backend>>),
    /// Wherever the balance policy says.
    Free,
}

/// Decides for a request to `pool`, which counts as a use of its session.
pub fn choose(table: &Table, pool: &str, hints: AffinityHints<'_>, now: Instant) -> Choice {
    decide(hints, |sid| table.find(pool, sid, now))
}

/// Decides as [`choose`] does, and gives the client that opened the session, if that is known.
pub fn choose_and_recognise(
    table: &Table,
    pool: &str,
    hints: AffinityHints<'_>,
    now: Instant,
) -> (Choice, Option<Key>) {
    let mut client = None;
    let find = |sid: &str| table.find(pool, sid, now).inspect(|known| client = known.client);
    (decide(hints, find), client)
}

/// What [`choose`] would decide, without a trace.
pub fn preview(table: &Table, pool: &str, hints: AffinityHints<'_>, now: Instant) -> Choice {
    decide(hints, |sid| table.peek(pool, sid, now))
}

fn decide(hints: AffinityHints<'_>, find: impl FnOnce(&str) -> Option<Known>) -> Choice {
    if let Some(sid) = hints.sid {
        return match find(sid) {
            // Its health does not matter: a node that answers no probe may still have the session.
            Some(known) if known.backend.phase() == Life::Gone => Choice::Gone,
            Some(known) if known.let_go => Choice::LetGo,
            Some(known) => Choice::Session(known.backend, known.lifetime),
            None => Choice::Search(hints.cookie.filter(|b| b.keeps_sessions()).cloned()),
        };
    }
    match hints.cookie {
        Some(backend) if backend.takes_new() && !backend.sheds() => {
            Choice::Cookie(Arc::clone(backend))
        }
        _ => Choice::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Address};

    const LIFETIME: Duration = Duration::from_secs(45);

    fn backend(port: u16) -> Arc<Backend> {
        let address = Address { host: "127.0.0.1".to_owned(), port };
        let config = config::Backend { name: port.to_string(), address, weight: 1 };
        Backend::new("chat", &config, &config::Reuse::default())
    }

    /// A table in which `a` is on the first of two backends.
    fn scene() -> (Arc<Table>, Arc<Backend>, Arc<Backend>, Instant) {
        let (table, now) = (Table::new(&config::Sessions::default()), Instant::now());
        let (one, two) = (backend(1), backend(2));
        assert!(table.learn("a", &one, LIFETIME, now));
        (table, one, two, now)
    }

    #[test]
    fn a_known_sid_beats_the_cookie_even_on_a_backend_that_drains() {
        let (table, one, two, now) = scene();
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        one.set_life(Life::Draining);
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Session(b, LIFETIME) if Arc::ptr_eq(&b, &one)));
    }

    #[test]
    fn a_session_stays_with_its_backend_while_that_is_down_and_ends_with_it() {
        let (table, one, two, now) = scene();
        one.mark(false, 1, 1);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Session(b, LIFETIME) if Arc::ptr_eq(&b, &one)));
        one.set_life(Life::Gone);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Gone));
    }

    #[test]
    fn a_session_that_was_let_go_is_dead_while_its_backend_lives() {
        let (table, one, two, now) = scene();
        assert_eq!(table.let_go(&one, 9), 1);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        assert!(matches!(choose(&table, "chat", hints, now), Choice::LetGo));
    }

    #[test]
    fn an_unknown_sid_is_searched_with_the_cookies_backend_first() {
        let (table, _, two, now) = scene();
        let hints = AffinityHints { sid: Some("b"), cookie: Some(&two) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Search(Some(b)) if Arc::ptr_eq(&b, &two)));
        two.mark(false, 1, 1);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Search(None)));
        let elsewhere = AffinityHints { sid: Some("a"), cookie: None };
        assert!(matches!(choose(&table, "other", elsewhere, now), Choice::Search(None)));
    }

    #[test]
    fn without_a_sid_the_cookie_counts_while_its_backend_takes_new_sessions() {
        let (table, one, _, now) = scene();
        let hints = AffinityHints { sid: None, cookie: Some(&one) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Cookie(b) if Arc::ptr_eq(&b, &one)));
        one.set_shedding(true);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Free));
        one.set_shedding(false);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Cookie(_)));
        one.set_life(Life::Draining);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Free));
        assert!(matches!(choose(&table, "chat", AffinityHints::default(), now), Choice::Free));
    }
}

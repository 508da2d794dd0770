//! Decides which backend a request belongs to, from the hints in the request.
//!
//! The sid comes first: it identifies a session, which lives on exactly one backend. The cookie comes second: it
//! names the backend that this browser used. The balance policy decides only if there is neither.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{KnownSession, SessionTable, recent_sessions::ClientKey};
use crate::upstream::{Backend, Lifecycle};

/// Affinity hints in a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AffinityHints<'a> {
    /// Engine.IO session id in the query.
    pub sid: Option<&'a str>,
    /// Backend named by the affinity cookie.
    pub cookie: Option<&'a Arc<Backend>>,
}

/// Destination of a request, or how to find it.
#[derive(Clone, Debug)]
pub enum Choice {
    /// The backend of the session, with the lifetime after which the idle session is forgotten.
    Session(Arc<Backend>, Duration),
    /// The backend named by the cookie, or another one if it is unreachable.
    Cookie(Arc<Backend>),
    /// The backend of the client's previous session, or another one if it is unreachable.
    Memory(Arc<Backend>),
    /// None: the session ended because its backend left the configuration and was drained.
    Gone,
    /// None: the session was evicted, although its backend is alive.
    Evicted,
    /// The backend that knows the sid, to be found by asking; the cookie's backend comes first.
    Search(Option<Arc<Backend>>),
    /// Any backend, by the balance policy.
    Free,
}

/// Decides for a request to `pool`. Counts as a use of its session.
pub fn choose(table: &SessionTable, pool: &str, hints: AffinityHints<'_>, now: Instant) -> Choice {
    decide(hints, |sid| table.find(pool, sid, now))
}

/// Decides like [`choose`], and also returns the client that opened the session, if known.
pub fn choose_and_recognize(
    table: &SessionTable,
    pool: &str,
    hints: AffinityHints<'_>,
    now: Instant,
) -> (Choice, Option<ClientKey>) {
    let mut client = None;
    let find = |sid: &str| table.find(pool, sid, now).inspect(|known| client = known.client);
    (decide(hints, find), client)
}

/// Returns the decision of [`choose`] without counting as a use.
pub fn preview(table: &SessionTable, pool: &str, hints: AffinityHints<'_>, now: Instant) -> Choice {
    decide(hints, |sid| table.peek(pool, sid, now))
}

fn decide(hints: AffinityHints<'_>, find: impl FnOnce(&str) -> Option<KnownSession>) -> Choice {
    if let Some(sid) = hints.sid {
        return match find(sid) {
            // Health is ignored: a backend that fails its health checks may still have the session.
            Some(known) if known.backend.lifecycle() == Lifecycle::Evicted => Choice::Gone,
            Some(known) if known.evicted => Choice::Evicted,
            Some(known) => Choice::Session(known.backend, known.lifetime),
            None => Choice::Search(hints.cookie.filter(|b| b.keeps_sessions()).cloned()),
        };
    }
    match hints.cookie {
        Some(backend) if backend.accepts_new() && !backend.is_shedding() => {
            Choice::Cookie(Arc::clone(backend))
        }
        _ => Choice::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::table::finish, *};
    use crate::config::{self, Address};

    const LIFETIME: Duration = Duration::from_secs(45);

    fn backend(port: u16) -> Arc<Backend> {
        let address = Address { host: "127.0.0.1".to_owned(), port };
        let config =
            config::BackendConfig { name: port.to_string(), address, weight: 1, backup: false };
        Backend::new("chat", &config, &config::Reuse::default())
    }

    /// A table in which session `a` is on the first of two backends.
    fn scene() -> (Arc<SessionTable>, Arc<Backend>, Arc<Backend>, Instant) {
        let (table, now) = (SessionTable::new(&config::SessionsConfig::default()), Instant::now());
        let (one, two) = (backend(1), backend(2));
        assert!(table.learn("a", &one, LIFETIME, now));
        (table, one, two, now)
    }

    #[test]
    fn known_sid_precedes_the_cookie_even_on_a_draining_backend() {
        let (table, one, two, now) = scene();
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        one.set_lifecycle(Lifecycle::Draining);
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Session(b, LIFETIME) if Arc::ptr_eq(&b, &one)));
    }

    #[test]
    fn session_stays_on_its_backend_while_it_is_down_and_ends_with_it() {
        let (table, one, two, now) = scene();
        one.record_check(false, 1, 1);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Session(b, LIFETIME) if Arc::ptr_eq(&b, &one)));
        one.set_lifecycle(Lifecycle::Evicted);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Gone));
    }

    #[test]
    fn evicted_session_is_dead_although_its_backend_is_alive() {
        let (table, one, two, now) = scene();
        assert_eq!(finish(table.evict_polling(&one, 9)), 1);
        let hints = AffinityHints { sid: Some("a"), cookie: Some(&two) };
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Evicted));
    }

    #[test]
    fn unknown_sid_is_searched_beginning_with_the_cookies_backend() {
        let (table, _, two, now) = scene();
        let hints = AffinityHints { sid: Some("b"), cookie: Some(&two) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Search(Some(b)) if Arc::ptr_eq(&b, &two)));
        two.record_check(false, 1, 1);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Search(None)));
        let elsewhere = AffinityHints { sid: Some("a"), cookie: None };
        assert!(matches!(choose(&table, "other", elsewhere, now), Choice::Search(None)));
    }

    #[test]
    fn cookie_counts_without_a_sid_while_its_backend_accepts_new_sessions() {
        let (table, one, _, now) = scene();
        let hints = AffinityHints { sid: None, cookie: Some(&one) };
        let choice = choose(&table, "chat", hints, now);
        assert!(matches!(choice, Choice::Cookie(b) if Arc::ptr_eq(&b, &one)));
        one.set_shedding(true);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Free));
        one.set_shedding(false);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Cookie(_)));
        one.set_lifecycle(Lifecycle::Draining);
        assert!(matches!(choose(&table, "chat", hints, now), Choice::Free));
        assert!(matches!(choose(&table, "chat", AffinityHints::default(), now), Choice::Free));
    }
}

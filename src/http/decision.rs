//! Decisions about a request that need no I/O.
//!
//! The data path carries these decisions out and `explain` reports them. Both call the same
//! functions, so that they agree. Nothing in this module does I/O or changes state.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header::USER_AGENT, request::Parts};

use super::{
    attempt::EngineRequest,
    validation::{self, ValidatedRequest},
};
use crate::{
    acme::Challenges,
    config::{Redirect, path},
    error::{FailureKind, Phase, ProxyError, Side},
    net::tls::TlsInfo,
    observe::ChosenBy,
    route::Uncovered,
    snapshot::{ListenerSnapshot, PoolSnapshot, RouteTarget, Snapshot},
    sticky::{Choice, Recalled, RecentSessions, recent_sessions::ClientKey},
    upstream::Backend,
};

/// Connection that a request arrived on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalContext<'a> {
    /// Listener that accepted it; `None`: explain the request as if any listener had.
    pub(super) listener: Option<&'a ListenerSnapshot>,
    /// TLS properties; `None` on a plain connection.
    pub(super) tls_info: Option<&'a TlsInfo>,
}

/// Route of a request, before a backend is chosen.
#[derive(Debug)]
pub(super) enum Routed<'s> {
    /// Response to an ACME server that validates a name.
    Challenge(Bytes),
    /// The listener redirects every request; with the host of the request.
    Redirect(Redirect, Box<str>),
    /// Pool that serves the request.
    Pool(ValidatedRequest, &'s RouteTarget),
}

/// Validates a request and finds its route.
///
/// # Errors
/// The request is rejected.
pub(super) fn route<'s>(
    context: ArrivalContext<'_>,
    challenges: &Challenges,
    snapshot: &'s Snapshot,
    parts: &Parts,
) -> Result<Routed<'s>, ProxyError> {
    let checked = validation::check(parts)?;
    let path = parts.uri.path();
    if parts.method == Method::GET
        && let Some(answer) = challenges.http(&path::normal(path))
    {
        return Ok(Routed::Challenge(answer));
    }
    match context.listener.and_then(|listener| listener.redirect) {
        Some(_) if checked.host.is_empty() => {
            return Err(ProxyError::bad_request("The Host field is missing."));
        }
        Some(to) => return Ok(Routed::Redirect(to, checked.host)),
        None => {}
    }
    let host = validation::without_port(&checked.host);
    if context.misdirects(host) {
        return Err(ProxyError::new(Side::Client, Phase::Select, FailureKind::Misdirected));
    }
    let listener = context.listener.map_or("", |listener| &*listener.name);
    match snapshot.routes.find(listener, host, path) {
        Ok(rule) => Ok(Routed::Pool(checked, rule)),
        Err(uncovered) => Err(match uncovered {
            Uncovered::NoRule => ProxyError::new(Side::Client, Phase::Select, FailureKind::NoRoute),
            Uncovered::OtherListener => {
                ProxyError::new(Side::Client, Phase::Select, FailureKind::Misdirected)
            }
            Uncovered::Ambiguous => ProxyError::bad_request(validation::AMBIGUOUS),
        }),
    }
}

impl ArrivalContext<'_> {
    /// Whether this host is served on other connections only.
    fn misdirects(self, host: &str) -> bool {
        let Some(listener) = self.listener.filter(|listener| !listener.passthrough.is_empty())
        else {
            return false;
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        listener.misdirects(&host, self.tls_info)
    }
}

/// Destination of a request within its pool.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    /// The backend that owns the session, and how long the session lives without a request.
    Session(Arc<Backend>, Duration),
    /// None: the session ended with its backend, or it was evicted.
    Gone,
    /// The backend that turns out to own the session; this backend is asked first.
    Search(Option<Arc<Backend>>),
    /// This backend, or another one if it is unreachable.
    Preferred(Arc<Backend>, ChosenBy),
    /// The backend that the balance policy chooses.
    Balanced,
}

/// Returns the destination of a request with this method, in a pool that asks up to `owner_search`
/// backends for an unknown session.
pub(super) fn destination(choice: Choice, method: &Method, owner_search: usize) -> Destination {
    // A preflight does not touch the session, and browsers accept only a 2xx response.
    let preflight = method == Method::OPTIONS;
    match choice {
        Choice::Session(backend, _) if preflight && !backend.keeps_sessions() => {
            Destination::Balanced
        }
        Choice::Session(backend, lifetime) => Destination::Session(backend, lifetime),
        Choice::Gone | Choice::Evicted | Choice::Search(_) if preflight => Destination::Balanced,
        Choice::Gone | Choice::Evicted => Destination::Gone,
        Choice::Search(first) if owner_search > 0 => Destination::Search(first),
        Choice::Search(Some(backend)) | Choice::Cookie(backend) => {
            Destination::Preferred(backend, ChosenBy::Cookie)
        }
        Choice::Memory(backend) => Destination::Preferred(backend, ChosenBy::Memory),
        Choice::Search(None) | Choice::Free => Destination::Balanced,
    }
}

/// Whether a request begins a session: a handshake, or an upgrade without polling.
pub(super) fn begins_session(
    engine: Option<&EngineRequest>,
    method: &Method,
    upgrade: bool,
) -> bool {
    match engine {
        Some(EngineRequest { sid: Some(_), .. }) => false,
        Some(EngineRequest { polling: true, .. }) => upgrade || method == Method::GET,
        _ => upgrade,
    }
}

/// Returns the client's key among the recent sessions. `None` if the request does not belong to a
/// session and does not begin one, or if the pool does not remember sessions.
pub(super) fn client_key(
    memory: &RecentSessions,
    pool: &PoolSnapshot,
    client: IpAddr,
    (engine, method, upgrade): (Option<&EngineRequest>, &Method, bool),
    headers: &HeaderMap,
) -> Option<ClientKey> {
    let is_session = upgrade || engine.is_some_and(|engine| engine.polling);
    // Browsers send preflights without the headers that distinguish clients.
    if !is_session || method == Method::OPTIONS || pool.config().sticky.memory.is_zero() {
        return None;
    }
    let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    Some(memory.key(pool.upstream.name(), client, agent))
}

/// What the recent sessions say about a new session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remembered<'p> {
    /// The client's last session was on this backend, which takes new sessions.
    On(&'p Arc<Backend>),
    /// The client's last session was on a backend that does not take new sessions.
    Closed,
    /// Sessions with this key ended on several backends.
    Ambiguous,
    /// No session with this key ended recently.
    Unknown,
}

/// Looks up the backend of the client's last session.
pub(super) fn recall<'p>(
    memory: &RecentSessions,
    key: Option<ClientKey>,
    pool: &'p PoolSnapshot,
) -> Remembered<'p> {
    let Some(key) = key else { return Remembered::Unknown };
    match memory.recall(key, pool.config().sticky.memory, Instant::now()) {
        Recalled::On(tag) => pool.tagged(tag).map_or(Remembered::Closed, Remembered::On),
        Recalled::Ambiguous => Remembered::Ambiguous,
        Recalled::Unknown => Remembered::Unknown,
    }
}

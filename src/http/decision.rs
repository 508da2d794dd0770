//! What becomes of a request, as far as that is decided without sending anything.
//!
//! The data path carries these decisions out, and `explain` reports them: both call the same functions, so
//! that they agree. Nothing here does I/O or changes anything.

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

/// How a request has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalContext<'a> {
    /// Where it was accepted; `None`: nowhere, and it is explained as if any listener had.
    pub(super) listener: Option<&'a ListenerSnapshot>,
    /// What TLS told of its client; `None`: it came in the clear.
    pub(super) tls_info: Option<&'a TlsInfo>,
}

/// What a request has found before any backend is looked for.
#[derive(Debug)]
pub(super) enum Routed<'s> {
    /// The answer to an ACME server that looks whether a name is ours.
    Challenge(Bytes),
    /// Its listener answers every request with a redirect; with the host that the request names.
    Redirect(Redirect, Box<str>),
    /// A pool.
    Pool(ValidatedRequest, &'s RouteTarget),
}

/// Checks a request and finds its route.
///
/// # Errors
/// Why it is refused.
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
    /// Whether this host is served on other connections than this one.
    fn misdirects(self, host: &str) -> bool {
        let Some(listener) = self.listener.filter(|listener| !listener.passthrough.is_empty())
        else {
            return false;
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        listener.misdirects(&host, self.tls_info)
    }
}

/// Where a request of a pool goes.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    /// To the one backend that has its session, which lives so long without a request.
    Session(Arc<Backend>, Duration),
    /// Nowhere: its session has ended, with its backend or because it was let go.
    Gone,
    /// To the backend that turns out to have its session; this one is asked first.
    Search(Option<Arc<Backend>>),
    /// To this backend, or to another one if it cannot be reached.
    Preferred(Arc<Backend>, ChosenBy),
    /// To whichever the balance policy says.
    Balanced,
}

/// Where a request with this method goes, in a pool that asks so many backends for an unknown session.
pub(super) fn destination(choice: Choice, method: &Method, owner_search: usize) -> Destination {
    // A preflight touches no session, and a browser takes nothing but a 2xx for an answer.
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

/// Whether a request begins a session: it is a handshake, or an upgrade that is a session of its own.
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

/// The key of the client of a session, or of one to be, in the memory of recent sessions; `None` if the
/// request has nothing to do with sessions, or the pool remembers none.
pub(super) fn client_key(
    memory: &RecentSessions,
    pool: &PoolSnapshot,
    client: IpAddr,
    (engine, method, upgrade): (Option<&EngineRequest>, &Method, bool),
    headers: &HeaderMap,
) -> Option<ClientKey> {
    let is_session = upgrade || engine.is_some_and(|engine| engine.polling);
    // A preflight is the browser's own, and comes without what would tell clients apart.
    if !is_session || method == Method::OPTIONS || pool.config().sticky.memory.is_zero() {
        return None;
    }
    let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    Some(memory.key(pool.upstream.name(), client, agent))
}

/// What the memory of recent sessions makes of a new one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remembered<'p> {
    /// The client's last session was on this backend, which takes new ones.
    On(&'p Arc<Backend>),
    /// It was on a backend that takes no new ones.
    Closed,
    /// Sessions of such clients ended on several backends.
    Ambiguous,
    /// No session of such a client has ended of late.
    Unknown,
}

/// Recalls where the client was that has this key.
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

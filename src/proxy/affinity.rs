//! Decisions about a request that need no I/O.
//!
//! The data path carries these decisions out and `explain` reports them. Both call these
//! functions, so that they agree. Nothing in this module does I/O or changes state.

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use moorline_http::{FieldId, Head, RequestHead};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    engine_request::EngineRequest,
    validate::{self, ValidatedRequest},
};
use crate::{
    acme::Challenges,
    config::{Redirect, path},
    error::{FailureKind, Phase, ProxyError, Side},
    gateway::RouteFacts,
    net::tls::TlsInfo,
    observe::ChosenBy,
    route::NoMatch,
    snapshot::{ListenerSnapshot, PoolSnapshot, RouteTarget, Snapshot, SplitTarget},
    sticky::{AffinityHints, Choice, Recalled, RecentSessions, recent_sessions::ClientKey},
    upstream::Backend,
};

/// Connection that a request arrived on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivalContext<'a> {
    /// Listener that accepted it; `None`: explain the request as if any listener had.
    pub(crate) listener: Option<&'a ListenerSnapshot>,
    /// TLS properties; `None` on a plain connection.
    pub(crate) tls_info: Option<&'a TlsInfo>,
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    pub(crate) client: IpAddr,
    /// Whether the client uses TLS.
    pub(crate) secure: bool,
    /// Gets a sentence for each route whose conditions decide.
    pub(crate) trace: Option<&'a RefCell<Vec<String>>>,
}

/// Route of a request, before a backend is chosen.
#[derive(Debug)]
pub(crate) enum Routed<'s, 'r> {
    /// Response to an ACME server that validates a name.
    Challenge(Bytes),
    /// The listener redirects every request; with the host of the request.
    Redirect(Redirect, &'r str),
    /// Route of the request.
    Route(ValidatedRequest<'r>, &'s RouteTarget),
}

/// Validates a request and finds its route.
///
/// # Errors
/// The request is rejected.
pub(crate) fn route<'s, 'r>(
    context: ArrivalContext<'_>,
    challenges: &Challenges,
    snapshot: &'s Snapshot,
    request: &'r RequestHead,
) -> Result<Routed<'s, 'r>, ProxyError> {
    let checked = validate::check(request)?;
    let path = request.path();
    if request.method == Method::GET
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
    let host = validate::without_port(checked.host);
    if context.misdirects(host) {
        return Err(ProxyError::new(Side::Client, Phase::Select, FailureKind::Misdirected));
    }
    let listener = context.listener.map_or("", |listener| &*listener.name);
    let meets = |rule: &RouteTarget, path: &str| context.meets(rule, request, &checked, path);
    match snapshot.routes.find(listener, host, path, &meets) {
        Ok(rule) => Ok(Routed::Route(checked, rule)),
        Err(uncovered) => Err(match uncovered {
            NoMatch::NoRule => ProxyError::new(Side::Client, Phase::Select, FailureKind::NoRoute),
            NoMatch::OtherListener => {
                ProxyError::new(Side::Client, Phase::Select, FailureKind::Misdirected)
            }
            NoMatch::Ambiguous => ProxyError::bad_request(validate::AMBIGUOUS),
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
        listener.is_misdirected(&host, self.tls_info)
    }

    /// Whether a request meets the conditions of a route, with this reading of its path.
    fn meets(
        &self,
        rule: &RouteTarget,
        request: &RequestHead,
        checked: &ValidatedRequest<'_>,
        path: &str,
    ) -> bool {
        let Some(conditions) = &rule.conditions else { return true };
        let unmet = conditions.unmet(&RouteFacts {
            request,
            path,
            host: validate::without_port(checked.host),
            upgrade: checked.upgrade,
            client: self.client,
            secure: self.secure,
            certificate: self.tls_info.and_then(|tls| tls.client.as_ref()),
        });
        if let Some(trace) = self.trace {
            let route = rule.route_label.route.as_deref().unwrap_or_default();
            let sentence = match &unmet {
                None => format!("The request meets the conditions of the route {route}."),
                Some(unmet) => format!("The route {route} does not match: {unmet}."),
            };
            // A path with two readings is looked up twice.
            let mut trace = trace.borrow_mut();
            if !trace.contains(&sentence) {
                trace.push(sentence);
            }
        }
        unmet.is_none()
    }
}

/// The facts of a request that decide which backend gets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts<'a> {
    /// Its Engine.IO query, if it has one.
    pub(crate) engine: Option<&'a EngineRequest>,
    pub(crate) method: &'a Method,
    /// Whether it asks for an upgrade.
    pub(crate) upgrade: bool,
    /// The backend that its affinity cookie names.
    pub(crate) affinity: Option<&'a Arc<Backend>>,
}

/// The session state that a decision reads. For the data path a lookup counts as a use of the session;
/// `explain` reads the same state and leaves no trace.
pub(crate) trait SessionLookup {
    /// Looks up the session id, else the cookie.
    fn session(&mut self, hints: AffinityHints<'_>) -> Choice;

    /// Returns the backend of the client's last session, if it is known and takes new sessions.
    fn recent(&mut self) -> Option<Arc<Backend>>;

    /// Notes that a client with a cookie begins a session on `backend`.
    fn returns_to(&mut self, backend: &Backend);
}

/// Decides where a request of `pool` goes. The data path and `explain` both call this function.
pub(crate) fn decide(
    facts: RequestFacts<'_>,
    pool: &PoolSnapshot,
    lookup: &mut impl SessionLookup,
) -> Destination {
    let sid = facts.engine.and_then(|engine| engine.sid.as_deref());
    let hints = AffinityHints {
        sid: sid.filter(|_| pool.config().sticky.engine_io),
        cookie: facts.affinity,
    };
    let begins = begins_session(facts.engine, facts.method, facts.upgrade);
    let choice = match lookup.session(hints) {
        Choice::Free if begins => lookup.recent().map_or(Choice::Free, Choice::Memory),
        Choice::Cookie(backend) if begins => {
            lookup.returns_to(&backend);
            Choice::Cookie(backend)
        }
        choice => choice,
    };
    destination(choice, facts.method, pool.config().sticky.owner_search)
}

/// Destination of a request within its pool.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The backend that owns the session, and how long the session lives without a request.
    Session(Arc<Backend>, Duration),
    /// None: the session ended with its backend, or it was evicted.
    Gone {
        /// Whether a drain or an operator ended the session while its backend lives.
        evicted: bool,
    },
    /// The backend that turns out to own the session; this backend is asked first, and after those of the pool those of the
    /// other pools of the split.
    Search(Option<Arc<Backend>>, Option<Arc<SplitTarget>>),
    /// This backend, or another one if it is unreachable.
    Preferred(Arc<Backend>, ChosenBy),
    /// The backend that the balance policy chooses.
    Balanced,
}

/// Returns the destination of a request with this method, in a pool that asks up to `owner_search`
/// backends for an unknown session.
fn destination(choice: Choice, method: &Method, owner_search: usize) -> Destination {
    // A preflight does not touch the session, and browsers accept only a 2xx response.
    let preflight = method == Method::OPTIONS;
    match choice {
        Choice::Session(backend, _) if preflight && !backend.keeps_sessions() => {
            Destination::Balanced
        }
        Choice::Session(backend, lifetime) => Destination::Session(backend, lifetime),
        Choice::Gone | Choice::Evicted | Choice::Search(_) if preflight => Destination::Balanced,
        Choice::Gone => Destination::Gone { evicted: false },
        Choice::Evicted => Destination::Gone { evicted: true },
        Choice::Search(first) if owner_search > 0 => Destination::Search(first, None),
        Choice::Search(Some(backend)) | Choice::Cookie(backend) => {
            Destination::Preferred(backend, ChosenBy::Cookie)
        }
        Choice::Memory(backend) => Destination::Preferred(backend, ChosenBy::Memory),
        Choice::Search(None) | Choice::Free => Destination::Balanced,
    }
}

/// Whether a request begins a session: a handshake, or an upgrade without polling.
pub(crate) fn begins_session(
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
pub(crate) fn client_key(
    memory: &RecentSessions,
    pool: &PoolSnapshot,
    client: IpAddr,
    (engine, method, upgrade): (Option<&EngineRequest>, &Method, bool),
    head: &Head,
) -> Option<ClientKey> {
    let is_session = upgrade || engine.is_some_and(|engine| engine.polling);
    // Browsers send preflights without the headers that distinguish clients.
    if !is_session || method == Method::OPTIONS || pool.config().sticky.memory.is_zero() {
        return None;
    }
    let agent = head.get(FieldId::UserAgent).unwrap_or_default();
    Some(memory.key(pool.upstream.name(), client, agent))
}

/// What the recent sessions say about a new session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Remembered<'p> {
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
pub(crate) fn recall<'p>(
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

/// Returns the backends to ask for an unknown sid: the cookie's first, then the others from a start
/// that depends on the sid. All proxies thus ask in the same order, and the load is spread.
pub(crate) fn candidates(
    pool: &PoolSnapshot,
    first: Option<&Arc<Backend>>,
    sid: &str,
) -> Vec<Arc<Backend>> {
    let others = pool.holders(xxh3_64(sid.as_bytes()) as usize);
    let others = others.filter(|b| first.is_none_or(|first| !Arc::ptr_eq(first, b)));
    let mut candidates: Vec<Arc<Backend>> = Vec::new();
    for backend in first.into_iter().chain(others).filter(|b| b.keeps_sessions()) {
        if candidates.len() >= pool.config().sticky.owner_search {
            break;
        }
        // A renamed backend is listed twice and must be asked once.
        if !candidates.iter().any(|known| known.address() == backend.address()) {
            candidates.push(Arc::clone(backend));
        }
    }
    candidates
}

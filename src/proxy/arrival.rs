//! A request before the first wait: validated, routed, with a destination, and with its fields edited for the backend.
//!
//! Nothing here does I/O. A request that is refused here has not touched a backend. A filter that needs I/O pauses the
//! request ([`PausedArrival`]).

use std::{net::SocketAddr, sync::Arc};

use http::Method;
use moorline_http::{FieldId, HttpVersion, RequestHead};

use super::{
    affinity::{self, Destination, RequestFacts},
    client::{ClientSide, HalfClose},
    connection::{self, Answered, ConnectionInfo},
    cookie::AffinityCookie,
    engine_request::{EngineRequest, engine_request},
    forwarding::{self, ForwardedClaims, ForwardingContext},
    handle::Handling,
    local_reply::DeferredReply,
    long_poll,
    lookup::CountedLookup,
    opened_request::{ArrivalFacts, OpenedRequest, RequestHost, RequestSender},
    outgoing::Outgoing,
    reply::{OwnReply, ReplyContext},
    waiting::{FilteredArrival, PausedArrival},
};
use crate::{
    auth::OidcLogin,
    config::Timeouts,
    error::{FailureKind, Phase, ProxyError, Side},
    gateway::{FilteredRequest, ResponseFilters},
    net::proxy_protocol::ConnectionOrigin,
    shared::SharedState,
    snapshot::{PoolShare, PoolSnapshot, RouteAction, RouteTarget},
    sticky::{
        Opener,
        engine_io::CloseScan,
        recent_sessions::{ClientKey, PendingReturn},
    },
    stream_log::StreamScope,
};

/// A request in progress.
#[derive(Debug)]
pub(super) struct RequestState<'a> {
    pub(super) proxy: &'a SharedState,
    pub(super) info: &'a ConnectionInfo,
    pub(super) pool: Arc<PoolSnapshot>,
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    pub(super) address: SocketAddr,
    pub(super) method: Method,
    pub(super) engine: Option<EngineRequest>,
    pub(super) upgrade: bool,
    pub(super) affinity: AffinityCookie,
    /// Key of the client among the recent sessions, if it is needed.
    pub(super) client_key: Option<ClientKey>,
    /// Long poll: the backend may hold the request without a deadline.
    pub(super) long_poll: bool,
    /// The ended session that the client returns from.
    pub(super) returning: Option<Box<PendingReturn>>,
    pub(super) reply_context: ReplyContext,
    /// What the filters of the route do with the response.
    pub(super) response: Option<Box<ResponseFilters>>,
    pub(super) scope: StreamScope,
    /// Whether the client wants to keep the connection.
    pub(super) keeps: bool,
}

/// A request that goes to a backend.
pub(super) struct Arrival<'a> {
    pub(super) state: RequestState<'a>,
    pub(super) outgoing: Outgoing,
    pub(super) destination: Destination,
    /// Client address that is announced to the backend, if the pool sends PROXY headers.
    pub(super) from: ConnectionOrigin,
    /// The `Sec-WebSocket-Accept` that must answer a handshake.
    pub(super) accept: Option<Box<str>>,
}

/// Why a request does not go to a backend.
pub(super) enum Stopped<'a> {
    /// It gets a reply without one.
    Refused(Refused),
    /// A filter waits.
    Paused(Box<PausedArrival<'a>>),
}

/// A reply before a backend was chosen.
pub(super) struct Refused {
    pub(super) reply: RefusedReply,
    /// The request has a body that was not read.
    pub(super) unread: bool,
}

/// The reply to a request that needs no backend.
pub(super) enum RefusedReply {
    /// It is known.
    Own(OwnReply),
    /// It is still to be made.
    Deferred(Box<DeferredReply>),
}

impl<'a> Stopped<'a> {
    pub(super) fn refused(reply: RefusedReply, unread: bool) -> Box<Self> {
        Box::new(Self::Refused(Refused { reply, unread }))
    }
}

impl Refused {
    /// Answers the request.
    pub(super) fn answer(
        self,
        client: &mut ClientSide,
        (is_head, keeps): (bool, bool),
    ) -> Handling<'_> {
        let answered = Answered { is_head, keeps, unread: self.unread };
        match self.reply {
            RefusedReply::Own(reply) => Box::pin(connection::answer(client, reply, answered)),
            RefusedReply::Deferred(reply) => Box::pin(reply.answer(client, answered)),
        }
    }
}

/// What the request says about itself, read once.
pub(super) struct RequestTraits {
    pub(super) engine: Option<EngineRequest>,
    /// An event stream, or a long poll of a known protocol other than Engine.IO.
    pub(super) long_poll: bool,
    /// Whether the connection may be kept. Not behind the body of a GET or HEAD request: implementations that read the
    /// next request there would disagree.
    pub(super) keeps: bool,
}

impl RequestTraits {
    pub(super) fn of(request: &RequestHead) -> Self {
        let engine = engine_request(request.query());
        let bodiless = matches!(request.method, Method::GET | Method::HEAD);
        Self {
            long_poll: engine.is_none() && long_poll::is_recognized(request),
            engine,
            keeps: request.keeps_alive() && !(bodiless && request.has_body()),
        }
    }

    /// Whether the client may close its sending side and still get its response. Not for polls of Engine.IO sessions,
    /// other long polls and event streams: their clients close it only when they leave. A POST of a session is
    /// delivered even if its client leaves at once: it may be the packet that closes the session.
    pub(super) fn half_close(&self, request: &RequestHead) -> HalfClose {
        let is_polling = self.engine.as_ref().is_some_and(|engine| engine.polling);
        // HTTP/1.0 has no interim responses.
        match is_polling && request.method != Method::POST || self.long_poll {
            true => HalfClose::HasLeft,
            false => HalfClose::MayWait { probed: request.version == HttpVersion::Http11 },
        }
    }
}

/// Does everything before the first wait: validates the request, and finds its pool and destination.
pub(super) fn arrive<'a>(
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    mut request: RequestHead,
    traits: RequestTraits,
) -> Result<Arrival<'a>, Box<Stopped<'a>>> {
    let snapshot = proxy.snapshot.load();
    let sender = RequestSender::of(info, &request, &snapshot);
    let mut opened = OpenedRequest::new(proxy, info, (&request, &traits), &sender, &snapshot);
    let Some(hops) = forwarding::hops(&request.head) else {
        let error = ProxyError::new(Side::Proxy, Phase::Request, FailureKind::Loop);
        return Err(opened.refuse(&request, &error));
    };
    #[cfg(debug_assertions)]
    fail_on_request(&request);
    let (checked, rule) = opened.find_route(&snapshot, &request, &sender)?;
    // A copy, because the fields are edited while the host is needed.
    let host = RequestHost::from(checked.host).unwrap_or_default();
    let upgrade = checked.upgrade;
    let forwarded_always = snapshot.forwarded_always;
    if snapshot.logins && !rule.filters.as_ref().is_some_and(|filters| filters.reads_logins()) {
        // A copy of the cookie is enough to use the login: backends and servers that decide must not get it.
        OidcLogin::strip(&mut request.head);
    }
    if let RouteTarget { action: RouteAction::Pool(pool), filters: None, .. } = rule {
        let passed = FilteredRequest::unchanged(request);
        let (target, more) = ((pool, rule), (hops, forwarded_always));
        return Ok(opened.arrive(passed, traits, &sender, (&host, upgrade), target, more));
    }
    let facts = ArrivalFacts::of(proxy, &request, &traits, rule, (host, upgrade));
    opened.use_route(rule);
    let passed = opened.filter(request, (&traits, &sender), &facts, rule);
    FilteredArrival { opened, traits, sender, facts, hops, forwarded_always }.conclude(passed, rule)
}

/// Lets tests observe a panic or a stuck worker. Not in release builds.
#[cfg(debug_assertions)]
fn fail_on_request(request: &RequestHead) {
    let asks = |path, name| request.path() == path && std::env::var_os(name).is_some();
    if asks("/__panic", "MOORLINE_TEST_PANIC") {
        panic!("requested by a test");
    }
    if asks("/__stall", "MOORLINE_TEST_STALL") {
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
}

impl RequestState<'_> {
    /// The time limits of the request.
    pub(super) fn timeouts(&self) -> &Timeouts {
        let own = self.response.as_ref().and_then(|response| response.timeouts.as_deref());
        own.unwrap_or(&self.pool.config().timeouts)
    }

    /// Uses the time limits of a route.
    pub(super) fn limit_to(&mut self, timeouts: &Arc<Timeouts>) {
        self.response.get_or_insert_default().timeouts = Some(Arc::clone(timeouts));
    }

    /// Continues in another pool of the split.
    pub(super) fn use_share(&mut self, share: &PoolShare) {
        self.pool = Arc::clone(&share.pool);
        if let Some(timeouts) = &share.timeouts {
            self.limit_to(timeouts);
        }
        self.scope.record().route_label = Some(Arc::clone(&share.route_label));
    }

    /// The client, as the opener of a session.
    pub(super) fn opener(&self) -> Opener {
        Opener { key: self.client_key, address: Some(self.address.ip()) }
    }

    /// Decides where the request goes.
    pub(super) fn decide(&mut self) -> Destination {
        let facts = RequestFacts {
            engine: self.engine.as_ref(),
            method: &self.method,
            upgrade: self.upgrade,
            affinity: self.affinity.target(),
        };
        let (client_key, returning) = (&mut self.client_key, &mut self.returning);
        let (proxy, pool) = (self.proxy, &*self.pool);
        affinity::decide(facts, pool, &mut CountedLookup { proxy, pool, client_key, returning })
    }

    /// Edits the fields of the request for the backend.
    pub(super) fn prepare(&self, request: &mut RequestHead, origin: &ForwardingContext<'_>) {
        self.affinity.strip(&self.pool, &mut request.head);
        forwarding::strip(request);
        let notices = &self.info.listener.notices;
        if let Some(name) = forwarding::add_forwarding(&mut request.head, origin) {
            notices.dropped(&name, origin.peer.ip());
        }
        if let Some(fault) = origin.claims.and_then(ForwardedClaims::fault) {
            notices.forwarding_fault(fault, origin.peer.ip());
        }
        if self.is_polling_handshake() {
            // The proxy reads the reply, which therefore must not be compressed.
            request.head.remove(FieldId::AcceptEncoding);
        }
        if request.head.only(FieldId::Host) != Some(origin.host.as_bytes()) {
            request.head.set(FieldId::Host, origin.host);
        }
    }

    /// Client address to announce to the pool's backends in a PROXY header, or `Local` for shared
    /// connections.
    pub(super) fn connection_origin(&self, id: &str) -> ConnectionOrigin {
        self.origin_for(&self.pool, id)
    }

    /// Client address to announce to the backends of a pool.
    pub(super) fn origin_for(&self, pool: &PoolSnapshot, id: &str) -> ConnectionOrigin {
        if pool.connector().is_shared() {
            return ConnectionOrigin::Local;
        }
        let info = self.info;
        // The destination is unknown on connections accepted before the first pool sent PROXY headers.
        ConnectionOrigin::of(self.address, info.destination, info.tls_info.clone(), id)
    }

    /// Whether this is a handshake whose reply contains the sid.
    pub(super) fn is_polling_handshake(&self) -> bool {
        let opens = self.engine.as_ref().is_some_and(|e| e.polling && e.sid.is_none());
        opens && self.method == Method::GET && !self.upgrade
    }

    /// Returns the scan for a request body that may close a polling session.
    pub(super) fn close_scan(&self) -> Option<CloseScan> {
        let engine =
            self.engine.as_ref().filter(|engine| engine.polling && engine.sid.is_some())?;
        (self.method == Method::POST).then(|| engine.framing.request())
    }
}

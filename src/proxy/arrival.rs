//! A request before the first wait: validated, routed, with a destination, and with its fields edited for the backend.
//!
//! Nothing here does I/O. A request that is refused here has not touched a backend.

use std::{net::SocketAddr, sync::Arc};

use arrayvec::ArrayString;
use http::Method;
use moorline_http::{FieldId, HttpVersion, RequestHead};

use super::{
    affinity::{self, ArrivalContext, Destination, RequestFacts, Routed},
    class,
    client::HalfClose,
    connection::ConnectionInfo,
    cookie::AffinityCookie,
    engine_request::{EngineRequest, engine_request},
    forwarding::{self, ForwardedClaims, ForwardingContext, RequestId},
    local_reply::{DeferredReply, ReplySource},
    long_poll,
    lookup::CountedLookup,
    outgoing::Outgoing,
    reply::{self, OwnReply, ReplyContext},
    split::{self, OpenShares},
    validate::{self, ValidatedRequest},
    websocket,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    gateway::{
        self, FilterFacts, FilteredRequest, Interception, LocalOutcome, LocalReply, ResponseFilters,
    },
    net::proxy_protocol::ConnectionOrigin,
    observe::{StreamRecord, StreamStart},
    shared::SharedState,
    snapshot::{PoolShare, PoolSnapshot, RouteAction, RouteTarget, Snapshot},
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

/// What the request says about itself, read once.
pub(super) struct RequestTraits {
    engine: Option<EngineRequest>,
    /// An event stream, or a long poll of a known protocol other than Engine.IO.
    long_poll: bool,
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
    request: RequestHead,
    traits: RequestTraits,
) -> Result<Arrival<'a>, Box<Refused>> {
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
    // The longest valid host fits. A copy, because the fields are edited while the host is needed.
    let host = ArrayString::<{ validate::MAX_HOST }>::from(checked.host).unwrap_or_default();
    let upgrade = checked.upgrade;
    let (passed, pool) = match rule {
        RouteTarget { action: RouteAction::Pool(pool), filters: None, .. } => {
            (FilteredRequest::unchanged(request), pool)
        }
        _ => opened.filter(request, (&traits, &sender), (&host, upgrade), rule)?,
    };
    let FilteredRequest { mut request, response, host: other_host, max_body } = passed;
    let target = (pool, rule);
    let mut state = opened.into_state((&request, traits), &sender, (&host, upgrade), target);
    state.response = response;
    let mut destination = state.decide();
    if let (RouteAction::Split(split), Destination::Search(_, others)) =
        (&rule.action, &mut destination)
    {
        *others = Some(Arc::clone(split));
    }
    let accept = state.upgrade.then(|| websocket::expected(&request.head));
    let origin = ForwardingContext {
        peer: info.peer,
        trusted: sender.trusted,
        claims: sender.claims.as_deref(),
        hops,
        client: sender.address.ip(),
        forwarded_always: snapshot.forwarded_always,
        tls: info.tls_info.is_some(),
        certificate: info.tls_info.as_ref().and_then(|tls| tls.client.as_ref()),
        host: &host,
        id: sender.id.as_str(),
    };
    state.prepare(&mut request, &origin);
    if let Some(host) = other_host {
        request.head.set(FieldId::Host, host.as_bytes());
    }
    let from = state.connection_origin(sender.id.as_str());
    state.pool.upstream.note_request();
    let scan = state.close_scan();
    let outgoing = Outgoing::new(request, state.upgrade, scan).limited_to(max_body);
    Ok(Arrival { state, outgoing, destination, from, accept })
}

/// The client that sent a request, as the peer of the connection and the forwarding fields of trusted peers describe it.
struct RequestSender {
    /// Whether the peer is a trusted proxy.
    trusted: bool,
    /// Forwarding fields of the peer, if it is trusted.
    claims: Option<Box<ForwardedClaims>>,
    address: SocketAddr,
    /// Whether the client uses TLS. Behind a proxy that terminates TLS, the browser's connection counts.
    secure: bool,
    /// Id of the request.
    id: RequestId,
}

impl RequestSender {
    fn of(info: &ConnectionInfo, request: &RequestHead, snapshot: &Snapshot) -> Self {
        let trusted = snapshot.trusts(info.peer.ip());
        let claims = trusted.then(|| ForwardedClaims::read(&request.head)).flatten();
        let client =
            claims.as_ref().map(|claims| claims.client(info.peer, |ip| snapshot.trusts(ip)));
        Self {
            trusted,
            address: client.as_ref().map_or(info.peer, |client| client.address),
            secure: info.tls_info.is_some() || client.is_some_and(|client| client.tls),
            id: RequestId::of(&request.head, trusted),
            claims,
        }
    }
}

/// A request that is in the access log, and has no pool yet.
struct OpenedRequest<'a> {
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    scope: StreamScope,
    reply_context: ReplyContext,
}

impl<'a> OpenedRequest<'a> {
    fn new(
        proxy: &'a SharedState,
        info: &'a ConnectionInfo,
        (request, traits): (&RequestHead, &RequestTraits),
        sender: &RequestSender,
        snapshot: &Snapshot,
    ) -> Self {
        let host = request.authority().or_else(|| request.head.text(FieldId::Host));
        let record = StreamRecord::new(StreamStart {
            id: sender.id.as_str(),
            client: sender.address,
            listener: &info.listener.name,
            tls_info: info.tls_info.as_ref(),
            host: host.unwrap_or_default(),
            method: request.method.as_str(),
            target: request.path_and_query(),
            redaction: Some(&snapshot.redaction),
        });
        let scope = StreamScope::open(record, Arc::clone(&info.sinks));
        let is_engine = traits.engine.is_some();
        let reply_context = ReplyContext::of(request, is_engine, snapshot.error_pages.as_ref());
        Self { proxy, info, scope, reply_context }
    }

    /// Validates the request and finds its route. Any other request gets its reply here.
    fn find_route<'s, 'r>(
        &mut self,
        snapshot: &'s Snapshot,
        request: &'r RequestHead,
        sender: &RequestSender,
    ) -> Result<(ValidatedRequest<'r>, &'s RouteTarget), Box<Refused>> {
        let context = ArrivalContext {
            listener: Some(&self.info.listener),
            tls_info: self.info.tls_info.as_deref(),
            client: sender.address.ip(),
            secure: sender.secure,
            trace: None,
        };
        let reply = match affinity::route(context, &self.proxy.challenges, snapshot, request) {
            Ok(Routed::Route(checked, rule)) => return Ok((checked, rule)),
            Ok(Routed::Challenge(answer)) => reply::challenge(answer),
            Ok(Routed::Redirect(to, host)) => {
                reply::redirect(to, validate::without_port(host), request.path_and_query())
            }
            Err(error) => return Err(self.refuse(request, &error)),
        };
        let reply = RefusedReply::Own(answered(self.scope.take(), reply));
        Err(Box::new(Refused { reply, unread: request.has_body() }))
    }

    /// Ends the request with an error reply.
    fn refuse(&mut self, request: &RequestHead, error: &ProxyError) -> Box<Refused> {
        self.refused(error, request.has_body())
    }

    /// Runs the filters of the route. Any request that no pool answers gets its reply here.
    fn filter<'s>(
        &mut self,
        request: RequestHead,
        (traits, sender): (&RequestTraits, &RequestSender),
        (host, upgrade): (&str, bool),
        rule: &'s RouteTarget,
    ) -> Result<(FilteredRequest, &'s Arc<PoolSnapshot>), Box<Refused>> {
        self.use_route(rule);
        let unread = request.has_body();
        // Copies, because the filters change the request.
        let chosen = match &rule.action {
            RouteAction::Split(split) => {
                let (sids, engine) = (&self.proxy.sids, traits.engine.as_ref());
                Some(&split::choose(split, sids, &request, engine, OpenShares::draw).0.pool)
            }
            RouteAction::Pool(pool) => Some(pool),
            RouteAction::Answer(_) => None,
        };
        let (method, target) = (request.method.clone(), request.path_and_query().to_owned());
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*target, None),
        };
        let facts = FilterFacts {
            client: sender.address.ip(),
            secure: sender.secure,
            tls_info: self.info.tls_info.as_deref(),
            host,
            id: sender.id.as_str(),
            method: method.as_str(),
            path,
            query,
            sid: traits.engine.as_ref().and_then(|engine| engine.sid.as_deref()),
            is_engine: traits.engine.is_some(),
            upgrade,
            class: class::of(self.proxy, (rule, chosen), &request, traits.engine.as_ref(), upgrade),
            preview: false,
        };
        let passed = match &rule.filters {
            Some(filters) => {
                if filters.denies_origin(&request) {
                    self.reply_context.deny_origin();
                }
                filters.request(request, &facts)
            }
            None => Ok(FilteredRequest::unchanged(request)),
        };
        let passed = passed.map_err(|interception| match *interception {
            Interception::Answered(answer) => self.answered(answer, unread),
            Interception::Stored(reply, filters) => self.stored(reply, filters, unread),
            Interception::Refused(error) => self.refused(&error, unread),
            Interception::Limited(error, report) => {
                let mut refused = self.refused(&error, unread);
                if let RefusedReply::Own(reply) = &mut refused.reply {
                    gateway::describe_limit(report, &mut reply.head.head);
                }
                refused
            }
        })?;
        let answer = match &rule.action {
            RouteAction::Answer(answer) => answer.reply(&passed.request, &facts),
            RouteAction::Pool(pool) => return Ok((passed, chosen.unwrap_or(pool))),
            RouteAction::Split(split) => {
                return Ok((passed, chosen.unwrap_or(&split.shares[0].pool)));
            }
        };
        Err(match answer {
            Ok(LocalOutcome::File(file)) => {
                self.deferred(ReplySource::File(file), passed.response, unread)
            }
            Ok(LocalOutcome::Reply(mut answer)) => {
                if let Some(filters) = &passed.response {
                    filters.apply_local(&mut answer);
                }
                self.answered(answer, unread)
            }
            Err(error) => self.refused(&error, unread),
        })
    }

    /// Ends the request with a reply that is made without a backend.
    fn answered(&mut self, answer: LocalReply, unread: bool) -> Box<Refused> {
        let id = self.scope.record().id().to_owned();
        let reply = RefusedReply::Own(answered(self.scope.take(), reply::local(answer, &id)));
        Box::new(Refused { reply, unread })
    }

    /// Ends the request with a stored response.
    fn stored(
        &mut self,
        mut reply: LocalReply,
        filters: Box<ResponseFilters>,
        unread: bool,
    ) -> Box<Refused> {
        if reply.is_large() {
            return self.deferred(ReplySource::Ready(Box::new(reply)), Some(filters), unread);
        }
        filters.apply_local(&mut reply);
        self.answered(reply, unread)
    }

    /// Leaves the request to a reply that is made or delivered piece by piece.
    fn deferred(
        &mut self,
        source: ReplySource,
        filters: Option<Box<ResponseFilters>>,
        unread: bool,
    ) -> Box<Refused> {
        let (scope, context) = (self.scope.take(), self.reply_context.take());
        let reply = Box::new(DeferredReply { scope, context, filters, source });
        Box::new(Refused { reply: RefusedReply::Deferred(reply), unread })
    }

    /// Ends the request with an error reply.
    fn refused(&mut self, error: &ProxyError, unread: bool) -> Box<Refused> {
        let reply = reply::refuse(self.scope.take(), error, &self.reply_context);
        let reply = RefusedReply::Own(reply);
        Box::new(Refused { reply, unread })
    }

    /// Uses the label and the error pages of a route.
    fn use_route(&mut self, rule: &RouteTarget) {
        self.reply_context.use_pages(rule.error_pages.as_ref());
        self.scope.record().route_label = Some(Arc::clone(&rule.route_label));
    }

    /// Turns the request into one for this pool of a route.
    fn into_state(
        mut self,
        (request, traits): (&RequestHead, RequestTraits),
        sender: &RequestSender,
        (host, upgrade): (&str, bool),
        (pool, rule): (&Arc<PoolSnapshot>, &RouteTarget),
    ) -> RequestState<'a> {
        self.use_route(rule);
        if let RouteAction::Split(_) = rule.action {
            self.scope.record().route_label = Some(Arc::clone(rule.label_for(pool)));
        }
        let client_key = affinity::client_key(
            &self.proxy.memory,
            pool,
            sender.address.ip(),
            (traits.engine.as_ref(), &request.method, upgrade),
            &request.head,
        );
        RequestState {
            proxy: self.proxy,
            info: self.info,
            pool: Arc::clone(pool),
            address: sender.address,
            method: request.method.clone(),
            engine: traits.engine,
            upgrade,
            affinity: AffinityCookie::of(&request.head, pool, sender.secure, host),
            client_key,
            long_poll: traits.long_poll
                || long_poll::is_named(request.path(), &pool.config().long_polls),
            returning: None,
            reply_context: self.reply_context,
            response: None,
            scope: self.scope,
            keeps: traits.keeps,
        }
    }
}

/// Ends a request with a reply of the proxy that is not an error.
pub(super) fn answered(mut scope: StreamScope, reply: OwnReply) -> OwnReply {
    scope.record().status = reply.head.status.as_u16();
    scope.end(Termination::Answered);
    reply
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
    /// Continues in another pool of the split.
    pub(super) fn use_share(&mut self, share: &PoolShare) {
        self.pool = Arc::clone(&share.pool);
        self.scope.record().route_label = Some(Arc::clone(&share.route_label));
    }

    /// The client, as the opener of a session.
    pub(super) fn opener(&self) -> Opener {
        Opener { key: self.client_key, address: Some(self.address.ip()) }
    }

    /// Decides where the request goes.
    fn decide(&mut self) -> Destination {
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
    fn prepare(&self, request: &mut RequestHead, origin: &ForwardingContext<'_>) {
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
        if self.pool.connector().is_shared() {
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
    fn close_scan(&self) -> Option<CloseScan> {
        let engine =
            self.engine.as_ref().filter(|engine| engine.polling && engine.sid.is_some())?;
        (self.method == Method::POST).then(|| engine.framing.request())
    }
}

//! One request, from its head to its reply: validate, route, choose a backend, send, answer.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{Method, StatusCode};
use moorline_http::{FieldId, HttpVersion, RequestHead};

use super::{
    affinity::{self, ArrivalContext, Destination, RequestFacts, Routed},
    attempt::{AttemptOutcome, RequestAttempt},
    client::{ClientSide, Departure},
    connection::{self, Answered, ConnectionInfo, Flow},
    cookie::{self, AffinityCookie},
    deliver::Delivery,
    engine_request::{EngineRequest, engine_request},
    forwarding::{self, ForwardedClaims, ForwardingContext, RequestId},
    inspect::inspect,
    long_poll,
    lookup::CountedLookup,
    outgoing::Outgoing,
    reply::{self, OwnReply, ReplyContext},
    session_detect::{self, OpenDetection},
    validate,
    websocket::{self, ReadyTunnel},
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    net::proxy_protocol::ConnectionOrigin,
    observe::{StreamKind, StreamRecord, StreamStart, metrics::GaugeGuard},
    shared::SharedState,
    snapshot::{PoolSnapshot, RouteTarget, Snapshot},
    sticky::{
        Opener, SessionHold,
        engine_io::CloseScan,
        recent_sessions::{ClientKey, PendingReturn},
    },
    stream_log::{SessionClient, StreamScope, TunnelGuard},
    tunnel::TunnelOptions,
    upstream::{Backend, ConnectionGuard, Lifecycle, SessionGuard},
};

/// A request in progress.
struct RequestState<'a> {
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    pool: Arc<PoolSnapshot>,
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    address: SocketAddr,
    engine: Option<EngineRequest>,
    upgrade: bool,
    affinity: AffinityCookie,
    /// Key of the client among the recent sessions, if it is needed.
    client_key: Option<ClientKey>,
    /// Long poll: the backend may hold the request without a deadline.
    long_poll: bool,
    /// The ended session that the client returns from.
    returning: Option<PendingReturn>,
    reply_context: ReplyContext,
    scope: StreamScope,
    /// Whether the client wants to keep the connection.
    keeps: bool,
}

/// A request that goes to a backend.
struct Arrival<'a> {
    state: RequestState<'a>,
    outgoing: Outgoing,
    destination: Destination,
    /// Client address that is announced to the backend, if the pool sends PROXY headers.
    from: ConnectionOrigin,
    /// The `Sec-WebSocket-Accept` that must answer a handshake.
    accept: Option<String>,
}

/// Keeps a tunnel and its session counted.
#[derive(Debug)]
pub(super) struct TunnelCounts {
    _session: TunnelSession,
    _gauge: GaugeGuard,
    _connection: ConnectionGuard,
}

/// How a tunnel is counted: as the session of its sid, or as a session without sid.
#[derive(Debug)]
enum TunnelSession {
    Sid { _hold: SessionHold },
    Socket { _hold: SessionGuard },
}

/// Serves one request. Turns every failure into a reply.
pub(super) async fn handle(
    proxy: &SharedState,
    info: &ConnectionInfo,
    client: &mut ClientSide,
    request: RequestHead,
) -> Flow {
    let traits = RequestTraits::of(&request);
    client.begin(&request, traits.departure(&request));
    let is_head = request.method == Method::HEAD;
    let keeps = traits.keeps && info.keeps_connections();
    match arrive(proxy, info, request, traits) {
        Ok(mut arrival) => arrival.serve(client, is_head).await,
        // A refused request may have a body.
        Err(refused) => {
            let Refused { reply, unread } = *refused;
            connection::answer(client, reply, Answered { is_head, keeps, unread }).await
        }
    }
}

/// A reply before a backend was chosen.
struct Refused {
    reply: OwnReply,
    /// The request has a body that was not read.
    unread: bool,
}

/// What the request says about itself, read once.
struct RequestTraits {
    engine: Option<EngineRequest>,
    /// An event stream, or a long poll of a known protocol other than Engine.IO.
    long_poll: bool,
    /// Whether the connection may be kept. Not behind the body of a GET or HEAD request: implementations that read the
    /// next request there would disagree.
    keeps: bool,
}

impl RequestTraits {
    fn of(request: &RequestHead) -> Self {
        let bodiless = matches!(request.method, Method::GET | Method::HEAD);
        Self {
            engine: engine_request(request.query()),
            long_poll: long_poll::is_recognized(request),
            keeps: request.keeps_alive() && !(bodiless && request.has_body()),
        }
    }

    /// Whether the client may close its sending side and still get its response. Not for polls of Engine.IO sessions,
    /// other long polls and event streams: their clients close it only when they leave. A POST of a session is
    /// delivered even if its client leaves at once: it may be the packet that closes the session.
    fn departure(&self, request: &RequestHead) -> Departure {
        let is_polling = self.engine.as_ref().is_some_and(|engine| engine.polling);
        // HTTP/1.0 has no interim responses.
        match is_polling && request.method != Method::POST || self.long_poll {
            true => Departure::Seen,
            false => Departure::Held { probed: request.version == HttpVersion::Http11 },
        }
    }
}

/// Does everything before the first wait: validates the request, and finds its pool and destination.
fn arrive<'a>(
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    mut request: RequestHead,
    traits: RequestTraits,
) -> Result<Arrival<'a>, Box<Refused>> {
    let snapshot = proxy.snapshot.load();
    let trusted = snapshot.trusts(info.peer.ip());
    let claims = trusted.then(|| ForwardedClaims::read(&request.head)).flatten();
    let client_is =
        claims.as_ref().map(|claims| claims.client(info.peer, |ip| snapshot.trusts(ip)));
    let address = client_is.as_ref().map_or(info.peer, |client| client.address);
    let id = RequestId::of(&request.head, trusted);
    let scope = open(info, &request, (address, &id), &snapshot);
    let mut reply_context = ReplyContext::of(&request, id, snapshot.error_pages.as_ref());
    let unread = request.has_body();
    let refused = |scope, error: ProxyError, context: &ReplyContext| {
        Box::new(Refused { reply: reply::refuse(scope, &error, context), unread })
    };
    let Some(hops) = forwarding::hops(&request.head) else {
        let error = ProxyError::new(Side::Proxy, Phase::Request, FailureKind::Loop);
        return Err(refused(scope, error, &reply_context));
    };
    #[cfg(debug_assertions)]
    fail_on_request(&request);
    let context =
        ArrivalContext { listener: Some(&info.listener), tls_info: info.tls_info.as_deref() };
    let (checked, rule) = match affinity::route(context, &proxy.challenges, &snapshot, &request) {
        Ok(Routed::Pool(checked, rule)) => (checked, rule),
        Ok(Routed::Challenge(answer)) => {
            let reply = answered(scope, reply::challenge(answer));
            return Err(Box::new(Refused { reply, unread }));
        }
        Ok(Routed::Redirect(to, host)) => {
            let host = validate::without_port(&host);
            let reply = answered(scope, reply::redirect(to, host, request.path_and_query()));
            return Err(Box::new(Refused { reply, unread }));
        }
        Err(error) => return Err(refused(scope, error, &reply_context)),
    };
    let RouteTarget { route_label, pool, error_pages } = rule;
    reply_context.use_pages(error_pages.as_ref());
    // Behind a proxy that terminates TLS, the browser's connection counts.
    let secure = info.tls_info.is_some() || client_is.is_some_and(|client| client.tls);
    let mut state = RequestState {
        proxy,
        info,
        pool: Arc::clone(pool),
        address,
        engine: traits.engine,
        upgrade: checked.upgrade,
        affinity: AffinityCookie::of(&request.head, pool, secure, &checked.host),
        client_key: None,
        long_poll: traits.long_poll
            || long_poll::is_named(request.path(), &pool.config().long_polls),
        returning: None,
        reply_context,
        scope,
        keeps: traits.keeps,
    };
    state.scope.record().route_label = Some(Arc::clone(route_label));
    state.client_key = affinity::client_key(
        &proxy.memory,
        pool,
        address.ip(),
        (state.engine.as_ref(), &request.method, state.upgrade),
        &request.head,
    );
    let destination = state.decide(&request.method);
    let accept = state.upgrade.then(|| websocket::expected(&request.head));
    let origin = ForwardingContext {
        peer: info.peer,
        trusted,
        claims: claims.as_deref(),
        hops,
        client: address.ip(),
        forwarded_always: snapshot.forwarded_always,
        tls: info.tls_info.is_some(),
        certificate: info.tls_info.as_ref().and_then(|tls| tls.client.as_ref()),
        host: &checked.host,
        id: state.reply_context.id().as_str(),
    };
    state.prepare(&mut request, &origin);
    let from = state.connection_origin();
    pool.upstream.note_request();
    let scan = state.close_scan(&request.method);
    let outgoing = Outgoing::new(request, state.upgrade, scan);
    Ok(Arrival { state, outgoing, destination, from, accept })
}

fn open(
    info: &ConnectionInfo,
    request: &RequestHead,
    (client, id): (SocketAddr, &RequestId),
    snapshot: &Snapshot,
) -> StreamScope {
    let host = request.authority().or_else(|| request.head.text(FieldId::Host));
    let record = StreamRecord::new(StreamStart {
        id: id.as_str(),
        client,
        listener: &info.listener.name,
        tls_info: info.tls_info.as_ref(),
        host: host.unwrap_or_default(),
        method: request.method.as_str(),
        target: request.path_and_query(),
        redaction: Some(&snapshot.redaction),
    });
    StreamScope::open(record, Arc::clone(&info.sinks))
}

/// Ends a request with a reply of the proxy that is not an error.
fn answered(mut scope: StreamScope, reply: OwnReply) -> OwnReply {
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

impl Arrival<'_> {
    /// Sends the request to its destination and answers it.
    async fn serve(&mut self, client: &mut ClientSide, is_head: bool) -> Flow {
        let Self { state, outgoing, destination, from, accept } = self;
        let mut attempt = RequestAttempt {
            proxy: state.proxy,
            pool: &state.pool,
            outgoing,
            client,
            scope: &mut state.scope,
            engine: state.engine.as_ref(),
            upgrade: state.upgrade,
            address: state.address.ip(),
            from,
            client_key: state.client_key,
            long_poll: state.long_poll,
            fresh: false,
            bound: false,
        };
        let outcome = attempt.run(std::mem::replace(destination, Destination::Balanced)).await;
        let failed = match outcome {
            Ok(mut reached) => {
                match state.check(client, &outgoing.method, &mut reached, accept.as_deref()).await {
                    Ok(()) => return state.answer(client, outgoing, reached, is_head).await,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        state.fail(client, outgoing, &failed, is_head).await
    }
}

impl RequestState<'_> {
    /// The client, as the opener of a session.
    fn opener(&self) -> Opener {
        Opener { key: self.client_key, address: Some(self.address.ip()) }
    }

    /// Decides where the request goes.
    fn decide(&mut self, method: &Method) -> Destination {
        let facts = RequestFacts {
            engine: self.engine.as_ref(),
            method,
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
        if self.is_polling_handshake(&request.method) {
            // The proxy reads the reply, which therefore must not be compressed.
            request.head.remove(FieldId::AcceptEncoding);
        }
        if request.head.only(FieldId::Host) != Some(origin.host.as_bytes()) {
            request.head.set(FieldId::Host, origin.host);
        }
    }

    /// Client address to announce to the pool's backends in a PROXY header, or `Local` for shared
    /// connections.
    fn connection_origin(&self) -> ConnectionOrigin {
        if self.pool.connector().is_shared() {
            return ConnectionOrigin::Local;
        }
        let (info, id) = (self.info, self.reply_context.id().as_str());
        // The destination is unknown on connections accepted before the first pool sent PROXY headers.
        ConnectionOrigin::of(self.address, info.destination, info.tls_info.clone(), id)
    }

    /// Whether this is a handshake whose reply contains the sid.
    fn is_polling_handshake(&self, method: &Method) -> bool {
        let opens = self.engine.as_ref().is_some_and(|e| e.polling && e.sid.is_none());
        opens && method == Method::GET && !self.upgrade
    }

    /// Returns the scan for a request body that may close a polling session.
    fn close_scan(&self, method: &Method) -> Option<CloseScan> {
        let engine =
            self.engine.as_ref().filter(|engine| engine.polling && engine.sid.is_some())?;
        (method == Method::POST).then(|| engine.framing.request())
    }

    /// Validates a `101`, and stores the backend of a new session before the client sees the reply: the client may
    /// send its next request before the reply is complete.
    async fn check(
        &mut self,
        client: &mut ClientSide,
        method: &Method,
        reached: &mut AttemptOutcome,
        accept: Option<&str>,
    ) -> Result<(), ProxyError> {
        let answer = &mut reached.answer;
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
            return websocket::check(&answer.head.head, accept.unwrap_or_default());
        }
        let handshake = self.is_polling_handshake(method) && self.pool.config().sticky.engine_io;
        let Some(detection) = OpenDetection::of(&answer.head).filter(|_| handshake) else {
            return Ok(());
        };
        let pause = self.pool.config().timeouts.body_idle;
        let inspected =
            inspect(answer, client, pause, |_, body, complete| detection.decide(body, complete));
        let opened = match Box::pin(inspected).await {
            Ok(opened) => opened,
            Err(error) => {
                answer.lease.aborted(&self.proxy.metrics);
                return Err(error);
            }
        };
        if let Some(opened) = opened {
            let (backend, now) = (answer.lease.backend(), Instant::now());
            self.proxy.sids.learn_from(self.opener(), &opened.sid, backend, opened.lifetime, now);
            reached.reserved = None;
        }
        Ok(())
    }

    /// Answers the client with the response of the backend.
    async fn answer(
        &mut self,
        client: &mut ClientSide,
        outgoing: &mut Outgoing,
        mut reached: AttemptOutcome,
        is_head: bool,
    ) -> Flow {
        let status = reached.answer.head.status;
        if matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::OK)
            && let Some(returning) = self.returning.take()
        {
            returning.succeeded();
        }
        let backend = Arc::clone(reached.answer.lease.backend());
        let head = &mut reached.answer.head;
        // Before fields are added: a response must not remove them by naming them in `Connection`.
        head.strip_hop_by_hop();
        let facts = (self.engine.as_ref(), &outgoing.method, self.upgrade);
        if cookie::is_set_by_reply(&self.pool, facts, status) {
            self.affinity.name(&self.pool, &backend, &mut head.head);
        }
        self.scope.record().status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Box::pin(self.tunnel(client, reached)).await;
        }
        if reached.unknown {
            self.reply_context.allow_origin(&mut head.head);
        }
        if head.head.has(FieldId::ContentEncoding) {
            self.scope.disable_close_scan();
        }
        if outgoing.closes_session() && status == StatusCode::OK {
            self.session_closed(&backend);
        }
        self.scope.enter(Phase::ResponseBody);
        let timeouts = &self.pool.config().timeouts;
        let pause = match self.long_poll || session_detect::is_event_stream(head) {
            true => timeouts.stream_idle,
            false => Some(timeouts.body_idle),
        };
        let keeps = self.keeps && self.info.keeps_connections();
        let scope = self.scope.take();
        let begun = Delivery::begin(client, outgoing, scope, reached.answer, (keeps, pause));
        match begun {
            Ok(delivery) => delivery.run().await,
            Err((scope, error)) => {
                let reply = reply::refuse(scope, &error, &self.reply_context);
                let unread = !outgoing.has_read_all();
                connection::answer(client, reply, Answered { is_head, keeps, unread }).await
            }
        }
    }

    /// Answers the client with a failure, unless it has left.
    async fn fail(
        &mut self,
        client: &mut ClientSide,
        outgoing: &Outgoing,
        error: &ProxyError,
        is_head: bool,
    ) -> Flow {
        let mut scope = self.scope.take();
        scope.received(outgoing.bytes());
        if client.has_left {
            scope.client_lost(FailureKind::Incomplete);
            return Flow::Drop;
        }
        let reply = reply::refuse(scope, error, &self.reply_context);
        let keeps = self.keeps && self.info.keeps_connections();
        let unread = !outgoing.has_read_all();
        connection::answer(client, reply, Answered { is_head, keeps, unread }).await
    }

    /// Records that the request's body has closed the polling session.
    fn session_closed(&self, backend: &Backend) {
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        self.proxy.sids.close(self.pool.upstream.name(), sid.unwrap_or_default());
        if let Some(key) = self.client_key {
            self.proxy.memory.record(key, backend.tag(), Instant::now());
        }
    }

    /// Writes the `101`; the connection then becomes a tunnel.
    async fn tunnel(&mut self, client: &mut ClientSide, reached: AttemptOutcome) -> Flow {
        let AttemptOutcome { answer, reserved, .. } = reached;
        let backend = Arc::clone(answer.lease.backend());
        let (proxy, pool) = (self.proxy, &self.pool);
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let known = sid.and_then(|sid| proxy.sids.hold(pool.upstream.name(), sid, Instant::now()));
        let session = match known {
            Some(hold) => TunnelSession::Sid { _hold: hold },
            None => TunnelSession::Socket { _hold: reserved.unwrap_or_else(|| backend.hold()) },
        };
        let gauge = self.info.metrics.tunnel();
        self.scope.keep_counted(self.info.counted.clone());
        self.scope.record().form = StreamKind::Tunnel;
        if let Some(key) = self.client_key {
            let memory = Arc::clone(&proxy.memory);
            let backend = backend.tag();
            self.scope.track_client(SessionClient { memory, key, backend, scan: None });
        }
        self.scope.enter(Phase::Tunnel);
        let ticket = proxy.tunnels.enter(backend.serial(), self.address, true);
        if backend.lifecycle() == Lifecycle::Evicted {
            // The backend was removed while it answered; its tunnels were cut before this one was
            // registered.
            proxy.tunnels.cut(backend.serial());
        }
        let timeouts = &pool.config().timeouts;
        let options = TunnelOptions {
            idle: timeouts.tunnel_idle,
            half_closed: timeouts.half_closed,
            framed: true,
        };
        if websocket::switch(client, answer.head).await.is_err() {
            let lost = FailureKind::Incomplete;
            self.scope.take().end(Termination::Failed(Side::Client, Phase::Tunnel, lost));
            return Flow::Drop;
        }
        let (backend, connection) = answer.lease.into_tunnel();
        let counts = TunnelCounts { _session: session, _gauge: gauge, _connection: connection };
        let guard = TunnelGuard { scope: self.scope.take(), _counts: counts };
        let early = answer.input;
        Flow::Tunnel(Box::new(ReadyTunnel { backend, early, guard, ticket, options }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::stream::{BackendStream, ClientStream},
        tunnel::Tunnel,
    };

    /// Cost of an open tunnel, apart from its sockets and the strings of its scope: the task is this
    /// future.
    #[test]
    fn a_tunnel_is_small() {
        let bytes = size_of::<Tunnel<ClientStream, BackendStream, TunnelGuard<TunnelCounts>>>();
        assert!(bytes <= 320, "{bytes} bytes");
    }
}

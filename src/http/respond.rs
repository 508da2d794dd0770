//! One request, from its header to its reply.

use std::{net::SocketAddr, sync::Arc};

use http::{Request, Response, Version, request::Parts};
use hyper::body::Incoming;

use super::{
    attempt::{EngineRequest, RequestAttempt},
    connection_info::ConnectionInfo,
    cookie::AffinityCookie,
    decision::{self, ArrivalContext, Routed},
    exchange::Exchange,
    headers::{self, ForwardingContext},
    hops::ForwardedClaims,
    long_poll,
    outgoing::{Outgoing, RequestShape},
    relay::ReplyBody,
    reply::{self, ReplyContext},
    validation,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    net::{half_close::EofHold, proxy_protocol::ConnectionOrigin},
    observe::{StreamRecord, StreamStart},
    shared::SharedState,
    snapshot::{self, PoolSnapshot},
    sticky::{
        engine_io,
        engine_io::{Framing, Transport},
    },
    stream_log::{StreamScope, StreamSinks},
};

impl SharedState {
    /// Serves one request. Turns every failure into a reply.
    pub(super) async fn respond(
        &self,
        info: &ConnectionInfo,
        request: Request<Incoming>,
        held: Option<EofHold>,
    ) -> Response<ReplyBody> {
        let (mut parts, body) = request.into_parts();
        // The connection is upgraded without hyper's future.
        parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let snapshot = self.snapshot.load_full();
        let trusted = snapshot.trusts(info.peer.ip());
        let claims = trusted.then(|| ForwardedClaims::read(&parts.headers)).flatten();
        let client_is =
            claims.as_ref().map(|claims| claims.client(info.peer, |ip| snapshot.trusts(ip)));
        let address = client_is.as_ref().map_or(info.peer, |client| client.address);
        let id = headers::request_id(&parts.headers, trusted);
        let mut reply_context = ReplyContext::of(&parts, &id, snapshot.error_pages.as_ref());
        let mut scope = self.open(info, &parts, (address, &id), &snapshot);
        let Some(hops) = headers::hops(&parts.headers) else {
            let error = ProxyError::new(Side::Proxy, Phase::Request, FailureKind::Loop);
            return reply::refuse(scope, &error, &reply_context);
        };
        #[cfg(debug_assertions)]
        fail_on_request(&parts);
        let context =
            ArrivalContext { listener: Some(&info.listener), tls_info: info.tls_info.as_deref() };
        let (checked, rule) = match decision::route(context, &self.challenges, &snapshot, &parts) {
            Ok(Routed::Pool(checked, rule)) => (checked, rule),
            Ok(Routed::Challenge(answer)) => return answered(scope, reply::challenge(answer)),
            Ok(Routed::Redirect(to, host)) => {
                let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
                let host = validation::without_port(&host);
                return answered(scope, reply::redirect(to, host, path));
            }
            Err(error) => return reply::refuse(scope, &error, &reply_context),
        };
        let snapshot::RouteTarget { route_label, pool, error_pages } = rule;
        reply_context.use_pages(error_pages.as_ref());
        scope.record().route_label = Some(Arc::clone(route_label));
        // Behind a proxy that terminates TLS, the browser's connection counts.
        let secure = info.tls_info.is_some() || client_is.is_some_and(|client| client.tls);
        let mut exchange = Exchange {
            info,
            address,
            trusted,
            claims,
            hops,
            forwarded_always: snapshot.forwarded_always,
            method: parts.method.clone(),
            engine: engine(parts.uri.query()),
            upgrade: checked.upgrade,
            affinity: AffinityCookie::of(&parts.headers, pool, secure, &checked.host),
            client_key: None,
            long_poll: long_poll::is_recognized(&parts.method, &parts.uri, &parts.headers)
                || long_poll::is_named(parts.uri.path(), &pool.config().long_polls),
            returning: None,
            reply_context,
            scope,
            held,
        };
        exchange.recognize(self, pool, &parts.headers);
        let pool = Arc::clone(pool);
        self.serve(&pool, exchange, parts, body, (&checked.host, &id)).await
    }

    fn open(
        &self,
        info: &ConnectionInfo,
        parts: &Parts,
        (client, id): (SocketAddr, &str),
        snapshot: &snapshot::Snapshot,
    ) -> StreamScope {
        let host = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => parts.headers.get(http::header::HOST).map_or("", |h| h.to_str().unwrap_or("")),
        };
        let record = StreamRecord::new(StreamStart {
            id,
            client,
            listener: &info.listener.name,
            tls_info: info.tls_info.as_ref(),
            host,
            method: parts.method.as_str(),
            target: parts.uri.path_and_query().map_or("/", |p| p.as_str()),
            redaction: Some(&snapshot.redaction),
        });
        let sinks = StreamSinks {
            log: Arc::clone(&self.log),
            metrics: Arc::clone(&self.metrics),
            listener: Arc::clone(&info.metrics),
            drain: info.drain.clone(),
        };
        StreamScope::open(record, sinks)
    }

    async fn serve(
        &self,
        pool: &PoolSnapshot,
        mut exchange: Exchange<'_>,
        mut parts: Parts,
        body: Incoming,
        (host, id): (&str, &str),
    ) -> Response<ReplyBody> {
        let destination = exchange.decide(self, pool);
        let Some(uri) = validation::origin_form(&parts.uri) else {
            let error = ProxyError::bad_request("The request target is not a path.");
            return reply::refuse(exchange.scope, &error, &exchange.reply_context);
        };
        exchange.affinity.strip(pool, &mut parts.headers);
        let peer = exchange.info.peer;
        let shape = RequestShape {
            origin: ForwardingContext {
                peer,
                trusted: exchange.trusted,
                claims: exchange.claims.as_deref(),
                hops: exchange.hops,
                client: exchange.address.ip(),
                forwarded_always: exchange.forwarded_always,
                tls: exchange.info.tls_info.is_some(),
                certificate: exchange.info.tls_info.as_ref().and_then(|tls| tls.client.as_ref()),
                host,
                id,
            },
            upgrade: exchange.upgrade,
            plain_reply: exchange.is_polling_handshake(),
            pause: pool.config().timeouts.body_idle,
            client_signal: &exchange.info.client_signal,
            notices: &exchange.info.listener.notices,
            scan: exchange.close_scan(),
        };
        parts.uri = uri;
        let mut outgoing = Outgoing::new(parts, body, &shape);
        let accept = exchange.upgrade.then(|| outgoing.expected_accept());
        pool.upstream.note_request();
        let from = connection_origin(pool, &exchange, id);
        let mut attempt = RequestAttempt {
            proxy: self,
            pool,
            outgoing: &mut outgoing,
            scope: &mut exchange.scope,
            method: &exchange.method,
            engine: exchange.engine.as_ref(),
            upgrade: exchange.upgrade,
            client: exchange.address.ip(),
            from,
            client_key: exchange.client_key,
            client_signal: &exchange.info.client_signal,
            long_poll: exchange.long_poll,
            fresh: false,
            bound: false,
        };
        let reached = match attempt.run(destination).await {
            Ok(reached) => reached,
            Err(error) => {
                exchange.scope.received(outgoing.progress().bytes());
                return reply::refuse(exchange.scope, &error, &exchange.reply_context);
            }
        };
        exchange.reply(self, pool, reached, accept.as_deref()).await
    }
}

/// Client address to announce to the pool's backends in a PROXY header, or `Local` for shared
/// connections.
fn connection_origin(pool: &PoolSnapshot, exchange: &Exchange<'_>, id: &str) -> ConnectionOrigin {
    if pool.connector().is_shared() {
        return ConnectionOrigin::Local;
    }
    let info = exchange.info;
    // The destination is unknown on connections accepted before the first pool sent PROXY headers.
    ConnectionOrigin::of(exchange.address, info.destination, info.tls_info.clone(), id)
}

/// Ends a request with a reply of the proxy that is not an error.
fn answered(mut scope: StreamScope, response: Response<ReplyBody>) -> Response<ReplyBody> {
    scope.record().status = response.status().as_u16();
    scope.end(Termination::Answered);
    response
}

/// Lets tests observe a panic or a stuck worker. Not in release builds.
#[cfg(debug_assertions)]
fn fail_on_request(parts: &Parts) {
    let request = |path, name| parts.uri.path() == path && std::env::var_os(name).is_some();
    if request("/__panic", "MOORLINE_TEST_PANIC") {
        panic!("requested by a test");
    }
    if request("/__stall", "MOORLINE_TEST_STALL") {
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
}

/// Allows the client to close its sending side and still get its response. Not for requests of
/// Engine.IO sessions, long polls and event streams: their clients close it only when they leave.
pub(super) fn hold(info: &ConnectionInfo, request: &Request<Incoming>) -> Option<EofHold> {
    let (method, uri) = (request.method(), request.uri());
    let polls = engine(uri.query()).is_some_and(|engine| engine.polling)
        || long_poll::is_recognized(method, uri, request.headers());
    // HTTP/1.0 has no interim responses.
    let probed = request.version() == Version::HTTP_11;
    (!polls).then(|| info.client_signal.hold(probed))
}

pub(crate) fn engine(query: Option<&str>) -> Option<EngineRequest> {
    let query = engine_io::query(query?)?;
    Some(EngineRequest {
        polling: query.transport == Transport::Polling,
        framing: Framing::of(&query),
        sid: query.sid.map(|sid| sid.into()),
    })
}

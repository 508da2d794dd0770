//! One request and its response, after routing.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    attempt::{AttemptOutcome, EngineRequest},
    connection_info::ConnectionInfo,
    cookie::AffinityCookie,
    decision::{self, Destination, Remembered, RequestFacts, SessionLookup},
    headers,
    hops::ForwardedClaims,
    relay::ReplyBody,
    reply::{self, ReplyContext},
    session_detection,
    upgrade::{self, PendingTunnel},
};
use crate::{
    config::SetOn,
    error::{Phase, ProxyError},
    net::half_close::EofHold,
    observe::{StreamKind, metrics::GaugeGuard},
    shared::SharedState,
    snapshot::PoolSnapshot,
    sticky::{
        self, AffinityHints, Choice, Opener, SessionHold,
        engine_io::CloseScan,
        recent_sessions::{ClientKey, PendingReturn},
    },
    stream_log::{SessionClient, StreamScope},
    tunnel::TunnelOptions,
    upstream::{Backend, Lifecycle, SessionGuard},
};

/// A request in progress.
pub(super) struct Exchange<'a> {
    pub(super) info: &'a ConnectionInfo,
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    pub(super) address: SocketAddr,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
    /// Forwarding fields of the peer, if it is trusted.
    pub(super) claims: Option<Box<ForwardedClaims>>,
    /// Number of Moorline processes that the request has already passed.
    pub(super) hops: usize,
    /// Whether the backend gets `Forwarded` even if the request had none.
    pub(super) forwarded_always: bool,
    pub(super) method: Method,
    pub(super) engine: Option<EngineRequest>,
    pub(super) upgrade: bool,
    pub(super) affinity: AffinityCookie,
    /// Key of the client among the recent sessions, if it is needed.
    pub(super) client_key: Option<ClientKey>,
    /// Long poll: the backend may hold the request without a deadline.
    pub(super) long_poll: bool,
    /// The ended session that the client returns from.
    pub(super) returning: Option<PendingReturn>,
    pub(super) reply_context: ReplyContext,
    pub(super) scope: StreamScope,
    /// Allows the client to half-close until the reply is complete.
    pub(super) held: Option<EofHold>,
}

/// Keeps a tunnel and its session counted.
#[derive(Debug)]
struct TunnelCounts {
    _session: TunnelSession,
    _gauge: GaugeGuard,
}

/// How a tunnel is counted: as the session of its sid, or as a session without sid.
#[derive(Debug)]
enum TunnelSession {
    Sid { _hold: SessionHold },
    Socket { _hold: SessionGuard },
}

/// Looks sessions up for the data path: each lookup counts as a use.
struct CountedLookup<'a> {
    proxy: &'a SharedState,
    pool: &'a PoolSnapshot,
    /// As in [`Exchange`].
    client_key: &'a mut Option<ClientKey>,
    /// As in [`Exchange`].
    returning: &'a mut Option<PendingReturn>,
}

impl CountedLookup<'_> {
    /// Consumes an ended session that the client may return from; false if there is none.
    fn consume_return(&mut self, tag: u64) -> bool {
        let window = self.pool.config().sticky.memory;
        let memory = &self.proxy.memory;
        *self.returning =
            self.client_key.and_then(|key| memory.consume(key, tag, window, Instant::now()));
        self.returning.is_some()
    }
}

impl SessionLookup for CountedLookup<'_> {
    fn session(&mut self, hints: AffinityHints<'_>) -> Choice {
        let (sids, pool) = (&self.proxy.sids, self.pool.upstream.name());
        let (choice, client) = sticky::choose_and_recognize(sids, pool, hints, Instant::now());
        // Use the key of the handshake: the default Node.js client sends polls with a user agent and
        // the upgrade without.
        if self.client_key.is_some() {
            *self.client_key = client.or(*self.client_key);
        }
        choice
    }

    fn recent(&mut self) -> Option<Arc<Backend>> {
        let metrics = &self.proxy.metrics;
        match decision::recall(&self.proxy.memory, *self.client_key, self.pool) {
            Remembered::On(backend) => self.consume_return(backend.tag()).then(|| {
                metrics.memory_followed.inc();
                Arc::clone(backend)
            }),
            Remembered::Ambiguous => {
                metrics.memory_ambiguous.inc();
                None
            }
            Remembered::Closed | Remembered::Unknown => None,
        }
    }

    fn returns_to(&mut self, backend: &Backend) {
        self.consume_return(backend.tag());
    }
}

impl Exchange<'_> {
    /// The client, as the opener of a session.
    fn opener(&self) -> Opener {
        Opener { key: self.client_key, address: Some(self.address.ip()) }
    }

    /// Decides where the request goes.
    pub(super) fn decide(&mut self, proxy: &SharedState, pool: &PoolSnapshot) -> Destination {
        let facts = RequestFacts {
            engine: self.engine.as_ref(),
            method: &self.method,
            upgrade: self.upgrade,
            affinity: self.affinity.target(),
        };
        let (client_key, returning) = (&mut self.client_key, &mut self.returning);
        decision::decide(facts, pool, &mut CountedLookup { proxy, pool, client_key, returning })
    }

    /// Computes the client's key if the request belongs to a session or begins one.
    pub(super) fn recognize(
        &mut self,
        proxy: &SharedState,
        pool: &PoolSnapshot,
        headers: &HeaderMap,
    ) {
        let request = (self.engine.as_ref(), &self.method, self.upgrade);
        let client = self.address.ip();
        self.client_key = decision::client_key(&proxy.memory, pool, client, request, headers);
    }

    /// Whether this is a handshake whose reply contains the sid.
    pub(super) fn is_polling_handshake(&self) -> bool {
        let opens = self.engine.as_ref().is_some_and(|e| e.polling && e.sid.is_none());
        opens && self.method == Method::GET && !self.upgrade
    }

    /// Turns the response of a backend into the reply to the client.
    pub(super) async fn reply(
        mut self,
        proxy: &SharedState,
        pool: &PoolSnapshot,
        mut reached: AttemptOutcome,
        accept: Option<&str>,
    ) -> Response<ReplyBody> {
        let status = reached.answer.response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let accept = accept.unwrap_or_default();
            if let Err(error) = upgrade::check(reached.answer.response.headers(), accept) {
                return reply::refuse(self.scope, &error, &self.reply_context);
            }
        }
        if self.is_polling_handshake()
            && status == StatusCode::OK
            && pool.config().sticky.engine_io
            && let Err(error) = learn_session(proxy, pool, self.opener(), &mut reached).await
        {
            return reply::refuse(self.scope, &error, &self.reply_context);
        }
        if matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::OK)
            && let Some(returning) = self.returning.take()
        {
            returning.succeeded();
        }
        let backend = Arc::clone(reached.answer.lease.backend());
        if self.sets_cookie(pool, status) {
            self.affinity.name(pool, &backend, reached.answer.response.headers_mut());
        }
        self.scope.record().status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.tunnel(proxy, pool, reached);
        }
        let AttemptOutcome { answer, head, unknown, .. } = reached;
        let (mut parts, incoming) = answer.response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        // The version applies to the backend's hop only; hyper chooses the client's.
        parts.version = Version::HTTP_11;
        if !answer.lease.has_whole_request() {
            // Early response: the rest of the body must not be read as the next request.
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if unknown {
            self.reply_context.allow_origin(&mut parts.headers);
        }
        if parts.headers.contains_key(CONTENT_ENCODING) {
            self.scope.disable_close_scan();
        }
        if answer.lease.closes_session() && parts.status == StatusCode::OK {
            self.session_closed(proxy, pool, &backend);
        }
        self.scope.enter(Phase::ResponseBody);
        let timeouts = &pool.config().timeouts;
        let pause = match self.long_poll || is_event_stream(&parts.headers) {
            true => timeouts.stream_idle,
            false => Some(timeouts.body_idle),
        };
        let held = (self.held, Arc::clone(&self.info.client_signal));
        let body = ReplyBody::relayed(head, incoming, pause, answer.lease, (self.scope, held));
        Response::from_parts(parts, body)
    }

    /// Records that the request's body has closed the polling session.
    fn session_closed(&self, proxy: &SharedState, pool: &PoolSnapshot, backend: &Backend) {
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        proxy.sids.close(pool.upstream.name(), sid.unwrap_or_default());
        if let Some(key) = self.client_key {
            proxy.memory.record(key, backend.tag(), Instant::now());
        }
    }

    /// Returns the scan for a request body that may close a polling session.
    pub(super) fn close_scan(&self) -> Option<CloseScan> {
        let engine =
            self.engine.as_ref().filter(|engine| engine.polling && engine.sid.is_some())?;
        (self.method == Method::POST).then(|| engine.framing.request())
    }

    /// Whether the reply sets the affinity cookie.
    fn sets_cookie(&self, pool: &PoolSnapshot, status: StatusCode) -> bool {
        let Some(cookie) = &pool.config().sticky.cookie else { return false };
        let opens = match &self.engine {
            Some(engine) => engine.sid.is_none(),
            None => self.upgrade,
        };
        (opens || cookie.set_on == SetOn::Always)
            && self.method != Method::OPTIONS
            && (status.is_success()
                || status.is_redirection()
                || status == StatusCode::SWITCHING_PROTOCOLS)
    }

    fn tunnel(
        mut self,
        proxy: &SharedState,
        pool: &PoolSnapshot,
        reached: AttemptOutcome,
    ) -> Response<ReplyBody> {
        let backend = Arc::clone(reached.answer.lease.backend());
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let known = sid.and_then(|sid| proxy.sids.hold(pool.upstream.name(), sid, Instant::now()));
        let session = match known {
            Some(hold) => TunnelSession::Sid { _hold: hold },
            None => {
                TunnelSession::Socket { _hold: reached.reserved.unwrap_or_else(|| backend.hold()) }
            }
        };
        let counts = TunnelCounts { _session: session, _gauge: self.info.metrics.tunnel() };
        self.scope.keep_counted(self.info.counted.clone());
        self.scope.record().form = StreamKind::Tunnel;
        if let Some(key) = self.client_key {
            let memory = Arc::clone(&proxy.memory);
            self.scope.track_client(SessionClient {
                memory,
                key,
                backend: backend.tag(),
                scan: None,
            });
        }
        self.scope.enter(Phase::Tunnel);
        let ticket = proxy.tunnels.enter(backend.serial(), self.address, true);
        if backend.lifecycle() == Lifecycle::Evicted {
            // The backend was removed while it answered; its tunnels were cut before this one was
            // registered.
            proxy.tunnels.cut(backend.serial());
        }
        let timeouts = &pool.config().timeouts;
        let pending = PendingTunnel {
            client: self.info.upgraded(),
            scope: self.scope,
            counts,
            ticket,
            options: TunnelOptions {
                idle: timeouts.tunnel_idle,
                half_closed: timeouts.half_closed,
                framed: true,
            },
        };
        upgrade::switch(reached.answer, pending)
    }
}

/// Whether a response is an event stream, which may be silent for any time.
fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(EVENTS)
}

/// Stores the backend of a new session before the client sees the reply: the client may send its
/// next request before the reply is complete.
async fn learn_session(
    proxy: &SharedState,
    pool: &PoolSnapshot,
    opener: Opener,
    reached: &mut AttemptOutcome,
) -> Result<(), ProxyError> {
    let pause = pool.config().timeouts.body_idle;
    let (opened, head) = match session_detection::open_packet(&mut reached.answer, pause).await {
        Ok(read) => read,
        Err(error) => {
            reached.answer.lease.aborted(&proxy.metrics);
            return Err(error);
        }
    };
    if let Some(opened) = opened {
        let backend = reached.answer.lease.backend();
        let now = Instant::now();
        proxy.sids.learn_from(opener, &opened.sid, backend, opened.lifetime, now);
        reached.reserved = None;
    }
    reached.head = (!head.is_empty()).then_some(head);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::stream::{BackendStream, ClientStream},
        stream_log::TunnelGuard,
        tunnel::Tunnel,
        upstream::ConnectionGuard,
    };

    /// Cost of an open tunnel, apart from its sockets and the strings of its scope: the task is this
    /// future.
    #[test]
    fn a_tunnel_is_small() {
        let bytes = size_of::<
            Tunnel<ClientStream, BackendStream, TunnelGuard<(TunnelCounts, ConnectionGuard)>>,
        >();
        assert!(bytes <= 320, "{bytes} bytes");
    }
}

//! One request, from its header to its reply.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use arc_swap::ArcSwap;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, ORIGIN, SET_COOKIE},
    request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};

use super::{
    attempt::{Attempt, Reached},
    body::ReplyBody,
    entry::{Entry, Sinks},
    gate::{self, Checked},
    headers::{self, Origin},
    learn,
    outgoing::{Outgoing, Shape},
    reply::{self, Manners},
    upgrade::{self, Passage},
};
use crate::{
    config::SetOn,
    drain,
    error::{Kind, Phase, ProxyError, Side, Termination},
    net::half_close::Patience,
    observe::{AccessLog, ListenerMetrics, Metrics, Record, Start},
    snapshot::{Current, Listener, Pool},
    sticky::{self, Clues, Context, SessionHold, engine_io, engine_io::Transport},
    tunnel,
    upstream::Hold,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What every request of a process shares.
#[derive(Debug)]
pub struct Proxy {
    /// The configuration in force.
    pub snapshot: Current,
    /// Which backend holds which session.
    pub sids: Arc<sticky::Table>,
    /// Open tunnels.
    pub tunnels: Arc<tunnel::Registry>,
    /// Where numbers are told.
    pub metrics: Arc<Metrics>,
    /// Where endings are told.
    pub log: ArcSwap<AccessLog>,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
}

/// The client at the other end of one connection.
#[derive(Debug)]
pub struct Visitor {
    /// Its address.
    pub peer: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Where it was accepted.
    pub listener: Arc<Listener>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Lets it half-close.
    pub patience: Arc<Patience>,
    /// Keeps a drain waiting for its streams.
    pub drain: drain::Watch,
}

/// An Engine.IO request, by its query.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) sid: Option<Box<str>>,
    pub(super) polling: bool,
}

/// A request under way.
struct Call<'a> {
    visitor: &'a Visitor,
    /// The client's, behind trusted proxies too.
    address: SocketAddr,
    /// Whether the peer's own claims are believed.
    trusted: bool,
    method: Method,
    engine: Option<Engine>,
    upgrade: bool,
    client: Option<OnUpgrade>,
    /// What the request said of cookies and origin, for the reply's cookie.
    crossing: Crossing,
    manners: Manners,
    entry: Entry,
}

/// The cookie side of a request.
struct Crossing {
    held: Option<Box<str>>,
    context: Context,
}

/// What keeps a tunnel and its session counted.
#[derive(Debug)]
struct Moored {
    _session: Session,
    _gauge: crate::observe::metrics::Open,
}

/// How a tunnel counts: as its sid's session, or as one of its own.
#[derive(Debug)]
enum Session {
    Sid { _hold: SessionHold },
    Socket { _hold: Hold },
}

impl Proxy {
    /// Answers one request. Every failure becomes a reply here.
    pub(super) async fn respond(
        &self,
        visitor: &Visitor,
        mut request: Request<Incoming>,
    ) -> Response<ReplyBody> {
        let client = Some(hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let snapshot = self.snapshot.load_full();
        let trusted = snapshot.trusts(visitor.peer.ip());
        let address = headers::client(&parts.headers, visitor.peer, |ip| snapshot.trusts(ip));
        let id = headers::request_id(&parts.headers, trusted);
        let manners = Manners::of(&parts.headers, &id);
        let mut entry = self.open(visitor, &parts, address, &id);
        let checked = match admit(visitor, &parts) {
            Ok(Admitted::Serve(checked)) => checked,
            Ok(Admitted::Answer(response)) => {
                entry.record().status = response.status().as_u16();
                entry.end(Termination::Answered);
                return response;
            }
            Err(error) => return refuse(entry, &error, &manners),
        };
        let Some(pool) = snapshot.routes.find(gate::without_port(&checked.host), parts.uri.path())
        else {
            let error = ProxyError::new(Side::Client, Phase::Select, Kind::NoRoute);
            return refuse(entry, &error, &manners);
        };
        let call = Call {
            visitor,
            address,
            trusted,
            method: parts.method.clone(),
            engine: engine(&parts),
            upgrade: checked.upgrade,
            client,
            crossing: Crossing::of(&parts.headers, pool, visitor.tls, &checked.host),
            manners,
            entry,
        };
        let pool = Arc::clone(pool);
        self.serve(&pool, call, parts, body, (&checked.host, &id)).await
    }

    fn open(&self, visitor: &Visitor, parts: &Parts, client: SocketAddr, id: &str) -> Entry {
        let host = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => parts.headers.get(http::header::HOST).map_or("", |h| h.to_str().unwrap_or("")),
        };
        let record = Record::new(Start {
            id,
            client,
            listener: &visitor.listener.name,
            tls: visitor.tls,
            host,
            method: parts.method.as_str(),
            target: parts.uri.path_and_query().map_or("/", |p| p.as_str()),
        });
        let sinks = Sinks {
            log: self.log.load_full(),
            metrics: Arc::clone(&self.metrics),
            listener: Arc::clone(&visitor.metrics),
            drain: visitor.drain.clone(),
        };
        Entry::open(record, sinks)
    }

    async fn serve(
        &self,
        pool: &Pool,
        mut call: Call<'_>,
        parts: Parts,
        body: Incoming,
        (host, id): (&str, &str),
    ) -> Response<ReplyBody> {
        let choice = call.choose(self, pool);
        let Some(uri) = gate::origin_form(&parts.uri) else {
            let error = ProxyError::bad_request("The request target is not a path.");
            return refuse(call.entry, &error, &call.manners);
        };
        let peer = call.visitor.peer;
        let shape = Shape {
            origin: Origin { peer, trusted: call.trusted, tls: call.visitor.tls, host, id },
            upgrade: call.upgrade,
            plain_reply: call.opens_polling(),
            pause: pool.config().timeouts.body_idle,
        };
        let mut outgoing = Outgoing::new(parts.method, uri, parts.headers, body, &shape);
        let accept = call.upgrade.then(|| outgoing.expected_accept());
        pool.upstream.note_request();
        let held = (!call.polls()).then(|| call.visitor.patience.hold());
        let mut attempt = Attempt {
            proxy: self,
            pool,
            outgoing: &mut outgoing,
            entry: &mut call.entry,
            method: &call.method,
            engine: call.engine.as_ref(),
            upgrade: call.upgrade,
            client: call.address.ip(),
        };
        let reached = match attempt.run(choice).await {
            Ok(reached) => reached,
            Err(error) => {
                call.entry.received(outgoing.progress().bytes());
                return refuse(call.entry, &error, &call.manners);
            }
        };
        call.reply(self, pool, reached, accept.as_deref(), held).await
    }
}

/// What to do with a request before any route is looked for.
enum Admitted {
    Serve(Checked),
    Answer(Response<ReplyBody>),
}

fn admit(visitor: &Visitor, parts: &Parts) -> Result<Admitted, ProxyError> {
    let checked = gate::check(parts)?;
    #[cfg(debug_assertions)]
    panic_on_request(parts);
    match visitor.listener.redirect {
        Some(to) if !checked.host.is_empty() => {
            let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
            let host = gate::without_port(&checked.host);
            Ok(Admitted::Answer(reply::redirect(to, host, path)))
        }
        Some(_) => Err(ProxyError::bad_request("The Host field is missing.")),
        None => Ok(Admitted::Serve(checked)),
    }
}

/// Lets a test see what one panic costs. Not in release builds.
#[cfg(debug_assertions)]
fn panic_on_request(parts: &Parts) {
    if parts.uri.path() == "/__panic" && std::env::var_os("MOORLINE_TEST_PANIC").is_some() {
        panic!("asked to panic by a test");
    }
}

fn refuse(mut entry: Entry, error: &ProxyError, manners: &Manners) -> Response<ReplyBody> {
    let response = reply::error(error, manners);
    entry.record().status = response.status().as_u16();
    entry.sent(http_body::Body::size_hint(response.body()).lower());
    entry.fail(error);
    response
}

fn engine(parts: &Parts) -> Option<Engine> {
    let query = engine_io::query(parts.uri.query()?)?;
    Some(Engine {
        polling: query.transport == Transport::Polling,
        sid: query.sid.map(|sid| sid.into()),
    })
}

impl Call<'_> {
    fn choose(&self, proxy: &Proxy, pool: &Pool) -> sticky::Choice {
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let clues = Clues {
            sid: sid.filter(|_| pool.config().sticky.engine_io),
            moored: self.crossing.held.as_deref().and_then(|value| pool.moored(value)),
        };
        sticky::choose(&proxy.sids, pool.upstream.name(), clues, Instant::now())
    }

    /// A handshake whose reply tells the sid.
    fn opens_polling(&self) -> bool {
        let opens = self.engine.as_ref().is_some_and(|e| e.polling && e.sid.is_none());
        opens && self.method == Method::GET && !self.upgrade
    }

    /// A poll: a client that ends its stream has left, and its session with it.
    fn polls(&self) -> bool {
        self.engine.as_ref().is_some_and(|e| e.polling) && self.method == Method::GET
    }

    /// Turns a backend's answer into the client's reply.
    async fn reply(
        mut self,
        proxy: &Proxy,
        pool: &Pool,
        mut reached: Reached,
        accept: Option<&str>,
        held: Option<crate::net::half_close::Held>,
    ) -> Response<ReplyBody> {
        let status = reached.answer.response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let accept = accept.unwrap_or_default();
            if let Err(error) = upgrade::check(reached.answer.response.headers(), accept) {
                return refuse(self.entry, &error, &self.manners);
            }
        }
        if self.opens_polling()
            && status == StatusCode::OK
            && pool.config().sticky.engine_io
            && let Err(error) = learn_session(proxy, pool, &mut reached).await
        {
            return refuse(self.entry, &error, &self.manners);
        }
        self.set_cookie(pool, &mut reached);
        self.entry.record().status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.tunnel(proxy, pool, reached);
        }
        let Reached { answer, head, .. } = reached;
        let (mut parts, incoming) = answer.response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        if parts.status == StatusCode::BAD_REQUEST && self.engine.is_some() {
            self.manners.allow_origin(&mut parts.headers);
        }
        self.entry.enter(Phase::ResponseBody);
        let pause = pool.config().timeouts.body_idle;
        let body = ReplyBody::relayed(head, incoming, pause, answer.lease, (self.entry, held));
        Response::from_parts(parts, body)
    }

    fn tunnel(mut self, proxy: &Proxy, pool: &Pool, reached: Reached) -> Response<ReplyBody> {
        let backend = Arc::clone(reached.answer.lease.backend());
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let known = sid.and_then(|sid| proxy.sids.hold(pool.upstream.name(), sid, Instant::now()));
        let session = match known {
            Some(hold) => Session::Sid { _hold: hold },
            None => Session::Socket { _hold: reached.reserved.unwrap_or_else(|| backend.hold()) },
        };
        let moored = Moored { _session: session, _gauge: self.visitor.metrics.tunnel() };
        self.entry.record().tunnel = true;
        self.entry.enter(Phase::Tunnel);
        let Some(client) = self.client else { unreachable!("a checked handshake can be upgraded") };
        let passage = Passage {
            client,
            entry: self.entry,
            moored,
            ticket: proxy.tunnels.enter(backend.serial()),
            idle: pool.config().timeouts.tunnel_idle,
        };
        upgrade::switch(reached.answer, passage)
    }

    /// Names the backend in a cookie, where the reply is one that does and the client has none.
    fn set_cookie(&self, pool: &Pool, reached: &mut Reached) {
        let Some(cookie) = &pool.config().sticky.cookie else { return };
        let opens = match &self.engine {
            Some(engine) => engine.sid.is_none(),
            None => self.upgrade,
        };
        let status = reached.answer.response.status();
        let wanted = (opens || cookie.set_on == SetOn::Always)
            && self.method != Method::OPTIONS
            && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS);
        if !wanted {
            return;
        }
        let held = self.crossing.held.as_deref();
        let backend = reached.answer.lease.backend();
        if let Some(value) = pool.cookie(backend, held, self.crossing.context) {
            let fields = reached.answer.response.headers_mut();
            fields.append(SET_COOKIE, value);
            keep_private(fields);
        }
    }
}

impl Crossing {
    fn of(fields: &HeaderMap, pool: &Pool, tls: bool, host: &str) -> Self {
        let cookie = pool.config().sticky.cookie.as_ref();
        let held = cookie.and_then(|cookie| sticky::read(fields, &cookie.name)).map(Into::into);
        let cross_site = match fields.get(SEC_FETCH_SITE) {
            Some(site) => site == "cross-site",
            None => fields.get(ORIGIN).is_some_and(|origin| !is_origin_of(origin, host)),
        };
        Self { held, context: Context { tls, cross_site } }
    }
}

/// Whether an `Origin` is this host's own. Clients without `Sec-Fetch-Site` do not say whether two
/// hosts are one site: only the same host counts.
fn is_origin_of(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// A shared cache that keeps a reply with a sticky cookie would moor all its clients to one backend.
fn keep_private(fields: &mut HeaderMap) {
    let kept: Vec<&str> = headers::tokens(fields, &CACHE_CONTROL)
        .filter(|token| {
            let token = token.to_ascii_lowercase();
            !(token == "public" || token == "private" || token.starts_with("s-maxage"))
        })
        .collect();
    if kept.iter().any(|token| token.eq_ignore_ascii_case("no-store")) {
        return;
    }
    let joined = std::iter::once("private").chain(kept).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&joined) {
        fields.insert(CACHE_CONTROL, value);
    }
}

/// Stores the new session's backend before the client can hear of the session: its next request may
/// be on its way before the reply's last byte is.
async fn learn_session(
    proxy: &Proxy,
    pool: &Pool,
    reached: &mut Reached,
) -> Result<(), ProxyError> {
    let pause = pool.config().timeouts.body_idle;
    let (opened, head) = learn::open_packet(&mut reached.answer, pause).await?;
    if let Some(opened) = opened {
        let backend = reached.answer.lease.backend();
        proxy.sids.learn(&opened.sid, backend, opened.lifetime, Instant::now());
        reached.reserved = None;
    }
    reached.head = (!head.is_empty()).then_some(head);
    Ok(())
}

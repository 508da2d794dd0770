//! Who would serve a request, and by which rule: the data path's own decisions, told in sentences.
//!
//! Goes down the same list as a request does, by the same functions, but takes no turn, renews no
//! session and sends nothing.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use http::{Method, Request, Uri, header, request::Parts};

use super::{
    attempt::{Engine, begins_session},
    cookie::Crossing,
    gate, respond, search,
};
use crate::{
    admin::api::{ExplainOrder, Explanation, ListenerState},
    config::Balance,
    observe::ChosenBy,
    proxy::Proxy,
    route::Uncovered,
    snapshot::{self, Pool},
    sticky::{self, Choice, Clues, Recalled},
    upstream::{Backend, Life, source},
};

/// Backends that are named of those that would be asked for an unknown session.
const MOST_NAMED: usize = 5;

/// Whom a client is taken for where none is named.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Where a stream of layer 4 goes.
enum Led<'s> {
    To(&'s Pool),
    Nowhere,
}

impl Proxy {
    /// Who would serve this request, of those that listen.
    ///
    /// # Errors
    /// The order is no request that a client could make, in a sentence.
    pub(crate) fn explain(
        &self,
        order: &ExplainOrder,
        listeners: &[ListenerState],
    ) -> Result<Explanation, String> {
        let (parts, tls) = request(order)?;
        let mut told =
            Explanation { chosen_by: ChosenBy::None.label().to_owned(), ..Explanation::default() };
        let snapshot = self.snapshot.load();
        let checked = match gate::check(&parts) {
            Ok(checked) => checked,
            Err(error) => {
                told.steps.push(format!("Refused before any route is looked for: {error}."));
                return Ok(told);
            }
        };
        if let Some(led) = streams(&parts.uri, tls, listeners, &snapshot, &mut told) {
            if let Led::To(pool) = led {
                told.pool = Some(pool.upstream.name().to_owned());
                free(pool, order.client.unwrap_or(LOCAL), &mut told);
            }
            return Ok(told);
        }
        if !listen(&parts.uri, tls, listeners, &snapshot, &mut told) {
            return Ok(told);
        }
        let host = gate::without_port(&checked.host);
        let client = order.client.unwrap_or(LOCAL);
        let listener = told.listener.as_deref().unwrap_or_default();
        let path = parts.uri.path();
        let snapshot::Rule { way, pool } = match snapshot.routes.find(listener, host, path) {
            Ok(rule) => rule,
            Err(uncovered) => {
                told.steps.push(match uncovered {
                    Uncovered::Nowhere => format!("No route covers {host}{path}: 404."),
                    Uncovered::Ambiguous => format!("{} 400.", gate::AMBIGUOUS),
                    Uncovered::Elsewhere => {
                        format!("Only routes of other listeners cover {host}{path}: 421.")
                    }
                });
                return Ok(told);
            }
        };
        told.route = way.route.as_deref().map(str::to_owned);
        told.pool = Some(pool.upstream.name().to_owned());
        let route = way.route.as_deref().unwrap_or_default();
        told.steps.push(format!("The route {route} leads to pool {}.", way.pool));
        let engine = respond::engine(parts.uri.query());
        tell_engine(engine.as_ref(), pool, &mut told);
        let crossing = Crossing::of(&parts.headers, pool, tls, &checked.host);
        let moored = crossing.moored();
        if parts.headers.contains_key(header::COOKIE) {
            told.steps.push(match moored {
                Some(backend) => format!("The cookie names {}.", backend.name()),
                None => "No cookie names a backend of this pool.".to_owned(),
            });
        }
        let sid = engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let sid = sid.filter(|_| pool.config().sticky.engine_io);
        let clues = Clues { sid, moored };
        let choice = sticky::preview(&self.sids, pool.upstream.name(), clues, Instant::now());
        let websocket = engine.as_ref().is_some_and(|engine| !engine.polling);
        let upgrade = order.upgrade || websocket;
        let begins = begins_session(engine.as_ref(), &parts.method, upgrade);
        let choice = match choice {
            Choice::Free if begins => self.remembered(pool, client, &parts, &mut told),
            choice => choice,
        };
        decide(choice, pool, sid, client, &mut told);
        Ok(told)
    }
}

impl Proxy {
    /// What the memory of ended sessions makes of a new one; it goes on to remember.
    fn remembered(
        &self,
        pool: &Pool,
        client: IpAddr,
        parts: &Parts,
        told: &mut Explanation,
    ) -> Choice {
        let window = pool.config().sticky.memory;
        if window.is_zero() {
            return Choice::Free;
        }
        let agent =
            parts.headers.get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
        let key = self.memory.key(pool.upstream.name(), client, agent);
        match self.memory.recall(key, window, Instant::now()) {
            Recalled::On(tag) => match pool.tagged(tag) {
                Some(backend) => return Choice::Memory(Arc::clone(backend)),
                None => told.steps.push(
                    "This client's last session was on a backend that takes no new ones."
                        .to_owned(),
                ),
            },
            Recalled::Ambiguous => told.steps.push(
                "Sessions of such clients ended on several backends of late: none is preferred."
                    .to_owned(),
            ),
            Recalled::Unknown => {}
        }
        Choice::Free
    }
}

/// The request as its client would send it, and whether over TLS.
fn request(order: &ExplainOrder) -> Result<(Parts, bool), String> {
    let uri: Uri = order.url.parse().map_err(|error| format!("{}: {error}", order.url))?;
    let tls = match uri.scheme_str() {
        Some("https" | "wss" | "tls") => true,
        Some("http" | "ws" | "tcp") => false,
        _ => {
            return Err(
                "the URL begins with http:// or https://, or with tcp:// or tls://".to_owned()
            );
        }
    };
    let host = uri.authority().ok_or("the URL has no host")?.as_str().to_owned();
    let method = order.method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| format!("{method} is no method"))?;
    let mut request = Request::builder().method(method).uri(uri).header(header::HOST, host);
    for (name, value) in [(header::COOKIE, &order.cookie), (header::USER_AGENT, &order.user_agent)]
    {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let (parts, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
    Ok((parts, tls))
}

/// Tells where a connection goes that is a stream of layer 4; `None`: it is none.
fn streams<'s>(
    uri: &Uri,
    tls: bool,
    listeners: &'s [ListenerState],
    snapshot: &'s snapshot::Snapshot,
    told: &mut Explanation,
) -> Option<Led<'s>> {
    let only = matches!(uri.scheme_str(), Some("tcp" | "tls"));
    let Some(port) = uri.port_u16().or_else(|| (!only).then_some(if tls { 443 } else { 80 }))
    else {
        told.steps.push("A stream of layer 4 goes to a port, and the URL names none.".to_owned());
        return Some(Led::Nowhere);
    };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let name = Some(host.as_str()).filter(|_| tls);
    let mut here = listeners.iter().filter(|l| l.addresses.iter().any(|a| a.port() == port));
    let Some(door) = here.find_map(|listener| Door::of(listener, name, snapshot)) else {
        let nobody = format!("Nobody listens for streams of layer 4 on port {port}.");
        return only.then(|| {
            told.steps.push(nobody);
            Led::Nowhere
        });
    };
    told.listener = Some(door.listener.name.clone());
    told.steps.push(door.sentence(&host));
    Some(door.pool.map_or(Led::Nowhere, Led::To))
}

/// A listener that takes a connection for a stream.
struct Door<'s> {
    listener: &'s ListenerState,
    /// Where it goes; `None`: nowhere.
    pool: Option<&'s Pool>,
    /// By a rule about its name.
    ruled: bool,
}

impl<'s> Door<'s> {
    /// What this listener does with TLS for `name`, or with a connection in the clear; `None`: it reads
    /// requests from it.
    fn of(
        listener: &'s ListenerState,
        name: Option<&str>,
        snapshot: &'s snapshot::Snapshot,
    ) -> Option<Self> {
        let policy = snapshot.listeners.get(listener.name.as_str())?;
        let mut rules = policy.passthrough.iter();
        let rule = name.and_then(|name| rules.find(|passed| passed.rule.names(name)));
        if rule.is_none() && policy.http {
            return None;
        }
        let pool = rule.map(|passed| &passed.pool).or(policy.pool.as_ref());
        let pool = pool.and_then(|pool| snapshot.pool(pool)).map(|pool| &**pool);
        Some(Self { listener, pool, ruled: rule.is_some() })
    }

    fn sentence(&self, host: &str) -> String {
        let ListenerState { name, protocol, .. } = self.listener;
        let Some(pool) = self.pool.map(|pool| pool.upstream.name()) else {
            return format!(
                "No rule of listener {name} covers the name {host}: its connections are closed after an \
                 alert."
            );
        };
        match self.ruled {
            true => format!(
                "Listener {name} passes connections for {host} on to pool {pool}, undecrypted; routes are \
                 not asked."
            ),
            false => format!(
                "Listener {name} passes bytes on to pool {pool}; it speaks {protocol}, which has no routes."
            ),
        }
    }
}

/// Tells the listener. Whether the request goes on to a route.
fn listen(
    uri: &Uri,
    tls: bool,
    listeners: &[ListenerState],
    snapshot: &snapshot::Snapshot,
    told: &mut Explanation,
) -> bool {
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let protocol = if tls { "https" } else { "http" };
    let found = listeners.iter().find(|listener| {
        listener.protocol == protocol && listener.addresses.iter().any(|a| a.port() == port)
    });
    let Some(listener) = found else {
        told.steps.push(format!(
            "Nobody listens for {protocol} on port {port}; what follows is as if somebody did."
        ));
        return true;
    };
    told.listener = Some(listener.name.clone());
    told.steps.push(format!("Listener {} accepts {protocol} on port {port}.", listener.name));
    let policy = snapshot.listeners.get(listener.name.as_str());
    let redirects = policy.is_some_and(|policy| policy.redirect.is_some());
    if redirects {
        told.steps.push("It answers every request with a redirect.".to_owned());
    }
    !redirects
}

fn tell_engine(engine: Option<&Engine>, pool: &Pool, told: &mut Explanation) {
    let Some(engine) = engine else { return };
    let transport = if engine.polling { "polling" } else { "websocket" };
    let follows =
        if pool.config().sticky.engine_io { "" } else { ", which this pool does not follow" };
    told.steps.push(match engine.sid {
        Some(_) => format!("The query names an Engine.IO session ({transport}){follows}."),
        None => format!("The query opens an Engine.IO session ({transport}){follows}."),
    });
}

fn decide(choice: Choice, pool: &Pool, sid: Option<&str>, client: IpAddr, told: &mut Explanation) {
    match choice {
        Choice::Session(backend, _) => {
            let name = backend.name();
            chosen(told, ChosenBy::Sid, Some(&backend));
            told.steps.push(format!("The session is known here: it is on {name}, {}.", now(&backend)));
        }
        Choice::Gone => told.steps.push(
            "The session is known here, and its backend is gone: 400 with code 1, so that the client \
             opens a new one."
                .to_owned(),
        ),
        Choice::LetGo => told.steps.push(
            "The session was let go, though its backend lives: 400 with code 1, so that the client opens \
             a new one elsewhere."
                .to_owned(),
        ),
        Choice::Cookie(backend) => {
            chosen(told, ChosenBy::Cookie, Some(&backend));
            let name = backend.name();
            told.steps.push(format!("No session is known: the cookie decides for {name}."));
        }
        Choice::Memory(backend) => {
            chosen(told, ChosenBy::Memory, Some(&backend));
            told.steps.push(format!(
                "No session or cookie is known, but this client's last session ended on {} a moment ago.",
                backend.name()
            ));
        }
        Choice::Search(first) if pool.config().sticky.owner_search == 0 => match first {
            Some(backend) => decide(Choice::Cookie(backend), pool, sid, client, told),
            None => decide(Choice::Free, pool, sid, client, told),
        },
        Choice::Search(first) => {
            let asked = search::candidates(pool, first.as_ref(), sid.unwrap_or_default());
            let names: Vec<&str> = asked.iter().take(MOST_NAMED).map(|b| b.name()).collect();
            chosen(told, ChosenBy::OwnerSearch, None);
            told.steps.push(format!(
                "The session is not known here: {} backends are asked one after the other, first {}.",
                asked.len(),
                names.join(", ")
            ));
        }
        Choice::Free => free(pool, client, told),
    }
}

fn free(pool: &Pool, client: IpAddr, told: &mut Explanation) {
    let policy = match pool.config().balance {
        Balance::LeastSessions => "the one with the fewest sessions for its weight",
        Balance::RoundRobin => "the one whose turn it is",
        Balance::P2c => "the less loaded of two drawn at random",
        Balance::SourceHash => "the one that the client's address hashes to",
    };
    let backends = pool.upstream.backends();
    let open = backends.iter().filter(|backend| backend.takes_new()).count();
    if open == 0 {
        told.steps.push("No backend takes new sessions: requests get 503 with Retry-After, streams wait or end.".to_owned());
        return;
    }
    let picked = pool.upstream.preview(&source(client));
    chosen(told, ChosenBy::Balance, picked);
    let picked = picked.map_or_else(String::new, |backend| format!(": {} now", backend.name()));
    let all = backends.len();
    told.steps.push(format!("Nothing binds the client: {policy} of {open} (of {all}){picked}."));
}

fn chosen(told: &mut Explanation, by: ChosenBy, backend: Option<&Arc<Backend>>) {
    by.label().clone_into(&mut told.chosen_by);
    told.backend = backend.map(|backend| backend.name().to_owned());
}

fn now(backend: &Backend) -> &'static str {
    match backend.phase() {
        Life::Serving if !backend.is_up() => "which is down and is tried nevertheless",
        Life::Serving => "which serves",
        Life::Draining => "which drains and keeps it",
        Life::Gone => "which is gone",
    }
}

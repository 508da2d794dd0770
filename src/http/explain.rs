//! Who would serve a request, and by which rule: the data path's own decisions, looked at without a trace.
//!
//! A request is made of the order as its client would send it, and goes through [`decision`] as any other.
//! Nothing is sent, and nothing is remembered; what only a backend's answer can show is not known here.

mod asked;
mod streams;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    Method,
    header::{COOKIE, HOST},
    request::Parts,
};

use self::{
    asked::Asked,
    streams::{Led, streams},
};
use super::{
    attempt::EngineRequest,
    cookie::AffinityCookie,
    decision::{self, ArrivalContext, Destination, Remembered, Routed},
    owner_search, reply, respond,
    validation::{self, ValidatedRequest},
};
use crate::{
    api::{ExplainRequest, Explanation, ListenerState},
    config::Balance,
    error::{FailureKind, ProxyError},
    net::tls::TlsInfo,
    observe::ChosenBy,
    shared::SharedState,
    snapshot::{ListenerSnapshot, PoolSnapshot, Snapshot},
    sticky::{self, AffinityHints, Choice},
    upstream::{Backend, Life, source},
};

/// Backends that are named of those that would be asked for an unknown session.
const MOST_NAMED: usize = 5;

/// The client's address if none is named.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A target of this length gets a 414 from the HTTP parser.
const LONGEST_TARGET: usize = 65_534;

impl SharedState {
    /// Who would serve this request, of those that listen.
    ///
    /// # Errors
    /// The order is no request that a client could make, in a sentence.
    pub(crate) fn explain(
        &self,
        order: &ExplainRequest,
        listeners: &[ListenerState],
    ) -> Result<Explanation, String> {
        let asked = Asked::of(order)?;
        let client = order.client.unwrap_or(LOCAL);
        let mut told =
            Explanation { chosen_by: ChosenBy::None.label().to_owned(), ..Explanation::default() };
        let snapshot = self.snapshot.load();
        if let Some(led) = streams(&asked, listeners, &snapshot, &mut told) {
            if let Led::To(pool) = led {
                told.pool = Some(pool.upstream.name().to_owned());
                balanced(pool, client, &mut told);
                unhealthy(pool, &mut told);
            }
            return Ok(told);
        }
        let listener = listen(&asked, listeners, &snapshot, &mut told);
        let parts = match &asked.parts {
            Ok(parts) => parts,
            Err(target) => {
                told.status = Some(if target.len() >= LONGEST_TARGET { 414 } else { 400 });
                told.steps.push("The request is refused: its target is not valid.".to_owned());
                return Ok(told);
            }
        };
        let sni = Some(asked.host.as_str().into());
        let secured = TlsInfo { sni, alpn: None, version: None, client: None };
        let arrival = ArrivalContext { listener, tls_info: Some(&secured).filter(|_| asked.tls) };
        match decision::route(arrival, &self.challenges, &snapshot, parts) {
            Ok(Routed::Pool(checked, rule)) => {
                told.route = rule.route_label.route.as_deref().map(str::to_owned);
                told.pool = Some(rule.pool.upstream.name().to_owned());
                let route = rule.route_label.route.as_deref().unwrap_or_default();
                told.steps
                    .push(format!("The route {route} leads to pool {}.", rule.route_label.pool));
                self.place(&rule.pool, parts, &checked, (client, asked.tls), &mut told);
                unhealthy(&rule.pool, &mut told);
            }
            Ok(Routed::Challenge(_)) => {
                answers(
                    &mut told,
                    200,
                    "It is the challenge of a certificate that is being ordered.",
                );
            }
            Ok(Routed::Redirect(..)) => {
                answers(&mut told, 308, "The listener answers every request with a redirect.");
            }
            Err(error) => refused(&error, parts, &mut told),
        }
        Ok(told)
    }

    /// Says where a request of this pool goes.
    fn place(
        &self,
        pool: &PoolSnapshot,
        parts: &Parts,
        checked: &ValidatedRequest,
        (client, tls): (IpAddr, bool),
        told: &mut Explanation,
    ) {
        let engine = respond::engine(parts.uri.query());
        tell_engine(engine.as_ref(), pool, told);
        let crossing = AffinityCookie::of(&parts.headers, pool, tls, &checked.host);
        let moored = crossing.target();
        if parts.headers.contains_key(COOKIE) {
            told.steps.push(match moored {
                Some(backend) => format!("The cookie names {}.", backend.name()),
                None => "No cookie names a backend of this pool.".to_owned(),
            });
        }
        let sid = engine.as_ref().and_then(|engine| engine.sid.as_deref());
        let sid = sid.filter(|_| pool.config().sticky.engine_io);
        let hints = AffinityHints { sid, cookie: moored };
        let choice = sticky::preview(&self.sids, pool.upstream.name(), hints, Instant::now());
        let asked = (engine.as_ref(), &parts.method, checked.upgrade);
        let begins = decision::begins_session(asked.0, asked.1, asked.2);
        let choice = match choice {
            Choice::Free if begins => {
                let key = decision::client_key(&self.memory, pool, client, asked, &parts.headers);
                remembered(decision::recall(&self.memory, key, pool), told)
            }
            choice => choice,
        };
        let let_go = matches!(choice, Choice::Evicted);
        let owner_search = pool.config().sticky.owner_search;
        match decision::destination(choice, &parts.method, owner_search) {
            Destination::Session(backend, _) => {
                chosen(told, ChosenBy::Sid, Some(&backend));
                let (name, now) = (backend.name(), now(&backend));
                told.steps.push(format!("The session is known here: it is on {name}, {now}."));
            }
            Destination::Gone => gone(let_go, told),
            Destination::Search(first) => searched(pool, first.as_ref(), sid, told),
            Destination::Preferred(backend, by) => {
                chosen(told, by, Some(&backend));
                let name = backend.name();
                told.steps.push(match by {
                    ChosenBy::Memory => format!(
                        "There is no session and no cookie, but this client's last session ended on \
                         {name} a moment ago."
                    ),
                    _ => format!("No session is known: the cookie decides for {name}."),
                });
            }
            Destination::Balanced => {
                if sid.is_some() && parts.method == Method::OPTIONS {
                    told.steps.push("Every backend can answer a preflight.".to_owned());
                }
                balanced(pool, client, told);
                if !takes_new(pool) {
                    told.status = Some(503);
                }
            }
        }
    }
}

/// What the memory of recent sessions makes of a new one.
fn remembered(remembered: Remembered<'_>, told: &mut Explanation) -> Choice {
    match remembered {
        Remembered::On(backend) => return Choice::Memory(Arc::clone(backend)),
        Remembered::Closed => told.steps.push(
            "This client's last session was on a backend that takes no new sessions.".to_owned(),
        ),
        Remembered::Ambiguous => told.steps.push(
            "Sessions of such clients ended on several backends at about the same time: none of them is \
             preferred."
                .to_owned(),
        ),
        Remembered::Unknown => {}
    }
    Choice::Free
}

/// Finds the listener, and says which it is.
fn listen<'s>(
    asked: &Asked,
    listeners: &[ListenerState],
    snapshot: &'s Snapshot,
    told: &mut Explanation,
) -> Option<&'s ListenerSnapshot> {
    let port = asked.port();
    let protocol = if asked.tls { "https" } else { "http" };
    let found = listeners.iter().find(|listener| {
        listener.protocol == protocol && listener.addresses.iter().any(|a| a.port() == port)
    });
    let Some(listener) = found else {
        told.steps.push(format!(
            "No listener accepts {protocol} on port {port}; the following steps assume that one does."
        ));
        return None;
    };
    told.listener = Some(listener.name.clone());
    told.steps.push(format!("Listener {} accepts {protocol} on port {port}.", listener.name));
    snapshot.listeners.get(listener.name.as_str()).map(|listener| &**listener)
}

/// The proxy answers by itself.
fn answers(told: &mut Explanation, status: u16, sentence: &str) {
    told.status = Some(status);
    told.steps.push(sentence.to_owned());
}

fn refused(error: &ProxyError, parts: &Parts, told: &mut Explanation) {
    let host = parts.headers.get(HOST).map_or("", |host| host.to_str().unwrap_or_default());
    let (host, path) = (validation::without_port(host), parts.uri.path());
    let sentence = match error.kind {
        FailureKind::NoRoute => format!("No route covers {host}{path}."),
        FailureKind::Misdirected => format!("Only routes of other listeners cover {host}{path}."),
        _ => format!("The request is refused: {}", reply::sentence(error)),
    };
    answers(told, reply::status(error).as_u16(), &sentence);
}

fn tell_engine(engine: Option<&EngineRequest>, pool: &PoolSnapshot, told: &mut Explanation) {
    let Some(engine) = engine else { return };
    let transport = if engine.polling { "polling" } else { "another transport than polling" };
    let follows = match pool.config().sticky.engine_io {
        true => "",
        false => "; this pool does not follow sessions",
    };
    told.steps.push(match engine.sid {
        Some(_) => format!("The query names an Engine.IO session ({transport}){follows}."),
        None => format!("The query names no Engine.IO session ({transport}){follows}."),
    });
}

fn gone(let_go: bool, told: &mut Explanation) {
    let why = match let_go {
        true => "The session is known here and was closed by a drain or by an operator",
        false => "The session is known here, and its backend is gone",
    };
    let sentence = format!("{why}: the answer has code 1, so that the client opens a new session.");
    answers(told, 400, &sentence);
}

fn searched(
    pool: &PoolSnapshot,
    first: Option<&Arc<Backend>>,
    sid: Option<&str>,
    told: &mut Explanation,
) {
    let asked = owner_search::candidates(pool, first, sid.unwrap_or_default());
    if asked.is_empty() {
        let sentence = "The session is not known here, and there is no backend to ask: the answer has code \
                        1, so that the client opens a new session.";
        return answers(told, 400, sentence);
    }
    let names: Vec<&str> = asked.iter().take(MOST_NAMED).map(|b| b.name()).collect();
    chosen(told, ChosenBy::OwnerSearch, None);
    let led = match first {
        Some(_) => " The first is the cookie's: if it has the session, the log says `cookie`.",
        None => "",
    };
    told.steps.push(format!(
        "The session is not known here: {} backends are asked one after the other, first {}.{led}",
        asked.len(),
        names.join(", ")
    ));
}

fn balanced(pool: &PoolSnapshot, client: IpAddr, told: &mut Explanation) {
    let policy = match pool.config().balance {
        Balance::LeastSessions => "the one with the fewest sessions for its weight",
        Balance::RoundRobin => "the one whose turn it is",
        Balance::P2c => "the less loaded of two drawn at random",
        Balance::SourceHash => "the one that the client's address hashes to",
    };
    let backends = pool.upstream.backends();
    let open = backends.iter().filter(|backend| backend.takes_new()).count();
    let picked = pool.upstream.preview(&source(client));
    chosen(told, ChosenBy::Balance, picked);
    told.steps.push(match (open, picked) {
        (0, _) => {
            "No backend takes new sessions: requests get 503 with Retry-After, streams wait or end."
                .to_owned()
        }
        (_, picked) => {
            let picked = picked.map_or_else(String::new, |b| format!(": {} now", b.name()));
            let all = backends.len();
            format!("Nothing binds the client: {policy} of {open} (of {all}){picked}.")
        }
    });
}

fn takes_new(pool: &PoolSnapshot) -> bool {
    pool.upstream.backends().iter().any(|backend| backend.takes_new())
}

/// Tells of each backend whose health keeps new sessions from it.
fn unhealthy(pool: &PoolSnapshot, told: &mut Explanation) {
    let backends = pool.upstream.backends().iter();
    let unhealthy = backends.filter(|backend| !backend.is_up() || backend.is_ejected());
    for backend in unhealthy.take(MOST_NAMED) {
        let (name, diagnosis) = (backend.name(), backend.diagnosis());
        if backend.is_up() {
            let reason = diagnosis.ejection().unwrap_or_default();
            told.steps.push(format!("Backend {name} is ejected: {reason}."));
            continue;
        }
        let down = diagnosis.since().elapsed().unwrap_or_default().as_secs();
        let down = humantime::format_duration(Duration::from_secs(down));
        told.steps.push(match diagnosis.last_failure() {
            Some(failure) => {
                format!("Backend {name} has been down for {down}: {}.", failure.reason)
            }
            None => format!("Backend {name} has been down since before this process."),
        });
    }
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

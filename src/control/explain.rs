//! Which backend would get a request, and by which rule, without sending it.
//!
//! The request is built as its client would send it and goes through the data path's own decision
//! functions ([`affinity`]). Nothing is sent and nothing is remembered. Facts that only a backend's answer
//! can show are not known here.

mod request;
mod streams;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use moorline_http::{FieldId, HeadFault, HeadLimits, RequestHead};

pub(crate) use self::request::ExplainError;
use self::{
    request::ExplainedRequest,
    streams::{StreamTarget, streams},
};
use crate::{
    api::{ExplainRequest, Explanation, ListenerState},
    config::Balance,
    error::{FailureKind, ProxyError},
    gateway::{FilterFacts, Interception, LocalOutcome},
    net::tls::TlsInfo,
    observe::ChosenBy,
    proxy::{
        affinity::{
            self, ArrivalContext, Destination, Remembered, RequestFacts, Routed, SessionLookup,
        },
        class,
        cookie::AffinityCookie,
        engine_request::{EngineRequest, engine_request},
        reply,
        split::{self, OpenShares, SplitReason},
        validate::{ValidatedRequest, without_port},
    },
    shared::SharedState,
    snapshot::{ListenerSnapshot, PoolSnapshot, RouteAction, RouteTarget, Snapshot, SplitTarget},
    sticky::{self, AffinityHints, Choice, recent_sessions::ClientKey},
    upstream::{Backend, Lifecycle, source},
};

/// Maximum number of backends that a step names.
const MOST_NAMED: usize = 5;

/// The client address if the request names none.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Limits of a head that no listener receives: those that listeners have by default.
const LIMITS: HeadLimits = HeadLimits { size: 64 << 10, fields: 100 };

/// Explains which backend would get a request on one of these listeners.
///
/// # Errors
/// No client could send the request.
pub(super) fn explain(
    shared: &SharedState,
    wanted: &ExplainRequest,
    listeners: &[ListenerState],
) -> Result<Explanation, ExplainError> {
    let request = ExplainedRequest::of(wanted)?;
    let client = wanted.client.unwrap_or(LOCAL);
    let mut explanation =
        Explanation { chosen_by: ChosenBy::None.label().to_owned(), ..Explanation::default() };
    let snapshot = shared.snapshot.load();
    if let Some(target) = streams(&request, listeners, &snapshot, &mut explanation) {
        if let StreamTarget::To(pool) = target {
            explanation.pool = Some(pool.upstream.name().to_owned());
            balanced(pool, client, &mut explanation);
            unhealthy(pool, &mut explanation);
        }
        return Ok(explanation);
    }
    let listener = find_listener(&request, listeners, &snapshot, &mut explanation);
    let limits = listener.map_or(LIMITS, |listener| HeadLimits {
        size: listener.header.size,
        fields: listener.header.fields,
    });
    let head = match request.parse(limits) {
        Ok(head) => head,
        Err(fault) => {
            unparsed(fault, &mut explanation);
            return Ok(explanation);
        }
    };
    let sni = Some(request.host.as_str().into());
    let secured = TlsInfo { sni, alpn: None, version: None, client: request.certificate.clone() };
    let trace = RefCell::default();
    let arrival = ArrivalContext {
        listener,
        tls_info: Some(&secured).filter(|_| request.tls),
        client,
        secure: request.tls,
        trace: Some(&trace),
    };
    let routed = affinity::route(arrival, &shared.challenges, &snapshot, &head);
    explanation.steps.append(&mut trace.take());
    match routed {
        Ok(Routed::Route(checked, rule)) => {
            let (host, upgrade) = (checked.host.to_owned(), checked.upgrade);
            let arrived = ArrivedRequest { head, host, upgrade, client, tls: request.tls };
            followed(shared, arrived, rule, &mut explanation);
        }
        Ok(Routed::Challenge(_)) => {
            let sentence = "It is the challenge of a certificate that is being ordered.";
            answers(&mut explanation, 200, sentence);
        }
        Ok(Routed::Redirect(..)) => {
            let sentence = "The listener answers every request with a redirect.";
            answers(&mut explanation, 308, sentence);
        }
        Err(error) => rejected(&error, &head, &mut explanation),
    }
    Ok(explanation)
}

/// A request that has a route.
struct ArrivedRequest {
    head: RequestHead,
    /// Requested host, with its port.
    host: String,
    /// Whether it is a WebSocket handshake.
    upgrade: bool,
    client: IpAddr,
    tls: bool,
}

/// Explains what a route does with a request.
fn followed(
    shared: &SharedState,
    mut arrived: ArrivedRequest,
    rule: &RouteTarget,
    explanation: &mut Explanation,
) {
    let route = rule.route_label.route.as_deref().unwrap_or_default();
    explanation.route = Some(route.to_owned());
    let engine = engine_request(arrived.head.query());
    let (method, target) = (arrived.head.method.clone(), arrived.head.path_and_query().to_owned());
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let chosen = match &rule.action {
        RouteAction::Split(split) => {
            Some(split_share(shared, split, &arrived.head, engine.as_ref(), explanation))
        }
        RouteAction::Pool(pool) => Some(pool),
        RouteAction::Answer(_) => None,
    };
    let engine_place = class::place(shared, (rule, chosen), path);
    let facts = FilterFacts {
        client: arrived.client,
        secure: arrived.tls,
        tls_info: None,
        host: &arrived.host,
        id: "",
        method: method.as_str(),
        path,
        query,
        sid: engine.as_ref().and_then(|engine| engine.sid.as_deref()),
        is_engine: engine.is_some(),
        place: engine_place,
        upgrade: arrived.upgrade,
        class: class::of(
            shared,
            (rule, chosen),
            (&arrived.head, engine_place),
            engine.as_ref(),
            arrived.upgrade,
        ),
        preview: true,
        pool: chosen.map_or("", |pool| pool.upstream.name()),
        identity: None,
    };
    if let Some(filters) = &rule.filters {
        match filters.request(arrived.head, &facts) {
            Ok(passed) => arrived.head = passed.request,
            Err(interception) => return intercepted(&interception, route, explanation),
        }
        if arrived.head.path() != path {
            let path = arrived.head.path();
            explanation.steps.push(format!("The route {route} rewrites the path to {path}."));
        }
    }
    if let Some(mirror) = rule.mirror.as_ref().filter(|_| engine.is_none() && !arrived.upgrade) {
        let (share, pool) = (mirror.share, mirror.pool.upstream.name());
        explanation.steps.push(format!(
            "{share} % of such requests are also sent to pool {pool}, except long polls and those with large bodies."
        ));
    }
    match &rule.action {
        RouteAction::Pool(pool) => {
            let name = pool.upstream.name();
            explanation.pool = Some(name.to_owned());
            explanation.steps.push(format!("The route {route} leads to pool {name}."));
            let checked = ValidatedRequest { host: &arrived.host, upgrade: arrived.upgrade };
            let client = (arrived.client, arrived.tls);
            place(shared, pool, &arrived.head, &checked, client, explanation);
            unhealthy(pool, explanation);
        }
        RouteAction::Split(split) => {
            let checked = ValidatedRequest { host: &arrived.host, upgrade: arrived.upgrade };
            let client = (arrived.client, arrived.tls);
            let pool = chosen.unwrap_or(&split.shares[0].pool);
            explanation.pool = Some(pool.upstream.name().to_owned());
            place(shared, pool, &arrived.head, &checked, client, explanation);
            unhealthy(pool, explanation);
        }
        RouteAction::Answer(answer) => match answer.reply(&arrived.head, &facts) {
            Ok(LocalOutcome::File(_)) => {
                let sentence = format!("The route {route} answers with a file, if there is one.");
                explanation.steps.push(sentence);
            }
            Ok(LocalOutcome::Reply(reply)) => {
                let sentence = format!("The route {route} answers without a backend.");
                answers(explanation, reply.head.status.as_u16(), &sentence);
            }
            Err(error) => rejected(&error, &arrived.head, explanation),
        },
    }
}

/// Explains which pool of a split a request goes to. If the weights decide, this is the heaviest pool.
fn split_share<'s>(
    shared: &SharedState,
    split: &'s SplitTarget,
    request: &RequestHead,
    engine: Option<&EngineRequest>,
    explanation: &mut Explanation,
) -> &'s Arc<PoolSnapshot> {
    let mut total = 0;
    let heaviest = |open: &OpenShares<'s>| {
        total = open.total();
        open.heaviest()
    };
    let (share, reason) = split::choose(split, &shared.sids, request, engine, heaviest);
    let name = share.pool.upstream.name();
    explanation.steps.push(match reason {
        SplitReason::Session => format!("Pool {name} of the split has the session."),
        SplitReason::Forced => format!("A header field or a cookie forces it to pool {name} of the split."),
        SplitReason::Cookie => format!("The affinity cookie names a backend of pool {name} of the split."),
        SplitReason::Weight => format!(
            "The weights of the split decide; the steps that follow are those of pool {name}, which gets {} of {} requests.",
            share.weight, total
        ),
    });
    &share.pool
}

/// Explains that a filter has answered or refused a request.
fn intercepted(interception: &Interception, route: &str, explanation: &mut Explanation) {
    match interception {
        Interception::Answered(reply) => {
            let sentence = format!("The route {route} answers it as a preflight.");
            answers(explanation, reply.head.status.as_u16(), &sentence);
        }
        Interception::Stored(reply, _) => {
            let sentence = format!("The route {route} answers it with a stored response.");
            answers(explanation, reply.head.status.as_u16(), &sentence);
        }
        Interception::Paused(_) => {
            let sentence = format!(
                "The route {route} checks credentials, which takes a request to another server."
            );
            explanation.steps.push(sentence);
        }
        Interception::Invalid(invalid) => {
            let error = &invalid.error;
            let sentence = format!("The route {route} refuses it: {}", reply::sentence(error));
            answers(explanation, reply::status(error).as_u16(), &sentence);
            let faults =
                invalid.report.iter().flat_map(|report| &report.faults).map(ToString::to_string);
            explanation.steps.extend(faults);
        }
        Interception::Refused(error) | Interception::Limited(error, _) => {
            let sentence = format!("The route {route} refuses it: {}", reply::sentence(error));
            answers(explanation, reply::status(error).as_u16(), &sentence);
        }
    }
}

/// Reads session state as the data path does, and changes nothing.
struct PreviewLookup<'a> {
    shared: &'a SharedState,
    pool: &'a PoolSnapshot,
    client: Option<ClientKey>,
    /// Result of the lookup among recent sessions, if there was one.
    recalled: Option<Remembered<'a>>,
}

impl SessionLookup for PreviewLookup<'_> {
    fn session(&mut self, hints: AffinityHints<'_>) -> Choice {
        sticky::preview(&self.shared.sids, self.pool.upstream.name(), hints, Instant::now())
    }

    fn recent(&mut self) -> Option<Arc<Backend>> {
        let recalled = affinity::recall(&self.shared.memory, self.client, self.pool);
        self.recalled = Some(recalled);
        match recalled {
            Remembered::On(backend) => Some(Arc::clone(backend)),
            _ => None,
        }
    }

    fn returns_to(&mut self, _: &Backend) {}
}

/// Explains where a request of this pool goes.
fn place(
    shared: &SharedState,
    pool: &PoolSnapshot,
    request: &RequestHead,
    checked: &ValidatedRequest<'_>,
    (client, tls): (IpAddr, bool),
    explanation: &mut Explanation,
) {
    let engine = engine_request(request.query());
    describe_engine(engine.as_ref(), pool, explanation);
    let cookie = AffinityCookie::of(&request.head, pool, tls, checked.host);
    if request.head.has(FieldId::Cookie) {
        explanation.steps.push(match cookie.target() {
            Some(backend) => format!("The cookie names {}.", backend.name()),
            None => "No cookie names a backend of this pool.".to_owned(),
        });
    }
    let (engine, method) = (engine.as_ref(), &request.method);
    let session = (engine, method, checked.upgrade);
    let key = affinity::client_key(&shared.memory, pool, client, session, &request.head);
    let facts =
        RequestFacts { engine, method, upgrade: checked.upgrade, affinity: cookie.target() };
    let mut lookup = PreviewLookup { shared, pool, client: key, recalled: None };
    let destination = affinity::decide(facts, pool, &mut lookup);
    describe_recent(lookup.recalled, explanation);
    let sid = engine.and_then(|engine| engine.sid.as_deref());
    let sid = sid.filter(|_| pool.config().sticky.engine_io);
    match destination {
        Destination::Session(backend, _) => {
            chosen(explanation, ChosenBy::Sid, Some(&backend));
            let (name, condition) = (backend.name(), condition(&backend));
            let sentence = format!("The session is known here: it is on {name}, {condition}.");
            explanation.steps.push(sentence);
        }
        Destination::Gone { evicted } => gone(evicted, explanation),
        Destination::Search(first, _) => searched(pool, first.as_ref(), sid, explanation),
        Destination::Preferred(backend, by) => {
            chosen(explanation, by, Some(&backend));
            let name = backend.name();
            explanation.steps.push(match by {
                ChosenBy::Memory => format!(
                    "There is no session and no cookie, but this client's last session ended on {name} a \
                     moment ago."
                ),
                _ => format!("No session is known: the cookie selects {name}."),
            });
        }
        Destination::Balanced => {
            if sid.is_some() && *method == Method::OPTIONS {
                explanation.steps.push("Every backend can answer a preflight.".to_owned());
            }
            balanced(pool, client, explanation);
            if !accepts_new(pool) {
                explanation.status = Some(503);
            }
        }
    }
}

/// Describes why the recent sessions select no backend.
fn describe_recent(recalled: Option<Remembered<'_>>, explanation: &mut Explanation) {
    let sentence = match recalled {
        Some(Remembered::Closed) => {
            "This client's last session was on a backend that takes no new sessions."
        }
        Some(Remembered::Ambiguous) => {
            "Sessions of clients with this address and user agent ended on several backends at about the \
             same time: none of them is preferred."
        }
        Some(Remembered::On(_) | Remembered::Unknown) | None => return,
    };
    explanation.steps.push(sentence.to_owned());
}

/// Finds the listener of a request and adds it to the explanation.
fn find_listener<'s>(
    request: &ExplainedRequest,
    listeners: &[ListenerState],
    snapshot: &'s Snapshot,
    explanation: &mut Explanation,
) -> Option<&'s ListenerSnapshot> {
    let port = request.port();
    let protocol = if request.tls { "https" } else { "http" };
    let found = listeners.iter().find(|listener| {
        listener.protocol == protocol && listener.addresses.iter().any(|a| a.port() == port)
    });
    let Some(listener) = found else {
        explanation.steps.push(format!(
            "No listener accepts {protocol} on port {port}; the following steps assume that one does."
        ));
        return None;
    };
    explanation.listener = Some(listener.name.clone());
    explanation
        .steps
        .push(format!("Listener {} accepts {protocol} on port {port}.", listener.name));
    snapshot.listeners.get(listener.name.as_str()).map(|listener| &**listener)
}

/// Explains a request that the proxy answers itself.
fn answers(explanation: &mut Explanation, status: u16, sentence: &str) {
    explanation.status = Some(status);
    explanation.steps.push(sentence.to_owned());
}

/// Explains that the head of the request violates the rules.
fn unparsed(fault: HeadFault, explanation: &mut Explanation) {
    let sentence = match fault {
        HeadFault::TargetSpace | HeadFault::TargetCharacter | HeadFault::TargetTooLong => {
            "The request is rejected: its target is not valid.".to_owned()
        }
        fault => format!("The request is rejected: {fault}"),
    };
    answers(explanation, reply::status(&reply::invalid_head(fault)).as_u16(), &sentence);
}

fn rejected(error: &ProxyError, request: &RequestHead, explanation: &mut Explanation) {
    let host = request.head.text(FieldId::Host).unwrap_or_default();
    let (host, path) = (without_port(host), request.path());
    let sentence = match error.kind {
        FailureKind::NoRoute => format!("No route covers {host}{path}."),
        FailureKind::Misdirected => format!("Only routes of other listeners cover {host}{path}."),
        _ => format!("The request is rejected: {}", reply::sentence(error)),
    };
    answers(explanation, reply::status(error).as_u16(), &sentence);
}

fn describe_engine(
    engine: Option<&EngineRequest>,
    pool: &PoolSnapshot,
    explanation: &mut Explanation,
) {
    let Some(engine) = engine else { return };
    let transport = if engine.polling { "by polling" } else { "not by polling" };
    let follows = match pool.config().sticky.engine_io {
        true => "",
        false => "; this pool does not follow sessions",
    };
    explanation.steps.push(match engine.sid {
        Some(_) => format!("The query names an Engine.IO session ({transport}){follows}."),
        None => format!("The query names no Engine.IO session ({transport}){follows}."),
    });
}

fn gone(evicted: bool, explanation: &mut Explanation) {
    let why = match evicted {
        true => "The session is known here and was closed by a drain or by an operator",
        false => "The session is known here, and its backend was removed",
    };
    let sentence = format!("{why}: the answer has code 1, so that the client opens a new session.");
    answers(explanation, 400, &sentence);
}

fn searched(
    pool: &PoolSnapshot,
    first: Option<&Arc<Backend>>,
    sid: Option<&str>,
    explanation: &mut Explanation,
) {
    let candidates = affinity::candidates(pool, first, sid.unwrap_or_default());
    if candidates.is_empty() {
        let sentence = "The session is not known here, and there is no backend to ask: the answer has code \
                        1, so that the client opens a new session.";
        return answers(explanation, 400, sentence);
    }
    let names: Vec<&str> = candidates.iter().take(MOST_NAMED).map(|b| b.name()).collect();
    chosen(explanation, ChosenBy::OwnerSearch, None);
    let note = match first {
        Some(_) => {
            " The first one is named by the cookie: if it has the session, the log says `cookie`."
        }
        None => "",
    };
    explanation.steps.push(format!(
        "The session is not known here: {} backends are asked one after the other, first {}.{note}",
        candidates.len(),
        names.join(", ")
    ));
}

fn balanced(pool: &PoolSnapshot, client: IpAddr, explanation: &mut Explanation) {
    let policy = match pool.config().balance {
        Balance::LeastSessions => "the backend with the fewest sessions for its weight",
        Balance::RoundRobin => "the next backend in turn",
        Balance::P2c => "the less loaded of two random backends",
        Balance::SourceHash => "the backend that the client address hashes to",
    };
    let backends = pool.upstream.backends();
    let open = backends.iter().filter(|backend| backend.accepts_new()).count();
    let picked = pool.upstream.preview(&source(client));
    chosen(explanation, ChosenBy::Balance, picked);
    explanation.steps.push(match (open, picked) {
        (0, _) => {
            "No backend takes new sessions: requests get 503 with Retry-After, streams wait or end."
                .to_owned()
        }
        (_, picked) => {
            let picked = picked.map_or_else(String::new, |b| format!(": {} now", b.name()));
            let all = backends.len();
            format!("No session or cookie selects a backend. The balance policy takes {policy}, among {open} of \
                 {all} backends{picked}.")
        }
    });
}

fn accepts_new(pool: &PoolSnapshot) -> bool {
    pool.upstream.backends().iter().any(|backend| backend.accepts_new())
}

/// Describes the backends that get no new sessions because of their health.
fn unhealthy(pool: &PoolSnapshot, explanation: &mut Explanation) {
    let backups = pool.upstream.backends().iter().filter(|backend| backend.is_backup());
    for backend in backups.take(MOST_NAMED) {
        let name = backend.name();
        explanation.steps.push(match backend.is_standby() {
            true => format!("Backend {name} is a backup, which is not needed now."),
            false => format!("Backend {name} is a backup, and no other backend is available."),
        });
    }
    let backends = pool.upstream.backends().iter();
    let unhealthy = backends.filter(|backend| !backend.is_up() || backend.is_ejected());
    for backend in unhealthy.take(MOST_NAMED) {
        let (name, diagnosis) = (backend.name(), backend.diagnosis());
        if backend.is_up() {
            let reason = diagnosis.ejection().unwrap_or_default();
            explanation.steps.push(format!("Backend {name} is ejected: {reason}."));
            continue;
        }
        let down = diagnosis.since().elapsed().unwrap_or_default().as_secs();
        let down = humantime::format_duration(Duration::from_secs(down));
        explanation.steps.push(match diagnosis.last_failure() {
            Some(failure) => {
                format!("Backend {name} has been down for {down}: {}.", failure.reason)
            }
            None => format!("Backend {name} has been down since before this process started."),
        });
    }
}

fn chosen(explanation: &mut Explanation, by: ChosenBy, backend: Option<&Arc<Backend>>) {
    by.label().clone_into(&mut explanation.chosen_by);
    explanation.backend = backend.map(|backend| backend.name().to_owned());
}

fn condition(backend: &Backend) -> &'static str {
    match backend.lifecycle() {
        Lifecycle::Serving if !backend.is_up() => "which is down; the request is sent to it anyway",
        Lifecycle::Serving => "which serves",
        Lifecycle::Draining => "which drains and keeps it",
        Lifecycle::Evicted => "which was removed",
    }
}

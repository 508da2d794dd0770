//! Which backend would get a request, and by which rule, without sending it.
//!
//! The request is built as its client would send it and goes through the data path's own decision
//! functions ([`affinity`]). Nothing is sent and nothing is remembered. Facts that only a backend's answer
//! can show are not known here.

mod destination;
mod request;
mod streams;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use moorline_http::{FieldId, HeadFault, HeadLimits, RequestHead};

pub(crate) use self::request::ExplainError;
use self::{
    destination::{balanced, place, unhealthy},
    request::ExplainedRequest,
    streams::{StreamTarget, streams},
};
use crate::{
    api::{ExplainRequest, Explanation, ListenerState},
    error::{FailureKind, ProxyError},
    gateway::{ClaimedOrigin, FilterFacts, Interception, LocalOutcome},
    net::tls::TlsInfo,
    observe::ChosenBy,
    proxy::{
        affinity::{self, ArrivalContext, Routed},
        class,
        engine_request::{EngineRequest, engine_request},
        reply,
        split::{self, OpenShares, SplitReason},
        validate::{ValidatedRequest, without_port},
    },
    shared::SharedState,
    snapshot::{ListenerSnapshot, PoolSnapshot, RouteAction, RouteTarget, Snapshot, SplitTarget},
};

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
        claimed: ClaimedOrigin::default(),
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

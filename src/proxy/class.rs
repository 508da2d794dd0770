//! What a request counts as, for the limits of a route.
//!
//! A poll is exempt from limits of requests only if the proxy knows its session, and it goes where Engine.IO is served, or
//! the pool names its path: a query that looks like a poll's must not be a way around the limits.

use std::{sync::Arc, time::Instant};

use http::Method;
use moorline_http::{FieldId, RequestHead};

use super::{engine_request::EngineRequest, long_poll};
use crate::{
    gateway::RequestClass,
    shared::SharedState,
    snapshot::{PoolSnapshot, RouteTarget},
    sticky::EnginePlace,
};

/// Returns the place that a path of the client leads to, if a filter of the route needs it.
pub(crate) fn place(
    proxy: &SharedState,
    (rule, pool): (&RouteTarget, Option<&Arc<PoolSnapshot>>),
    path: &str,
) -> EnginePlace {
    if !rule.filters.as_ref().is_some_and(|filters| filters.needs_place()) {
        return EnginePlace::default();
    }
    let route = rule.route_label.route.as_deref().unwrap_or_default();
    proxy.engine_paths.place(route, pool.map_or("", |pool| pool.upstream.name()), path)
}

/// Returns the class of a request to `pool`, if a filter of its route needs it.
pub(crate) fn of(
    proxy: &SharedState,
    (rule, pool): (&RouteTarget, Option<&Arc<PoolSnapshot>>),
    (request, place): (&RequestHead, EnginePlace),
    engine: Option<&EngineRequest>,
    upgrade: bool,
) -> RequestClass {
    if !rule.filters.as_ref().is_some_and(|filters| filters.needs_class()) {
        return RequestClass::Other;
    }
    let head = &request.head;
    if request.method == Method::OPTIONS {
        let is_preflight = !request.has_body()
            && head.has(FieldId::Origin)
            && head.has(FieldId::AccessControlRequestMethod);
        return if is_preflight { RequestClass::Preflight } else { RequestClass::Other };
    }
    let sid = engine.and_then(|engine| engine.sid.as_deref());
    let is_known = pool.zip(sid).is_some_and(|(pool, sid)| {
        proxy.sids.peek(pool.upstream.name(), sid, Instant::now()).is_some()
    });
    let opens = match engine {
        Some(engine) => engine.sid.is_none() || upgrade && !is_known,
        None => upgrade,
    };
    let is_poll = is_known && place.serves && engine.is_some_and(|engine| engine.polling);
    let is_named =
        || pool.is_some_and(|pool| long_poll::is_named(request.path(), &pool.config().long_polls));
    let is_held = request.method == Method::GET && !upgrade && (is_poll || is_named());
    match (opens, is_held) {
        (true, _) => RequestClass::Handshake,
        (false, true) => RequestClass::Poll,
        (false, false) => RequestClass::Other,
    }
}

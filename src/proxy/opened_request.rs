//! A request that is in the access log, and has no pool yet: its route, its filters, and its replies without a backend.

use std::{net::SocketAddr, sync::Arc};

use arrayvec::ArrayString;
use http::Method;
use moorline_http::{FieldId, RequestHead};

use super::{
    affinity::{self, ArrivalContext, Destination, Routed},
    arrival::{Arrival, Refused, RefusedReply, RequestState, RequestTraits, Stopped},
    class,
    connection::ConnectionInfo,
    cookie::AffinityCookie,
    forwarding::{ForwardedClaims, ForwardingContext, RequestId},
    local_reply::{DeferredReply, ReplySource},
    long_poll,
    mirror::MirrorCopy,
    outgoing::Outgoing,
    reply::{self, OwnReply, ReplyContext},
    revalidate,
    split::{self, OpenShares},
    validate::{self, ValidatedRequest},
    websocket,
};
use crate::{
    error::{ProxyError, Termination},
    gateway::{
        self, FilterFacts, FilteredRequest, Interception, LocalOutcome, LocalReply, PausedRequest,
        RequestClass, ResponseFilters,
    },
    observe::{StreamRecord, StreamStart},
    shared::SharedState,
    snapshot::{PoolSnapshot, RouteAction, RouteTarget, Snapshot},
    sticky::EnginePlace,
    stream_log::StreamScope,
};

/// The client's request for the filters, which change the request itself.
pub(super) struct ArrivalFacts {
    pub(super) method: Method,
    pub(super) target: String,
    /// The longest valid host fits.
    pub(super) host: RequestHost,
    pub(super) upgrade: bool,
    pub(super) class: RequestClass,
    pub(super) place: EnginePlace,
    /// Pool that the request goes to; `None`: the route answers it.
    pub(super) pool: Option<Arc<PoolSnapshot>>,
    pub(super) unread: bool,
}

pub(super) type RequestHost = ArrayString<{ validate::MAX_HOST }>;

/// Why a request has not passed the filters.
pub(super) enum Unpassed<'a> {
    Stopped(Box<Stopped<'a>>),
    Paused(Box<PausedRequest>),
}

impl ArrivalFacts {
    pub(super) fn of(
        proxy: &SharedState,
        request: &RequestHead,
        traits: &RequestTraits,
        rule: &RouteTarget,
        (host, upgrade): (RequestHost, bool),
    ) -> Self {
        let engine = traits.engine.as_ref();
        let pool = match &rule.action {
            RouteAction::Split(split) => {
                Some(&split::choose(split, &proxy.sids, request, engine, OpenShares::draw).0.pool)
            }
            RouteAction::Pool(pool) => Some(pool),
            RouteAction::Answer(_) => None,
        };
        let place = class::place(proxy, (rule, pool), request.path());
        Self {
            method: request.method.clone(),
            target: request.path_and_query().to_owned(),
            host,
            upgrade,
            class: class::of(proxy, (rule, pool), (request, place), engine, upgrade),
            place,
            pool: pool.cloned(),
            unread: request.has_body(),
        }
    }
}

/// The client that sent a request, as the peer of the connection and the forwarding fields of trusted peers describe it.
pub(super) struct RequestSender {
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
    pub(super) fn of(info: &ConnectionInfo, request: &RequestHead, snapshot: &Snapshot) -> Self {
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
pub(super) struct OpenedRequest<'a> {
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    pub(super) scope: StreamScope,
    reply_context: ReplyContext,
}

impl<'a> OpenedRequest<'a> {
    pub(super) fn new(
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
    pub(super) fn find_route<'s, 'r>(
        &mut self,
        snapshot: &'s Snapshot,
        request: &'r RequestHead,
        sender: &RequestSender,
    ) -> Result<(ValidatedRequest<'r>, &'s RouteTarget), Box<Stopped<'a>>> {
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
        Err(Stopped::refused(reply, request.has_body()))
    }

    /// Ends the request with an error reply.
    pub(super) fn refuse(&mut self, request: &RequestHead, error: &ProxyError) -> Box<Stopped<'a>> {
        self.refused(error, request.has_body())
    }

    /// What the filters know about the request.
    pub(super) fn facts<'f>(
        &'f self,
        (traits, sender): (&'f RequestTraits, &'f RequestSender),
        facts: &'f ArrivalFacts,
    ) -> FilterFacts<'f>
    where
        'a: 'f,
    {
        let (path, query) = match facts.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*facts.target, None),
        };
        FilterFacts {
            client: sender.address.ip(),
            secure: sender.secure,
            tls_info: self.info.tls_info.as_deref(),
            host: &facts.host,
            claimed: sender.claims.as_ref().map(|claims| claims.origin()).unwrap_or_default(),
            id: sender.id.as_str(),
            method: facts.method.as_str(),
            path,
            query,
            sid: traits.engine.as_ref().and_then(|engine| engine.sid.as_deref()),
            is_engine: traits.engine.is_some(),
            place: facts.place,
            upgrade: facts.upgrade,
            class: facts.class,
            preview: false,
            pool: facts.pool.as_ref().map_or("", |pool| pool.upstream.name()),
            identity: None,
        }
    }

    /// Runs the filters of the route.
    pub(super) fn filter(
        &mut self,
        request: RequestHead,
        about: (&RequestTraits, &RequestSender),
        facts: &ArrivalFacts,
        rule: &RouteTarget,
    ) -> Result<FilteredRequest, Unpassed<'a>> {
        let Some(filters) = &rule.filters else { return Ok(FilteredRequest::unchanged(request)) };
        if filters.denies_origin(&request) {
            self.reply_context.deny_origin();
        }
        let passed = filters.request(request, &self.facts(about, facts));
        self.passed(passed, facts.unread)
    }

    /// A request that has passed the filters. Any other gets its reply here, or waits.
    pub(super) fn passed(
        &mut self,
        passed: Result<FilteredRequest, Box<Interception>>,
        unread: bool,
    ) -> Result<FilteredRequest, Unpassed<'a>> {
        passed.map_err(|interception| match *interception {
            Interception::Answered(answer) => Unpassed::Stopped(self.answered(answer, unread)),
            Interception::Stored(reply, filters) => {
                Unpassed::Stopped(self.stored(reply, filters, unread))
            }
            Interception::Refused(error) => Unpassed::Stopped(self.refused(&error, unread)),
            Interception::Invalid(invalid) => {
                self.reply_context.describe(invalid.report);
                Unpassed::Stopped(self.refused(&invalid.error, unread))
            }
            Interception::Limited(error, report) => {
                let mut refused = self.refused(&error, unread);
                if let Stopped::Refused(Refused { reply: RefusedReply::Own(reply), .. }) =
                    &mut *refused
                {
                    gateway::describe_limit(report, &mut reply.head.head);
                }
                Unpassed::Stopped(refused)
            }
            Interception::Paused(paused) => Unpassed::Paused(Box::new(paused)),
        })
    }

    /// Returns the pool of the request. Any request that no pool answers gets its reply here.
    pub(super) fn pool_of(
        &mut self,
        passed: FilteredRequest,
        about: (&RequestTraits, &RequestSender),
        facts: &ArrivalFacts,
        rule: &RouteTarget,
    ) -> Result<(FilteredRequest, Arc<PoolSnapshot>), Unpassed<'a>> {
        let answer = match (&rule.action, &facts.pool) {
            (RouteAction::Answer(answer), _) => {
                answer.reply(&passed.request, &self.facts(about, facts))
            }
            (_, Some(pool)) => return Ok((passed, Arc::clone(pool))),
            (RouteAction::Pool(pool), None) => return Ok((passed, Arc::clone(pool))),
            (RouteAction::Split(split), None) => {
                return Ok((passed, Arc::clone(&split.shares[0].pool)));
            }
        };
        Err(Unpassed::Stopped(match answer {
            Ok(LocalOutcome::File(file)) => {
                self.deferred(ReplySource::File(file), passed.response, facts.unread)
            }
            Ok(LocalOutcome::Reply(mut answer)) => {
                if let Some(filters) = &passed.response {
                    filters.apply_local(&mut answer);
                }
                self.answered(answer, facts.unread)
            }
            Err(error) => self.refused(&error, facts.unread),
        }))
    }

    /// Does the rest of the arrival of a request that has passed the filters: finds its destination, and edits its
    /// fields for the backend.
    pub(super) fn arrive(
        self,
        passed: FilteredRequest,
        traits: RequestTraits,
        sender: &RequestSender,
        (host, upgrade): (&str, bool),
        target: (&Arc<PoolSnapshot>, &RouteTarget),
        (hops, forwarded_always): (usize, bool),
    ) -> Arrival<'a> {
        let FilteredRequest { mut request, response, host: other_host, max_body, body } = passed;
        let info = self.info;
        let mut state = self.into_state((&request, traits), sender, (host, upgrade), target);
        state.response = response;
        match &target.1.action {
            RouteAction::Split(split) => {
                if let Some(share) = split.share_of(target.0) {
                    state.use_share(share);
                }
            }
            _ => target.1.timeouts.iter().for_each(|timeouts| state.limit_to(timeouts)),
        }
        let mut destination = state.decide();
        if let (RouteAction::Split(split), Destination::Search(_, others)) =
            (&target.1.action, &mut destination)
        {
            *others = Some(Arc::clone(split));
        }
        if let Some(sid) = state.engine.as_ref().and_then(|engine| engine.sid.as_deref())
            && let Destination::Session(..) = destination
        {
            // A session from before the route had this filter, or one that another proxy has opened.
            state.bind(sid);
        }
        let accept = state.upgrade.then(|| websocket::expected(&request.head));
        let origin = ForwardingContext {
            peer: info.peer,
            trusted: sender.trusted,
            claims: sender.claims.as_deref(),
            hops,
            client: sender.address.ip(),
            forwarded_always,
            tls: info.tls_info.is_some(),
            certificate: info.tls_info.as_ref().and_then(|tls| tls.client.as_ref()),
            host,
            id: sender.id.as_str(),
        };
        state.prepare(&mut request, &origin);
        if let Some(host) = other_host {
            request.head.set(FieldId::Host, host.as_bytes());
        }
        if let Some(filters) = state.response.as_mut().filter(|filters| filters.is_renewal())
            && let Some(ticket) = filters.take_cache()
        {
            revalidate::start(ticket, &request, &state, sender.id.as_str());
        }
        let copy = |target| MirrorCopy::of(target, &request, &state, sender.id.as_str());
        let mirror = target.1.mirror.as_ref().and_then(copy);
        let from = state.connection_origin(sender.id.as_str());
        state.pool.upstream.note_request();
        let scan = state.close_scan();
        let outgoing = Outgoing::new(request, state.upgrade, scan);
        let outgoing = outgoing.limited_to(max_body).copied_to(mirror).changed_by(body);
        Arrival { state, outgoing, destination, from, accept }
    }

    /// Ends the request with a reply that is made without a backend.
    fn answered(&mut self, answer: LocalReply, unread: bool) -> Box<Stopped<'a>> {
        let id = self.scope.record().id().to_owned();
        let reply = RefusedReply::Own(answered(self.scope.take(), reply::local(answer, &id)));
        Stopped::refused(reply, unread)
    }

    /// Ends the request with a stored response.
    fn stored(
        &mut self,
        mut reply: LocalReply,
        filters: Box<ResponseFilters>,
        unread: bool,
    ) -> Box<Stopped<'a>> {
        if reply.is_large() || filters.transforms() {
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
    ) -> Box<Stopped<'a>> {
        let (scope, context) = (self.scope.take(), self.reply_context.take());
        let reply = Box::new(DeferredReply { scope, context, filters, source });
        Stopped::refused(RefusedReply::Deferred(reply), unread)
    }

    /// Ends the request with an error reply.
    pub(super) fn refused(&mut self, error: &ProxyError, unread: bool) -> Box<Stopped<'a>> {
        let reply = reply::refuse(self.scope.take(), error, &self.reply_context);
        Stopped::refused(RefusedReply::Own(reply), unread)
    }

    /// Uses the label and the error pages of a route.
    pub(super) fn use_route(&mut self, rule: &RouteTarget) {
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

//! The filters of a route, in their order.

mod response;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use moorline_http::{BodyLength, FieldId, Head, RequestHead};

pub(crate) use self::response::ResponseFilters;
use super::{
    addresses,
    api::{ApiFilter, InvalidRequest},
    auth::{AuthCheck, AuthFilter, AuthRefusal, AuthState, AuthVerdict, PendingCheck},
    body::ReplyBody,
    cache::{CacheAnswer, CacheStore, CacheWait, LookupTurn, RouteCache},
    compress::Compression,
    cors::{self, CorsGrant},
    fields::{self, RenderedEdits},
    limits::{Admitted, Denied, LimitReport, Limiter, Limiters},
    local::LocalReply,
    origins,
    rewrite::Rewrite,
    transform::{RequestBodyChange, Transform},
    variables::FilterFacts,
};
use crate::{
    auth::Identity,
    config::{
        AddressRules, CompressConfig, CorsConfig, DecompressConfig, FilterConfig, HeaderEdits,
        LimitConfig, MaintenanceConfig, MessagesConfig, OriginPatterns, OriginRules, RewriteConfig,
    },
    error::{FailureKind, Phase, ProxyError, Side},
    sticky::cookie::CookieKeys,
    tunnel::MessageLimits,
};

/// The filters of a route.
#[derive(Debug)]
pub(crate) struct FilterChain {
    filters: Box<[Filter]>,
    /// Maximum size of a request body; `None`: unlimited.
    max_body: Option<u64>,
}

/// One filter. The order of the variants is the order in which they run.
#[derive(Debug)]
enum Filter {
    Addresses(AddressRules),
    Maintenance(MaintenanceConfig),
    Cors(CorsConfig),
    Origins(OriginRules),
    MaxBody(u64),
    Limits(Box<[Arc<Limiter>]>),
    Messages(MessageLimits),
    Auth(Arc<AuthFilter>),
    Api(Arc<ApiFilter>),
    Path(Rewrite),
    Host(Box<str>),
    RequestFields(HeaderEdits),
    ResponseFields(HeaderEdits),
    Compress(CompressConfig),
    Decompress(DecompressConfig),
    Transform(Transform),
    Cache(RouteCache),
}

/// What the filters of a route keep between requests: it lives in the process and survives a reload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilterState<'a> {
    /// Name of the route.
    pub(crate) route: &'a str,
    /// Counters of limits.
    pub(crate) limiters: &'a Limiters,
    /// Stored responses.
    pub(crate) cache: &'a Arc<CacheStore>,
    /// Verifiers, and the identities of sessions.
    pub(crate) auth: &'a AuthState,
    /// Keys of cookies.
    pub(crate) cookie_keys: &'a CookieKeys,
}

/// A request that has passed the filters.
#[derive(Debug)]
pub(crate) struct FilteredRequest {
    /// The request, as the backend gets it.
    pub(crate) request: RequestHead,
    /// What is done with the response.
    pub(crate) response: Option<Box<ResponseFilters>>,
    /// Host for the backend, if it is not the client's.
    pub(crate) host: Option<Box<str>>,
    /// Maximum size of the body; `None`: unlimited.
    pub(crate) max_body: Option<u64>,
    /// What is done with the body.
    pub(crate) body: Option<Box<RequestBodyChange>>,
}

/// Why a request does not reach a backend.
#[derive(Debug)]
pub(crate) enum Interception {
    /// A filter has answered it.
    Answered(LocalReply),
    /// A stored response answers it, after what follows for responses.
    Stored(LocalReply, Box<ResponseFilters>),
    /// A filter has refused it.
    Refused(ProxyError),
    /// A limit has refused it; the report is for the fields of the reply.
    Limited(ProxyError, Option<LimitReport>),
    /// It does not match the API description.
    Invalid(Box<InvalidRequest>),
    /// A filter waits before it can decide.
    Paused(PausedRequest),
}

/// A request that a filter holds while it waits.
pub(crate) struct PausedRequest {
    passed: FilteredRequest,
    /// Index of the filter.
    at: usize,
    pending: PendingStep,
}

/// What a filter waits for.
enum PendingStep {
    /// An identity.
    Auth(PendingCheck),
    /// A stored response.
    Cache(CacheWait),
}

impl fmt::Debug for PausedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PausedRequest").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Why a filter does not pass a request on.
enum FilterStop {
    /// The request ends here.
    Ends(Box<Interception>),
    /// The filter waits.
    Waits(Box<FilteredRequest>, PendingStep),
}

impl From<Box<Interception>> for FilterStop {
    fn from(interception: Box<Interception>) -> Self {
        Self::Ends(interception)
    }
}

impl FilteredRequest {
    /// Creates the result of no filter.
    pub(crate) fn unchanged(request: RequestHead) -> Self {
        Self { request, response: None, host: None, max_body: None, body: None }
    }

    fn identity(&self) -> Option<&Arc<Identity>> {
        self.response.as_ref().and_then(|response| response.identity())
    }
}

impl FilterChain {
    /// Creates the filters that a configuration asks for; `None` if it asks for none.
    pub(crate) fn new(config: &FilterConfig, kept: FilterState<'_>) -> Option<Self> {
        let FilterConfig {
            rewrite: RewriteConfig { path, host },
            addresses,
            origins,
            cors,
            request_headers,
            response_headers,
            max_body,
            maintenance,
            compress,
            decompress,
            transform,
            limits,
            messages,
            auth,
            cache,
            openapi,
        } = config;
        let some = |edits: &HeaderEdits| (!edits.is_empty()).then(|| edits.clone());
        let limits_addresses = !(addresses.allow.is_empty() && addresses.deny.is_empty());
        let limited_by = |wanted: &dyn Fn(&LimitConfig) -> bool| {
            let limits = limits.iter().filter(|limit| wanted(limit));
            let limiters: Box<[_]> = limits.map(|limit| kept.limiters.of(limit)).collect();
            (!limiters.is_empty()).then_some(Filter::Limits(limiters))
        };
        let filters: Vec<Filter> = [
            limits_addresses.then(|| Filter::Addresses(addresses.clone())),
            maintenance.clone().map(Filter::Maintenance),
            cors.clone().map(Filter::Cors),
            origins.clone().map(Filter::Origins),
            max_body.map(Filter::MaxBody),
            limited_by(&|limit| !limit.key.needs_identity()),
            messages.as_ref().map(|messages| Filter::Messages(message_limits(messages))),
            auth.as_ref().map(|auth| {
                let (origins, keys) = (default_origins(config), kept.cookie_keys);
                Filter::Auth(AuthFilter::new(auth, origins, kept.auth, keys))
            }),
            limited_by(&|limit| limit.key.needs_identity()),
            openapi
                .as_ref()
                .map(|config| Filter::Api(ApiFilter::new(config, decompress.is_some()))),
            path.as_ref().and_then(Rewrite::new).map(Filter::Path),
            host.as_deref().map(|host| Filter::Host(host.into())),
            some(request_headers).map(Filter::RequestFields),
            some(response_headers).map(Filter::ResponseFields),
            compress.clone().map(Filter::Compress),
            decompress.map(Filter::Decompress),
            Transform::new(transform).map(Filter::Transform),
            cache.clone().map(|cache| {
                Filter::Cache(RouteCache::new(cache, kept.route, Arc::clone(kept.cache)))
            }),
        ]
        .into_iter()
        .flatten()
        .collect();
        let max_body = *max_body;
        (!filters.is_empty()).then(|| Self { filters: filters.into(), max_body })
    }

    /// Whether the page that sent a request may not read its response.
    pub(crate) fn denies_origin(&self, request: &RequestHead) -> bool {
        self.filters.iter().any(|filter| match filter {
            Filter::Cors(config) => !CorsGrant::of(config, request).is_granted(),
            _ => false,
        })
    }

    /// Whether the route reads the cookies of logins.
    pub(crate) fn reads_logins(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, Filter::Auth(auth) if auth.logs_in()))
    }

    /// Whether [the class](FilterFacts::class) of a request matters.
    pub(crate) fn needs_class(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, Filter::Limits(_)))
    }

    /// Whether [the place](FilterFacts::place) of a request matters.
    pub(crate) fn needs_place(&self) -> bool {
        self.filters.iter().any(|filter| {
            matches!(
                filter,
                Filter::Limits(_)
                    | Filter::Auth(_)
                    | Filter::Api(_)
                    | Filter::Decompress(_)
                    | Filter::Transform(_)
            )
        })
    }

    /// Runs the filters on a request.
    ///
    /// # Errors
    /// A filter has answered or refused it.
    pub(crate) fn request(
        &self,
        request: RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<FilteredRequest, Box<Interception>> {
        let unchanged = FilteredRequest::unchanged(request);
        let mut passed = FilteredRequest { max_body: self.max_body, ..unchanged };
        if facts.is_engine && facts.sid.is_none() && !facts.place.serves && self.needs_place() {
            passed.response.get_or_insert_default().place = Some(facts.place);
        }
        self.run(passed, 0, facts)
    }

    /// Runs the remaining filters on a request that was paused. Waits for the filter that has paused it.
    ///
    /// # Errors
    /// A filter has answered or refused it.
    pub(crate) async fn resume(
        &self,
        paused: PausedRequest,
        facts: &FilterFacts<'_>,
    ) -> Result<FilteredRequest, Box<Interception>> {
        let PausedRequest { passed, at, pending } = paused;
        let passed = match (self.filters.get(at), pending) {
            (Some(Filter::Auth(auth)), PendingStep::Auth(check)) => {
                admit(auth, passed, check.await)?
            }
            (Some(Filter::Cache(cache)), PendingStep::Cache(wait)) => {
                look_up_again(cache, passed, facts, wait).await?
            }
            _ => passed,
        };
        self.run(passed, at + 1, facts)
    }

    /// Runs the filters from this one on.
    fn run(
        &self,
        mut passed: FilteredRequest,
        from: usize,
        facts: &FilterFacts<'_>,
    ) -> Result<FilteredRequest, Box<Interception>> {
        for (at, filter) in self.filters.iter().enumerate().skip(from) {
            passed = match filter.request(passed, facts) {
                Ok(passed) => passed,
                Err(FilterStop::Ends(interception)) => return Err(interception),
                Err(FilterStop::Waits(passed, pending)) => {
                    let paused = PausedRequest { passed: *passed, at, pending };
                    return Err(Box::new(Interception::Paused(paused)));
                }
            };
        }
        Ok(passed)
    }
}

/// Passes a request on with its identity.
fn admit(
    auth: &AuthFilter,
    mut passed: FilteredRequest,
    verdict: AuthVerdict,
) -> Result<FilteredRequest, Box<Interception>> {
    let admission = verdict.map_err(|refusal| match *refusal {
        AuthRefusal::Failed(error) => refused(error),
        AuthRefusal::Answered(mut reply) => {
            if let Some(response) = &passed.response {
                response.apply_local(&mut reply);
            }
            Box::new(Interception::Answered(reply))
        }
    })?;
    auth.copy_fields(admission.grant.as_deref(), &mut passed.request);
    if let Some(grant) = admission.grant {
        passed.response.get_or_insert_default().grant = Some(grant);
    }
    if let Some(identity) = admission.identity {
        auth.strip(&identity, &mut passed.request);
        passed.response.get_or_insert_default().identity = Some(identity);
    }
    Ok(passed)
}

/// Looks up a request that has to wait: for the disk, then perhaps for the response to another request.
async fn look_up_again(
    cache: &RouteCache,
    mut passed: FilteredRequest,
    facts: &FilterFacts<'_>,
    mut wait: CacheWait,
) -> Result<FilteredRequest, Box<Interception>> {
    loop {
        match look_up(cache, passed, facts, &wait.over().await) {
            Ok(passed) => return Ok(passed),
            Err(FilterStop::Ends(interception)) => return Err(interception),
            Err(FilterStop::Waits(waiting, PendingStep::Cache(next))) => {
                (passed, wait) = (*waiting, next);
            }
            Err(FilterStop::Waits(passed, _)) => return Ok(*passed),
        }
    }
}

/// Looks a request up among stored responses.
fn look_up(
    cache: &RouteCache,
    passed: FilteredRequest,
    facts: &FilterFacts<'_>,
    turn: &LookupTurn,
) -> Result<FilteredRequest, FilterStop> {
    let FilteredRequest { mut request, response, host, max_body, body } = passed;
    let mut response = response.unwrap_or_default();
    let pending = match cache.look_up(&mut request, facts, turn) {
        CacheAnswer::Stored(reply) => {
            return Err(Box::new(Interception::Stored(reply, response)).into());
        }
        CacheAnswer::Forward(mut ticket) => {
            if response.is_authenticated() {
                ticket.authenticated();
            }
            response.cache = Some(ticket);
            None
        }
        CacheAnswer::Renew(reply, mut ticket) => {
            if response.is_authenticated() {
                ticket.authenticated();
            }
            let LocalReply { head, body } = reply;
            // Stored bodies are in memory.
            let body = if let ReplyBody::Bytes(body) = body { body } else { Bytes::new() };
            (response.cache, response.stale) = (Some(ticket), Some(Box::new((head, body))));
            None
        }
        CacheAnswer::Wait(wait) => Some(PendingStep::Cache(wait)),
        CacheAnswer::Pass => None,
    };
    let passed = FilteredRequest { request, response: Some(response), host, max_body, body };
    match pending {
        Some(pending) => Err(FilterStop::Waits(Box::new(passed), pending)),
        None => Ok(passed),
    }
}

impl Filter {
    fn request(
        &self,
        mut passed: FilteredRequest,
        facts: &FilterFacts<'_>,
    ) -> Result<FilteredRequest, FilterStop> {
        match self {
            Self::Addresses(rules) if !addresses::may_use(rules, facts.client) => {
                let kind = FailureKind::Forbidden;
                return Err(refused(ProxyError::new(Side::Proxy, Phase::Select, kind)).into());
            }
            Self::Addresses(_) => {}
            Self::Maintenance(closed) if !addresses::contains(&closed.except, facts.client) => {
                let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Maintenance);
                return Err(refused(error.with_retry_after(closed.retry_after)).into());
            }
            Self::Maintenance(_) => {}
            Self::Cors(config) => {
                if let Some(answer) = cors::preflight(config, &passed.request) {
                    return Err(Box::new(Interception::Answered(answer)).into());
                }
                passed.response.get_or_insert_default().cors =
                    Some(CorsGrant::of(config, &passed.request));
            }
            Self::Origins(rules) => {
                if let Some(origin) = origins::refused(rules, &passed.request, facts) {
                    let kind = FailureKind::OriginDenied;
                    let error = ProxyError::new(Side::Proxy, Phase::Select, kind);
                    let reason = format!("the origin {origin} is not in `origins` of the route");
                    return Err(refused(error.with_source(reason)).into());
                }
            }
            Self::MaxBody(most) => {
                if let BodyLength::Exactly(length) = passed.request.length()
                    && length > *most
                {
                    let (side, kind) = (Side::Client, FailureKind::BodyTooLarge);
                    let error = ProxyError::new(side, Phase::RequestBody, kind);
                    return Err(refused(error).into());
                }
            }
            Self::Limits(limiters) => {
                // The limits of identities follow authentication.
                let identity = passed.identity().cloned();
                let facts = FilterFacts { identity: identity.as_deref(), ..*facts };
                for limiter in limiters {
                    let Admitted { report, slot } =
                        limiter.admit(&passed.request, &facts).map_err(limited)?;
                    if report.is_some() || slot.is_some() {
                        let response = passed.response.get_or_insert_default();
                        response.limits.extend(report);
                        response.slots.extend(slot);
                    }
                }
            }
            Self::Messages(limits) => {
                if facts.upgrade {
                    passed.response.get_or_insert_default().messages = Some(*limits);
                }
            }
            Self::Auth(auth) => match auth.check(&passed.request, facts) {
                AuthCheck::Done(verdict) => passed = admit(auth, passed, verdict)?,
                AuthCheck::Waits(check) => {
                    return Err(FilterStop::Waits(Box::new(passed), PendingStep::Auth(check)));
                }
            },
            Self::Api(api) => {
                let check = api.check(&passed.request, facts);
                let check = check.map_err(|invalid| Box::new(Interception::Invalid(invalid)))?;
                passed.body = check.map(RequestBodyChange::checked);
            }
            Self::Path(rewrite) => {
                let request = rewrite.apply(passed.request).map_err(|fault| {
                    let error = ProxyError::bad_request("The path cannot be rewritten.");
                    refused(error.with_source(fault.sentence()))
                })?;
                passed = FilteredRequest { request, ..passed };
            }
            Self::Host(host) => passed.host = Some(host.clone()),
            Self::RequestFields(edits) => {
                // Otherwise, a client could remove the fields again, by naming them in `Connection`.
                passed.request.strip_hop_by_hop(&[FieldId::XMoorlineHops]);
                let identity = passed.response.as_ref().and_then(|response| response.identity());
                let facts = FilterFacts { identity: identity.map(|known| &**known), ..*facts };
                fields::edit(edits, &mut passed.request.head, &facts);
            }
            Self::ResponseFields(edits) => {
                let identity = passed.identity().map(|known| &**known);
                let edits = RenderedEdits::of(edits, &FilterFacts { identity, ..*facts });
                passed.response.get_or_insert_default().edits = Some(edits);
            }
            // Compression only improves. What protects depends on what the client cannot choose: the place, and whether the
            // backend switches protocols.
            Self::Compress(_) if facts.is_engine || facts.upgrade => {}
            Self::Decompress(_) | Self::Transform(_) if facts.reaches_engine() => {}
            Self::Compress(config) => {
                let compression = Compression::of(config, &passed.request);
                passed.response.get_or_insert_default().compression = Some(compression);
            }
            Self::Decompress(limits) => {
                let FilteredRequest { request, body, .. } = &mut passed;
                RequestBodyChange::decode(body, *limits, request).map_err(refused)?;
            }
            Self::Transform(transform) => {
                let FilteredRequest { request, body, .. } = &mut passed;
                transform.request(request, facts, body).map_err(refused)?;
                let transform = transform.response(request, facts);
                passed.response.get_or_insert_default().transform = Some(Box::new(transform));
            }
            Self::Cache(cache) => passed = look_up(cache, passed, facts, &LookupTurn::First)?,
        }
        Ok(passed)
    }
}

/// Pages that may use the credentials that a browser adds by itself, unless the route lists them: the pages of this
/// host, and those that may read its responses with credentials.
fn default_origins(config: &FilterConfig) -> Option<OriginRules> {
    let with_credentials = config.cors.as_ref().filter(|cors| cors.credentials);
    let listed = with_credentials.map(|cors| cors.origins.clone());
    let listed = listed.unwrap_or(OriginPatterns::Listed(Vec::new()));
    config.origins.is_none().then_some(OriginRules { same_host: true, listed })
}

fn refused(error: ProxyError) -> Box<Interception> {
    Box::new(Interception::Refused(error))
}

fn message_limits(config: &MessagesConfig) -> MessageLimits {
    let MessagesConfig { max_size, rate, burst, patience } = *config;
    MessageLimits { max_size, rate: rate.map(|rate| (rate.interval(), burst)), patience }
}

fn limited(denied: Denied) -> Box<Interception> {
    Box::new(Interception::Limited(denied.error, denied.report))
}

/// Writes the fields of a reply to a request that a limit has refused.
pub(crate) fn describe_limit(report: Option<LimitReport>, head: &mut Head) {
    LimitReport::write(report.as_slice(), head);
    LimitReport::expose(head);
}

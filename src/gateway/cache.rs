//! Stored responses of a route (RFC 9111).
//!
//! A request for a stored response gets it without a backend. Others go to the backend with a [`CacheTicket`], which
//! decides what happens with the response: it is stored while it is delivered, it renews a stored one, or it removes
//! stored ones because the request has changed the resource.
//!
//! Invariants:
//!
//! - Stored is what the backend sent, before any other filter changes it. Keys are the route, the pool, the scheme, the
//!   host, the origin that a trusted peer names and the target for the backend; whatever else selects a response is named by `Vary`.
//! - Never stored: responses to upgrades and requests of Engine.IO, to methods other than GET, to ranges, with
//!   `Set-Cookie` or for one user, event streams, and bodies that did not arrive whole.
//! - A cache only improves: if it cannot decide, the request goes to the backend.
//! - Of several requests for one response that is not stored, or stale, one goes to the backend. The others wait once, and
//!   for a limited time; while a stale response is renewed, they get the stale one if it allows that.
//!
//! This module must not know connections, backends or sessions.

mod conditions;
mod directives;
mod disk;
mod flight;
mod metrics;
mod policy;
mod range;
mod removals;
mod status;
mod store;
mod stored;
mod ticket;
mod vary;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Method;
use moorline_http::RequestHead;
use tokio::{sync::watch, time::timeout};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::{
    directives::RequestDirectives,
    disk::LoadedFile,
    flight::Turn,
    policy::StoredReuse,
    status::{CacheOutcome, ForwardReason},
    store::CacheKey,
    stored::StoredResponse,
};
pub(crate) use self::{
    metrics::CacheMetrics,
    store::{CacheStore, PurgeTarget},
    ticket::{BodyCopy, CacheTicket, ResponseStep},
};
use super::{local::LocalReply, variables::FilterFacts};
use crate::config::CacheConfig;

/// Longest time for which a request waits for the response to another one.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Longest time for which a request waits for the disk.
const LONGEST_LOAD: Duration = Duration::from_secs(1);

/// The cache of a route.
#[derive(Debug)]
pub(crate) struct RouteCache {
    config: Arc<CacheConfig>,
    /// Separates the responses of routes.
    scope: u64,
    store: Arc<CacheStore>,
}

/// What a request waits for.
#[derive(Debug)]
pub(crate) struct CacheWait(WaitedFor);

#[derive(Debug)]
enum WaitedFor {
    /// The response to another request.
    Response(watch::Receiver<()>),
    /// A response on disk.
    Disk(watch::Receiver<LoadedFile>),
}

/// How often a request was looked up.
#[derive(Debug)]
pub(crate) enum LookupTurn {
    /// This is the first time.
    First,
    /// It has waited for the response to another request.
    AfterWait,
    /// It has waited for the disk, which has this response.
    AfterLoad(LoadedResponse),
}

/// A response that the disk may have had.
#[derive(Debug)]
pub(crate) struct LoadedResponse(LoadedFile);

/// What the cache says to a request.
#[derive(Debug)]
pub(crate) enum CacheAnswer {
    /// This is the reply.
    Stored(LocalReply),
    /// This stale response is the reply. The request still goes to the backend, to renew it.
    Renew(LocalReply, Box<CacheTicket>),
    /// The request goes to the backend.
    Forward(Box<CacheTicket>),
    /// The request waits, and is looked up again.
    Wait(CacheWait),
    /// The cache has nothing to do with the request.
    Pass,
}

impl LookupTurn {
    /// The response from the disk, if the request selects it.
    fn loaded(&self, request: &RequestHead) -> Option<Arc<StoredResponse>> {
        let Self::AfterLoad(LoadedResponse(loaded)) = self else { return None };
        loaded.clone().filter(|loaded| loaded.selecting.match_request(&request.head))
    }
}

impl CacheWait {
    /// Waits, for a limited time.
    pub(crate) async fn over(self) -> LookupTurn {
        match self.0 {
            WaitedFor::Response(mut receiver) => {
                // The channel closes when the response is there, or will not come.
                _ = timeout(LONGEST_WAIT, receiver.changed()).await;
                LookupTurn::AfterWait
            }
            WaitedFor::Disk(mut receiver) => {
                _ = timeout(LONGEST_LOAD, receiver.changed()).await;
                LookupTurn::AfterLoad(LoadedResponse(receiver.borrow().clone()))
            }
        }
    }
}

impl RouteCache {
    /// Creates the cache of a route.
    pub(crate) fn new(config: CacheConfig, scope: &str, store: Arc<CacheStore>) -> Self {
        // Another configuration may store other responses.
        let scope = xxh3_64(format!("{scope} {config:?}").as_bytes());
        Self { config: Arc::new(config), scope, store }
    }

    /// Looks a request up. `request` is as the backend gets it; a validation changes its conditions.
    pub(crate) fn look_up(
        &self,
        request: &mut RequestHead,
        facts: &FilterFacts<'_>,
        turn: &LookupTurn,
    ) -> CacheAnswer {
        if facts.upgrade || facts.is_engine {
            return CacheAnswer::Pass;
        }
        let key = CacheKey::new(self.scope_of(facts), url(facts, request.path_and_query()));
        let is_read = matches!(request.method, Method::GET | Method::HEAD) && !request.has_body();
        if !is_read && facts.preview {
            return CacheAnswer::Pass;
        }
        if !is_read {
            let safe = matches!(request.method, Method::OPTIONS | Method::TRACE);
            return match safe {
                true => CacheAnswer::Pass,
                false => self.forward(key, ForwardReason::Method, request, None),
            };
        }
        let directives = match self.config.client_directives {
            true => RequestDirectives::of(&request.head),
            false => RequestDirectives::default(),
        };
        if directives.no_store {
            return CacheAnswer::Pass;
        }
        let now = SystemTime::now();
        let waits = !matches!(turn, LookupTurn::AfterWait);
        let (stored, has_others) = self.store.find(&key, &request.head);
        // Memory may have no room for it.
        let stored = stored.or_else(|| turn.loaded(request));
        let Some(stored) = stored else {
            if facts.preview {
                return CacheAnswer::Pass;
            }
            if matches!(turn, LookupTurn::First)
                && let Some(receiver) = self.store.load(&key, &request.head)
            {
                return CacheAnswer::Wait(CacheWait(WaitedFor::Disk(receiver)));
            }
            let reason = if has_others { ForwardReason::VaryMiss } else { ForwardReason::UriMiss };
            return self.miss(key, reason, request, &directives, waits);
        };
        match stored.freshness.reuse(&directives, now) {
            StoredReuse::Fresh => {
                let mut reply = stored.reply(stored.asked(request), now);
                CacheOutcome::hit(stored.freshness.remaining(now)).write(reply.fields());
                if !facts.preview {
                    self.store.metrics().hits.inc();
                }
                CacheAnswer::Stored(reply)
            }
            _ if facts.preview => CacheAnswer::Pass,
            _ if directives.only_if_cached => self.refuse(),
            reuse => {
                let reason =
                    if directives.no_cache { ForwardReason::Request } else { ForwardReason::Stale };
                // A client that requires a new response gets one, even if another request fetches it.
                let joins = reason == ForwardReason::Stale && policy::is_cacheable_request(request);
                let guard = match joins.then(|| self.store.join(&key)) {
                    Some(Turn::Waits(_)) if reuse == StoredReuse::WhileRevalidating => {
                        self.store.metrics().stale.inc();
                        return CacheAnswer::Stored(stale_reply(&stored, request, now));
                    }
                    Some(Turn::Waits(receiver)) if waits => return self.wait(receiver),
                    Some(Turn::Leads(guard)) => Some(guard),
                    _ => None,
                };
                let asked = stored.asked(request);
                let stale = (guard.is_some() && reuse == StoredReuse::WhileRevalidating)
                    .then(|| stale_reply(&stored, request, now));
                let mut ticket = self.ticket(key, reason, request, guard);
                // A HEAD request cannot be answered with a 304 that has no body to go with.
                if request.method == Method::GET {
                    stored.make_conditional(request);
                }
                ticket.validate(stored, asked);
                match stale {
                    Some(reply) => {
                        ticket.renews_behind_reply();
                        CacheAnswer::Renew(reply, Box::new(ticket))
                    }
                    None => CacheAnswer::Forward(Box::new(ticket)),
                }
            }
        }
    }

    /// Separates what backends may answer differently for one URL: the pools of a split, and the origins
    /// that trusted peers name, of which backends make absolute URLs.
    fn scope_of(&self, facts: &FilterFacts<'_>) -> u64 {
        let scope = xxh3_64_with_seed(facts.pool.as_bytes(), self.scope);
        match facts.claimed.digest() {
            Some(digest) => xxh3_64_with_seed(digest.as_ref(), scope),
            None => scope,
        }
    }

    /// No stored response: the first request goes to the backend, others wait for it.
    fn miss(
        &self,
        key: CacheKey,
        reason: ForwardReason,
        request: &RequestHead,
        directives: &RequestDirectives,
        waits: bool,
    ) -> CacheAnswer {
        if directives.only_if_cached {
            return self.refuse();
        }
        if !policy::fills(request) || self.store.is_unstorable(&key) {
            return self.forward(key, reason, request, None);
        }
        match self.store.join(&key) {
            Turn::Leads(guard) => self.forward(key, reason, request, Some(guard)),
            Turn::Waits(receiver) if waits => self.wait(receiver),
            Turn::Waits(_) => self.forward(key, reason, request, None),
        }
    }

    /// The client accepts only a stored response, and there is none.
    fn refuse(&self) -> CacheAnswer {
        self.store.metrics().misses.inc();
        CacheAnswer::Stored(status::not_stored())
    }

    fn wait(&self, receiver: watch::Receiver<()>) -> CacheAnswer {
        self.store.metrics().waits.inc();
        CacheAnswer::Wait(CacheWait(WaitedFor::Response(receiver)))
    }

    fn forward(
        &self,
        key: CacheKey,
        reason: ForwardReason,
        request: &RequestHead,
        guard: Option<flight::FlightGuard>,
    ) -> CacheAnswer {
        CacheAnswer::Forward(Box::new(self.ticket(key, reason, request, guard)))
    }

    fn ticket(
        &self,
        key: CacheKey,
        reason: ForwardReason,
        request: &RequestHead,
        guard: Option<flight::FlightGuard>,
    ) -> CacheTicket {
        let (store, config) = (Arc::clone(&self.store), Arc::clone(&self.config));
        CacheTicket::new((store, config), (key, reason), request, guard)
    }
}

/// The reply with a stale response while another request renews it.
fn stale_reply(stored: &StoredResponse, request: &RequestHead, now: SystemTime) -> LocalReply {
    let mut reply = stored.reply(stored.asked(request), now);
    CacheOutcome::stale_hit(stored.freshness.stale_for(now)).write(reply.fields());
    reply
}

/// The URL of a request: the scheme and the host as the client sees them, and the target for the backend.
fn url(facts: &FilterFacts<'_>, target: &str) -> String {
    let scheme = if facts.secure { "https://" } else { "http://" };
    let mut url = String::with_capacity(scheme.len() + facts.host.len() + target.len());
    url.push_str(scheme);
    url.push_str(facts.host);
    url.make_ascii_lowercase();
    url.push_str(target);
    url
}

//! What the cache does with the response to a request that went to the backend.

use std::{sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use moorline_http::{BodyLength, FieldId, RequestHead, ResponseHead};
use prometheus_client::metrics::counter::Counter;

use super::{
    flight::FlightGuard,
    metrics::CacheMetrics,
    policy::{CacheExchange, is_cacheable_request},
    removals::StoreMoment,
    status::{CacheOutcome, ForwardReason},
    store::{CacheKey, CacheStore},
    stored::{AskedPart, StoredResponse},
};
use crate::{config::CacheConfig, gateway::LocalReply};

/// A request that went to the backend, for the cache.
#[derive(Debug)]
pub(crate) struct CacheTicket {
    store: Arc<CacheStore>,
    config: Arc<CacheConfig>,
    key: CacheKey,
    reason: ForwardReason,
    /// The request, as the backend gets it without what the proxy adds.
    request: RequestHead,
    /// The stored response that is validated, and what the client wants of it.
    validated: Option<(Arc<StoredResponse>, AskedPart)>,
    sent: SystemTime,
    since: StoreMoment,
    /// Others wait until it is dropped.
    guard: Option<FlightGuard>,
    /// The client has its reply.
    behind_reply: bool,
}

/// What happens with a response.
#[derive(Debug)]
pub(crate) enum ResponseStep {
    /// It is delivered.
    Deliver,
    /// It is delivered, and its body is copied.
    Copy(Box<BodyCopy>),
    /// The client gets this reply; the rest of the response is not needed.
    Replace(LocalReply),
}

/// The body of a response that is stored when it is whole. Dropping it stores nothing.
#[derive(Debug)]
pub(crate) struct BodyCopy {
    ticket: CacheTicket,
    response: StoredResponse,
    body: BytesMut,
}

impl CacheTicket {
    pub(super) fn new(
        (store, config): (Arc<CacheStore>, Arc<CacheConfig>),
        (key, reason): (CacheKey, ForwardReason),
        request: &RequestHead,
        guard: Option<FlightGuard>,
    ) -> Self {
        let (since, sent, request) = (store.moment(), SystemTime::now(), request.clone());
        let (validated, behind_reply) = (None, false);
        Self { store, config, key, reason, request, validated, sent, since, guard, behind_reply }
    }

    /// The client was authenticated here, perhaps by a cookie: like a request with `Authorization` (RFC 9111 §3.5), it
    /// has a response that is stored only if the response says so.
    pub(in crate::gateway) fn authenticated(&mut self) {
        if !self.request.head.has(FieldId::Authorization) {
            self.request.head.set(FieldId::Authorization, "-");
        }
    }

    /// The client has its reply already.
    pub(super) fn renews_behind_reply(&mut self) {
        self.behind_reply = true;
        self.store.metrics().stale.inc();
        self.store.metrics().renewals.inc();
    }

    /// Counts what the client gets, once.
    fn count(&self, counter: impl FnOnce(&CacheMetrics) -> &Counter) {
        if !self.behind_reply {
            counter(self.store.metrics()).inc();
        }
    }

    /// Lets the response decide about a stored one.
    pub(super) fn validate(&mut self, stored: Arc<StoredResponse>, asked: AskedPart) {
        self.validated = Some((stored, asked));
    }

    /// Decides what happens with a response, whose fields of the connection are removed.
    pub(crate) fn respond(mut self, response: &mut ResponseHead) -> ResponseStep {
        let exchange = CacheExchange { sent: self.sent, received: SystemTime::now() };
        if self.reason == ForwardReason::Method {
            self.invalidate(response);
            CacheOutcome::forwarded(self.reason).write(&mut response.head);
            return ResponseStep::Deliver;
        }
        if let Some((stored, asked)) = self.validated.take() {
            if response.status == StatusCode::NOT_MODIFIED && self.request.method == Method::GET {
                return ResponseStep::Replace(self.renewed(&stored, asked, response, exchange));
            }
            let failed = matches!(response.status.as_u16(), 500 | 502..=504);
            if failed && stored.freshness.may_replace_error(exchange.received) {
                return ResponseStep::Replace(self.stale(
                    &stored,
                    asked,
                    Some(response.status),
                    exchange.received,
                ));
            }
        }
        self.count(|metrics| &metrics.misses);
        let stored = match is_cacheable_request(&self.request) {
            true => StoredResponse::of(&self.config, &self.request, response, exchange),
            false => None,
        };
        let outcome = CacheOutcome::forwarded(self.reason);
        let Some(stored) = stored.filter(|stored| self.fits(stored, response.length())) else {
            if is_cacheable_request(&self.request) && response.status != StatusCode::NOT_MODIFIED {
                self.store.note_unstorable(&self.key);
            }
            outcome.write(&mut response.head);
            return ResponseStep::Deliver;
        };
        outcome.stored(stored.freshness.remaining(exchange.received)).write(&mut response.head);
        let copy = BodyCopy { ticket: self, response: stored, body: BytesMut::new() };
        ResponseStep::Copy(Box::new(copy))
    }

    /// The reply to a request that the backend could not answer, if a stored response may replace the error.
    pub(crate) fn fail(mut self) -> Option<LocalReply> {
        let now = SystemTime::now();
        let validated = self.validated.take();
        match validated.filter(|(stored, _)| stored.freshness.may_replace_error(now)) {
            Some((stored, asked)) => Some(self.stale(&stored, asked, None, now)),
            None => {
                if self.reason != ForwardReason::Method {
                    self.count(|metrics| &metrics.misses);
                }
                None
            }
        }
    }

    fn fits(&self, stored: &StoredResponse, length: BodyLength) -> bool {
        let known = match length {
            BodyLength::Exactly(length) => length,
            BodyLength::Chunked => 0,
            // A body of this kind may be cut off without a sign.
            BodyLength::UntilClose => return false,
        };
        known.saturating_add(stored.size() as u64) <= self.config.max_entry
    }

    /// A 304: the stored response is renewed, and answers the client.
    fn renewed(
        &self,
        stored: &Arc<StoredResponse>,
        asked: AskedPart,
        response: &ResponseHead,
        exchange: CacheExchange,
    ) -> LocalReply {
        self.count(|metrics| &metrics.revalidated);
        let (now, outcome) = (exchange.received, CacheOutcome::forwarded(self.reason));
        let outcome = outcome.with_status(response.status);
        match stored.updated(&self.config, &self.request, response, exchange) {
            Some(updated) => {
                let mut reply = updated.reply(asked, now);
                outcome.stored(updated.freshness.remaining(now)).write(reply.fields());
                self.store.insert(&self.key, updated, self.since);
                reply
            }
            None => {
                self.store.remove(&self.key);
                let mut reply = stored.reply(asked, now);
                outcome.write(reply.fields());
                reply
            }
        }
    }

    fn stale(
        &self,
        stored: &StoredResponse,
        asked: AskedPart,
        status: Option<StatusCode>,
        now: SystemTime,
    ) -> LocalReply {
        self.count(|metrics| &metrics.stale);
        let mut reply = stored.reply(asked, now);
        let outcome = CacheOutcome::stale_hit(stored.freshness.stale_for(now));
        let outcome = status.map_or(outcome, |status| outcome.with_status(status));
        outcome.write(reply.fields());
        reply
    }

    /// Removes what a successful request may have changed (RFC 9111 §4.4).
    fn invalidate(&self, response: &ResponseHead) {
        if !(response.status.is_success() || response.status.is_redirection()) {
            return;
        }
        self.store.remove(&self.key);
        let locations =
            [response.head.get(FieldId::Location), response.head.named("content-location").next()];
        for location in locations.into_iter().flatten() {
            let location = std::str::from_utf8(location).ok();
            if let Some(url) = location.and_then(|to| self.key.resolve(self.request.path(), to)) {
                self.store.remove(&self.key.for_url(url));
            }
        }
    }
}

impl BodyCopy {
    /// Copies the next bytes of the body; `None`: it is too large, and nothing is stored.
    pub(crate) fn push(mut self: Box<Self>, bytes: &[u8]) -> Option<Box<Self>> {
        let size = self.body.len() + bytes.len() + self.response.size();
        if size as u64 > self.ticket.config.max_entry {
            self.ticket.store.note_unstorable(&self.ticket.key);
            return None;
        }
        self.body.extend_from_slice(bytes);
        Some(self)
    }

    /// Stores the response: its body has ended as announced.
    pub(crate) fn complete(self) {
        let Self { ticket, response, body } = self;
        // The bytes are copied once more, so that a large body does not keep the room that it grew into.
        let body = Bytes::copy_from_slice(&body);
        let stored = response.with_body(body);
        ticket.store.insert(&ticket.key, stored, ticket.since);
        drop(ticket.guard);
    }
}

//! Whether a response may be stored, and whether a stored one may be used (RFC 9111 §3 and §4).
//!
//! Nothing here reads a clock: the caller passes times.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use moorline_http::{FieldId, Head, RequestHead, ResponseHead};

use super::{
    directives::{RequestDirectives, ResponseDirectives, seconds},
    vary,
};
use crate::config::CacheConfig;

/// Longest lifetime that is estimated from `Last-Modified`.
const LONGEST_ESTIMATE: Duration = Duration::from_secs(86_400);

/// Status codes whose meaning this cache knows, for `must-understand`.
const UNDERSTOOD: [u16; 28] = [
    200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 414, 418,
    421, 429, 451, 500, 501, 502, 503, 504, 505,
];

/// Status codes whose lifetime may be estimated (RFC 9110 §15.1).
const ESTIMABLE: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// How long a stored response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// Age when the response arrived.
    pub(super) initial_age: Duration,
    pub(super) received: SystemTime,
    pub(super) lifetime: Duration,
    /// It is validated before each use.
    pub(super) no_cache: bool,
    /// It is never used while it is stale.
    pub(super) must_revalidate: bool,
    /// It is not used while it is stale only because the client accepts that.
    pub(super) is_shared: bool,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
}

/// What may be done with a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredReuse {
    /// It answers the request. Also a stale one that the client accepts.
    Fresh,
    /// It answers the request, and is validated afterwards.
    WhileRevalidating,
    /// It is validated first.
    Validate,
}

/// When a response arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheExchange {
    /// When the request was sent.
    pub(super) sent: SystemTime,
    /// When the head of the response arrived.
    pub(super) received: SystemTime,
}

/// Whether a response to a request could be stored, as far as the request decides.
pub(super) fn is_cacheable_request(request: &RequestHead) -> bool {
    request.method == Method::GET
        && request.head.named("range").next().is_none()
        && !request.has_body()
}

/// Whether the response to a request is expected to fill the cache. With conditions, it may have no body.
pub(super) fn fills(request: &RequestHead) -> bool {
    const CONDITIONS: [&str; 4] =
        ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
    let is_conditional = CONDITIONS.iter().any(|name| request.head.named(name).next().is_some());
    is_cacheable_request(request) && !is_conditional
}

/// How long a response may be used; `None`: it may not be stored.
pub(super) fn freshness(
    config: &CacheConfig,
    request: &RequestHead,
    response: &ResponseHead,
    exchange: CacheExchange,
) -> Option<Freshness> {
    let head = &response.head;
    let directives = ResponseDirectives::of(head);
    let status = response.status.as_u16();
    let is_final = !response.status.is_informational();
    let is_partial =
        matches!(response.status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    let is_private = directives.no_store
        || directives.private
        || head.has(FieldId::SetCookie) && !config.store_cookies
        || request.head.has(FieldId::Authorization) && !directives.public;
    let is_unknown = directives.must_understand && !UNDERSTOOD.contains(&status);
    let is_stream = head.get(FieldId::ContentType).is_some_and(is_event_stream);
    if !is_final || is_partial || is_private || is_unknown || is_stream || !vary::can_select(head) {
        return None;
    }
    let date = only_date(head, "date").unwrap_or(exchange.received);
    let explicit = directives.lifetime.or_else(|| expires_after(head, date));
    let may_estimate = ESTIMABLE.contains(&status) || directives.public;
    let lifetime = explicit
        .or_else(|| may_estimate.then(|| estimate(config, head, date)).flatten())
        .or(config.lifetime.filter(|_| may_estimate));
    let has_validator =
        head.named("etag").next().is_some() || head.named("last-modified").next().is_some();
    let if_error = config.stale_if_error.filter(|_| !directives.is_shared);
    let if_error = directives.stale_if_error.or(if_error).unwrap_or_default();
    let while_revalidate = directives.stale_while_revalidate.unwrap_or_default();
    let usable = lifetime.is_some_and(|lifetime| !lifetime.is_zero())
        || !(if_error.is_zero() && while_revalidate.is_zero());
    if lifetime.is_none() && !(has_validator && may_estimate) || !usable && !has_validator {
        return None;
    }
    Some(Freshness {
        initial_age: initial_age(head, date, exchange),
        received: exchange.received,
        lifetime: lifetime.unwrap_or_default(),
        no_cache: directives.no_cache,
        must_revalidate: directives.must_revalidate,
        is_shared: directives.is_shared,
        while_revalidate,
        if_error,
    })
}

fn is_event_stream(media_type: &[u8]) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    media_type
        .get(..EVENT_STREAM.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
}

/// The lifetime that `Expires` gives. A date that is not valid is in the past.
fn expires_after(head: &Head, date: SystemTime) -> Option<Duration> {
    head.named("expires").next()?;
    let expires = only_date(head, "expires");
    Some(expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default())
}

/// A share of the time since the last change.
fn estimate(config: &CacheConfig, head: &Head, date: SystemTime) -> Option<Duration> {
    let unchanged = date.duration_since(only_date(head, "last-modified")?).ok()?;
    let share = u32::from(config.heuristic);
    (share > 0).then(|| (unchanged * share / 100).min(LONGEST_ESTIMATE))
}

/// The date in a field; `None` if it is missing, not valid or there are several different ones.
pub(super) fn only_date(head: &Head, name: &str) -> Option<SystemTime> {
    let mut values = head.named(name);
    let first = values.next()?;
    if values.any(|other| other != first) {
        return None;
    }
    httpdate::parse_http_date(std::str::from_utf8(first).ok()?).ok()
}

/// The age of a response when it arrived (RFC 9111 §4.2.3). An `Age` that is not one valid number is the largest one.
fn initial_age(head: &Head, date: SystemTime, exchange: CacheExchange) -> Duration {
    let mut ages = head.named("age");
    let sent = match (ages.next(), ages.next()) {
        (None, _) => Duration::ZERO,
        (Some(age), None) => seconds(age).unwrap_or(Duration::MAX),
        (Some(_), Some(_)) => Duration::MAX,
    };
    let delay = exchange.received.duration_since(exchange.sent).unwrap_or_default();
    let apparent = exchange.received.duration_since(date).unwrap_or_default();
    apparent.max(sent.saturating_add(delay))
}

impl Freshness {
    /// The age at a time.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        self.initial_age.saturating_add(now.duration_since(self.received).unwrap_or_default())
    }

    /// Time for which it stays fresh.
    pub(super) fn remaining(&self, now: SystemTime) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// Time for which it has been stale.
    pub(super) fn stale_for(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// Decides what may be done with it for a request.
    pub(super) fn reuse(&self, request: &RequestDirectives, now: SystemTime) -> StoredReuse {
        let age = self.age(now);
        let asks_for_new = request.no_cache || request.max_age.is_some_and(|most| age > most);
        if self.no_cache || asks_for_new {
            return StoredReuse::Validate;
        }
        let needed = age.saturating_add(request.min_fresh.unwrap_or_default());
        if needed < self.lifetime {
            return StoredReuse::Fresh;
        }
        let stale_for = age.saturating_sub(self.lifetime);
        if self.must_revalidate || request.min_fresh.is_some() {
            return StoredReuse::Validate;
        }
        if !self.is_shared && request.max_stale.is_some_and(|most| stale_for <= most) {
            return StoredReuse::Fresh;
        }
        match stale_for < self.while_revalidate {
            true => StoredReuse::WhileRevalidating,
            false => StoredReuse::Validate,
        }
    }

    /// Whether it may answer a request that the backend cannot answer.
    pub(super) fn may_replace_error(&self, now: SystemTime) -> bool {
        let stale_for = self.age(now).saturating_sub(self.lifetime);
        let is_fresh = self.age(now) < self.lifetime;
        !self.no_cache && (is_fresh || !self.must_revalidate && stale_for < self.if_error)
    }

    /// Time from now after which it cannot be used even after a failed validation; it is removed then.
    pub(super) fn kept_for(&self, has_validator: bool, now: SystemTime) -> Duration {
        /// How long a stale response waits for its validation.
        const VALIDATION: Duration = Duration::from_secs(86_400);
        let stale = self.while_revalidate.max(self.if_error);
        let stale = if has_validator { stale.max(VALIDATION) } else { stale };
        let resident = now.duration_since(self.received).unwrap_or_default();
        let kept = self.lifetime.saturating_sub(self.initial_age).saturating_add(stale);
        kept.saturating_sub(resident)
    }
}

#[cfg(test)]
mod tests;

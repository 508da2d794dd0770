//! Limits of requests by client or another key: rate, quota, requests in flight, open tunnels.
//!
//! A [`Limiter`] belongs to the process. The filters of a new configuration use the limiters of equal limits in the
//! current one ([`Limiters`]), so that a reload resets no counter.
//!
//! This filter protects: a request whose key is unknown counts by the address of its client, and a full table of keys
//! forgets those that have used least ([`KeyTable`]).

mod keys;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map::RandomState},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use moorline_http::RequestHead;

pub(crate) use self::report::LimitReport;
use self::report::PolicyState;
use super::variables::{FilterFacts, RequestClass};
use crate::{
    config::{Counted, LimitConfig},
    error::{FailureKind, Phase, ProxyError, Side},
    throttle::{KeyState, KeyTable, Now, TokenBucket},
};

/// The limiters of the process.
#[derive(Debug, Default)]
pub(crate) struct Limiters(Mutex<HashMap<LimitConfig, Weak<Limiter>>>);

impl Limiters {
    /// Returns the limiter of a limit, with its counters if the current configuration has the same limit.
    pub(super) fn of(&self, config: &LimitConfig) -> Arc<Limiter> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, limiter| limiter.strong_count() > 0);
        if let Some(limiter) = known.get(config).and_then(Weak::upgrade) {
            return limiter;
        }
        let limiter = Arc::new(Limiter::new(config.clone()));
        known.insert(config.clone(), Arc::downgrade(&limiter));
        limiter
    }
}

/// A limit, and what counts against it.
#[derive(Debug)]
pub(super) struct Limiter {
    config: LimitConfig,
    bucket: Option<TokenBucket>,
    table: KeyTable,
    /// Makes keys unpredictable: no client can choose one that meets another client's.
    hasher: RandomState,
    start: Instant,
}

/// A request or a tunnel that counts as open until this is dropped.
#[derive(Debug)]
pub(super) struct LimitSlot {
    limiter: Arc<Limiter>,
    key: u64,
    form: SlotForm,
}

/// What a slot counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotForm {
    Request,
    Tunnel,
}

/// A request that is within a limit.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// What is left of the limit, if the response says so.
    pub(super) report: Option<LimitReport>,
    /// Held while the request or its tunnel is open.
    pub(super) slot: Option<LimitSlot>,
}

/// A request that is beyond a limit.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) error: ProxyError,
    /// What is left of the limit, if the response says so.
    pub(super) report: Option<LimitReport>,
}

/// What a request asks a limit for.
#[derive(Clone, Copy, Debug)]
struct Asks {
    /// It counts for rate, quota and requests in flight.
    counts: bool,
    /// It asks for a tunnel.
    tunnel: bool,
}

/// The part of a limit that is used up, and the seconds until it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UsedUp {
    kind: FailureKind,
    wait: u32,
}

impl Limiter {
    fn new(config: LimitConfig) -> Self {
        Self {
            bucket: config.rate.map(|rate| TokenBucket::new(rate, config.burst)),
            table: KeyTable::new(config.max_keys),
            hasher: RandomState::new(),
            start: Instant::now(),
            config,
        }
    }

    /// Counts a request, unless it is beyond the limit. A [preview](FilterFacts::preview) counts nothing.
    ///
    /// # Errors
    /// The request is beyond the limit.
    pub(super) fn admit(
        self: &Arc<Self>,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<Admitted, Denied> {
        let asks = self.asks(facts);
        if !asks.counts && !asks.tunnel {
            return Ok(Admitted::default());
        }
        let key = keys::of(&self.config, &self.hasher, request, facts);
        let now = self.now();
        let (decision, left) = match facts.preview {
            true => self.decide(&mut self.table.peek(key), asks, now),
            false => self.table.with(key, now, |state| self.decide(state, asks, now)),
        };
        match decision {
            Ok(form) => {
                let slot = form.filter(|_| !facts.preview);
                let slot = slot.map(|form| LimitSlot { limiter: Arc::clone(self), key, form });
                Ok(Admitted { report: self.report(left, false), slot })
            }
            Err(UsedUp { kind, wait }) => {
                let error = ProxyError::new(Side::Proxy, Phase::Select, kind);
                let error = error.with_retry_after(wait).with_source(format!(
                    "limit {} by {}",
                    self.config.name,
                    self.config.key.written()
                ));
                Err(Denied { error, report: self.report(left, true) })
            }
        }
    }

    fn asks(&self, facts: &FilterFacts<'_>) -> Asks {
        let counts = match self.config.what {
            Counted::Requests => {
                !matches!(facts.class, RequestClass::Poll | RequestClass::Preflight)
            }
            Counted::Handshakes => facts.class == RequestClass::Handshake,
            Counted::Posts => facts.method == "POST",
            Counted::Polls => facts.class == RequestClass::Poll,
        };
        let LimitConfig { rate, concurrent, tunnels, quota, .. } = &self.config;
        let limits_requests = rate.is_some() || quota.is_some() || concurrent.is_some();
        Asks { counts: counts && limits_requests, tunnel: facts.upgrade && tunnels.is_some() }
    }

    /// Decides about a request by all parts of the limit; only a request within all of them changes the state.
    fn decide(
        &self,
        state: &mut KeyState,
        asks: Asks,
        now: Now,
    ) -> (Result<Option<SlotForm>, UsedUp>, PolicyState) {
        let LimitConfig { concurrent, tunnels, quota, .. } = &self.config;
        let mut next = state.at(now);
        let used_up = |kind, wait| UsedUp { kind, wait };
        let mut form = None;
        let decision = (|| {
            if asks.tunnel && tunnels.is_some_and(|most| next.tunnels >= most) {
                return Err(used_up(FailureKind::TooManyAtOnce, 1));
            }
            if asks.tunnel {
                next.tunnels += 1;
                form = Some(SlotForm::Tunnel);
            }
            if !asks.counts {
                return Ok(());
            }
            if let Some(most) = concurrent.filter(|_| !asks.tunnel) {
                if next.in_flight >= most {
                    return Err(used_up(FailureKind::TooManyAtOnce, 1));
                }
                next.in_flight += 1;
                form = Some(SlotForm::Request);
            }
            if let Some(quota) = quota {
                if next.used >= quota.times {
                    return Err(used_up(FailureKind::QuotaUsed, now.until_window()));
                }
                next.used += 1;
            }
            if let Some(bucket) = &self.bucket
                && let Err(wait) = bucket.take(&mut next.full_at, now.nanos)
            {
                return Err(used_up(FailureKind::RateLimited, wait));
            }
            Ok(())
        })();
        if decision.is_ok() {
            *state = next;
        }
        (decision.map(|()| form), self.state_of(state, now))
    }

    /// What is left of the parts of the limit.
    fn state_of(&self, state: &KeyState, now: Now) -> PolicyState {
        let state = state.at(now);
        PolicyState {
            rate: self.bucket.as_ref().map(|bucket| bucket.left(state.full_at, now.nanos)),
            quota: self
                .config
                .quota
                .map(|quota| (quota.times.saturating_sub(state.used), now.until_window())),
            concurrent: self.config.concurrent.map(|most| most.saturating_sub(state.in_flight)),
        }
    }

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(quota) = self.config.quota else { return Now { nanos, unix: 0, period: 1 } };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Now { nanos, unix, period: quota.period }
    }
}

impl LimitSlot {
    /// Whether this counts a tunnel.
    pub(super) fn is_tunnel(&self) -> bool {
        self.form == SlotForm::Tunnel
    }
}

impl Drop for LimitSlot {
    fn drop(&mut self) {
        let form = self.form;
        self.limiter.table.release(self.key, |state| {
            let open = match form {
                SlotForm::Request => &mut state.in_flight,
                SlotForm::Tunnel => &mut state.tunnels,
            };
            *open = open.saturating_sub(1);
        });
    }
}

//! Retry budget of a pool: retries are limited to a share of its requests, so that a failing pool does
//! not get a multiple of its load.
//!
//! A token bucket: each request adds a fifth of a token, each second adds ten, each retry takes one. A
//! tenth of the tokens expires each second, so that the bucket holds about ten seconds' worth at most:
//! a quiet hour does not allow a burst of retries.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Parts of a token, so that a request's share is a whole number.
const TOKEN: i64 = 5;
/// What one request adds.
const REQUEST: i64 = 1;
/// What one second adds.
const SECOND: i64 = 10 * TOKEN;

/// The retry budget of one pool.
#[derive(Debug)]
pub(super) struct Budget {
    start: Instant,
    parts: AtomicI64,
    /// Whole seconds since `start` that are in `parts`.
    seconds: AtomicU64,
}

impl Budget {
    /// Creates a budget with the tokens of one second.
    pub(super) fn new(start: Instant) -> Self {
        Self { start, parts: AtomicI64::new(SECOND), seconds: AtomicU64::new(0) }
    }

    /// Counts a request.
    pub(super) fn note_request(&self, now: Instant) {
        self.advance(now);
        self.parts.fetch_add(REQUEST, Relaxed);
    }

    /// Takes a token if there is one.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        self.advance(now);
        let take = |parts: i64| (parts >= TOKEN).then(|| parts - TOKEN);
        self.parts.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    fn advance(&self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        let before = self.seconds.load(Relaxed);
        // One caller per second does this.
        if second <= before
            || self.seconds.compare_exchange(before, second, Relaxed, Relaxed).is_err()
        {
            return;
        }
        // After 200 seconds, the value at the start makes no difference.
        let passed = (second - before).min(200);
        let age = |parts| Some((0..passed).fold(parts, |parts, _| parts - parts / 10 + SECOND));
        // Cannot fail: `age` always returns a value.
        let _ = self.parts.fetch_update(Relaxed, Relaxed, age);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Budget;

    fn withdrawals(budget: &Budget, now: Instant) -> usize {
        (0..1_000_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_quiet_pool_may_retry_ten_times_a_second() {
        let start = Instant::now();
        let budget = Budget::new(start);
        assert_eq!(withdrawals(&budget, start), 10);
        assert!(!budget.withdraw(start + Duration::from_millis(999)));
        for second in 1..20 {
            assert_eq!(withdrawals(&budget, start + Duration::from_secs(second)), 10);
        }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let start = Instant::now();
        let budget = Budget::new(start);
        withdrawals(&budget, start);
        for _ in 0..1000 {
            budget.note_request(start);
        }
        assert_eq!(withdrawals(&budget, start), 200);
    }

    #[test]
    fn unused_tokens_are_limited_to_about_ten_seconds() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let hour = start + Duration::from_secs(3600);
        let quiet = withdrawals(&budget, hour);
        assert!((95..=102).contains(&quiet), "{quiet}");

        for second in 0..100 {
            for _ in 0..1000 {
                budget.note_request(hour + Duration::from_secs(second));
            }
        }
        // Ten seconds of 200 + 10; the last second's requests have not expired yet.
        let busy = withdrawals(&budget, hour + Duration::from_secs(99));
        assert!((1900..=2300).contains(&busy), "{busy}");
    }

    #[test]
    fn a_time_before_the_start_counts_as_the_start() {
        let now = Instant::now();
        let budget = Budget::new(now + Duration::from_secs(10));
        assert_eq!(withdrawals(&budget, now), 10);
    }
}

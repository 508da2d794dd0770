//! How many retries a pool may make: a share of its requests, so that a failing pool is not sent a
//! multiple of what it fails at.
//!
//! A bucket of tokens: each request adds a fifth, each second adds ten, each retry takes one. It
//! forgets a tenth of what it holds each second, so that it never holds more than about ten seconds'
//! worth: a quiet hour does not save up for a storm.

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
    /// One second's worth.
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
        // One of several callers per second does the work.
        if second <= before
            || self.seconds.compare_exchange(before, second, Relaxed, Relaxed).is_err()
        {
            return;
        }
        // After so many, the start does not matter any more.
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
    fn what_is_not_used_is_worth_about_ten_seconds() {
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
        // Ten seconds of 200 + 10, and the last second's requests not aged yet.
        let busy = withdrawals(&budget, hour + Duration::from_secs(99));
        assert!((1900..=2300).contains(&busy), "{busy}");
    }

    #[test]
    fn a_clock_before_the_start_is_the_start() {
        let now = Instant::now();
        let budget = Budget::new(now + Duration::from_secs(10));
        assert_eq!(withdrawals(&budget, now), 10);
    }
}

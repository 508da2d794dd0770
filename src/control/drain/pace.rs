//! The pace of closes: evenly spread over the last part of a drain.

use std::time::Duration;

use tokio::time::Instant;

use crate::tunnel::close::ANSWER_TIMEOUT;

/// Shortest and longest step between closes.
const MIN_STEP: Duration = Duration::from_millis(10);
const MAX_STEP: Duration = Duration::from_millis(250);

/// Number of steps in a spread, unless that makes a step too short or too long.
const STEPS: u32 = 64;

/// Spreads closes evenly over a time span.
#[derive(Debug)]
pub(in crate::control) struct ClosePace {
    start: Instant,
    /// Time of the last close. It is before the deadline, so that the client can still answer the Close.
    end: Instant,
    step: Duration,
    /// Time of the last call of [`due`](Self::due).
    last: Instant,
    /// Closes that are due and not done yet; may be a fraction.
    credit: f64,
}

impl ClosePace {
    pub(in crate::control) fn new(deadline: Instant, spread: Duration) -> Self {
        let start = deadline.checked_sub(spread).unwrap_or(deadline);
        let end = deadline.checked_sub((spread / 5).min(ANSWER_TIMEOUT)).unwrap_or(deadline);
        let step = (spread / STEPS).clamp(MIN_STEP, MAX_STEP);
        // A random credit starts the drains of several proxies at different times.
        Self { start, end, step, last: start, credit: fastrand::f64() }
    }

    /// Returns how many tunnels or sessions to close now, of `left` that remain.
    pub(in crate::control) fn due(&mut self, left: usize, now: Instant) -> usize {
        if now < self.start {
            return 0;
        }
        if now >= self.end {
            return left;
        }
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        let ahead = self.end.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        if left > 0 {
            self.credit += left as f64 * elapsed / ahead;
        }
        (self.credit as usize).min(left)
    }

    /// Records how many tunnels or sessions were closed.
    pub(in crate::control) fn record(&mut self, count: usize) {
        self.credit = (self.credit - count as f64).max(0.0);
    }

    /// Returns when to call [`due`](Self::due) again: one step from now, varied at random.
    pub(super) fn next(&self, now: Instant) -> Instant {
        if now < self.start {
            return self.start;
        }
        now + self.step.mul_f64(0.5 + fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a drain; returns the number of closes in each tenth of the spread.
    fn run(left: usize, within: Duration, spread: Duration) -> Vec<usize> {
        let start = Instant::now();
        let deadline = start + within;
        let mut pace = ClosePace::new(deadline, spread);
        let (mut now, mut staying, mut closed) = (start, left, vec![0; 11]);
        while now < deadline {
            let count = pace.due(staying, now);
            assert!(count == 0 || now >= deadline - spread, "too early");
            staying -= count;
            pace.record(count);
            let part = (now + spread).saturating_duration_since(deadline).as_secs_f64();
            closed[(part / spread.as_secs_f64() * 10.0) as usize] += count;
            now = pace.next(now).min(deadline);
        }
        assert_eq!(staying, 0, "empty before the deadline");
        closed
    }

    #[test]
    fn closes_are_spread_evenly_and_end_before_the_deadline() {
        for (within, spread) in [(300, 150), (2_000, 1_000), (3_600_000, 600_000)] {
            let [within, spread] = [within, spread].map(Duration::from_millis);
            let closed = run(8_000, within, spread);
            let most = closed.iter().max().unwrap();
            assert!(*most <= 2_500, "{spread:?}: {closed:?}");
            assert!(closed[..7].iter().all(|&count| count >= 250), "{spread:?}: {closed:?}");
        }
    }

    #[test]
    fn small_number_of_closes_is_spread() {
        let closed = run(4, Duration::from_secs(3_600), Duration::from_secs(1_800));
        assert!(closed.iter().all(|&count| count <= 1), "{closed:?}");
    }

    #[test]
    fn without_spread_nothing_is_closed_before_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut pace = ClosePace::new(deadline, Duration::ZERO);
        assert_eq!(pace.due(5, deadline - Duration::from_millis(1)), 0);
        assert_eq!(pace.due(5, deadline), 5);
    }

    #[test]
    fn late_tunnels_are_closed_at_the_same_pace() {
        let start = Instant::now();
        let mut pace = ClosePace::new(start + Duration::from_secs(10), Duration::from_secs(10));
        let half = start + Duration::from_secs(5);
        assert!(pace.due(0, half) == 0);
        assert!(pace.due(1_000, half + Duration::from_millis(300)) >= 90);
    }
}

//! Since when a backend has not responded, and which failures overlap in time.
//!
//! If a backend is unreachable, many requests fail at the same time. They count as one failure: a failure
//! counts only if its attempt began after the last failure that was counted. Callers pass the time; a time
//! before `start` counts as `start`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Shortest time without a response that is recorded, in tenths of a second.
const GAP: u64 = 10;

/// Nanoseconds of a tenth of a second.
const TENTH: u64 = 100_000_000;

/// When one backend responded. Times are in nanoseconds since `start`.
#[derive(Debug)]
pub(super) struct Responsiveness {
    start: Instant,
    /// When the first attempt without a response began; 0 if the backend has responded since.
    since: AtomicU64,
    /// When the last failure was counted.
    counted: AtomicU64,
    /// When the backend last responded, in tenths of a second since `start`.
    last_response: AtomicU64,
    /// The last period longer than [`GAP`] without a response, in tenths of a second: bits 32–63 its
    /// beginning, bits 0–31 its end.
    gap: AtomicU64,
}

impl Responsiveness {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            since: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            last_response: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    /// Records that an attempt that began at `began` got no response.
    pub(super) fn record_no_response(&self, began: Instant) {
        // Not before the last response: other requests may have succeeded since `began`.
        let last = self.last_response.load(Relaxed).saturating_mul(TENTH);
        let began = self.at(began).max(last).max(1);
        // An error means that an earlier attempt is recorded.
        let _ = self.since.compare_exchange(0, began, Relaxed, Relaxed);
    }

    /// Records that the backend accepts connections again, though it has sent no response.
    pub(super) fn record_connect(&self) {
        if self.since.load(Relaxed) != 0 {
            self.since.store(0, Relaxed);
        }
    }

    /// Records a response. Rarely writes to memory: at most every tenth of a second while the backend
    /// responds.
    pub(super) fn record_response(&self, now: Instant) {
        self.record_connect();
        let now = self.tenths(now);
        if self.last_response.load(Relaxed) >= now {
            return;
        }
        let before = self.last_response.swap(now, Relaxed);
        if now.saturating_sub(before) > GAP {
            self.gap.store(before << 32 | now, Relaxed);
        }
    }

    /// Whether the backend sent no response from `from` until shortly before `to`. False for periods
    /// below one second.
    pub(super) fn was_unresponsive(&self, from: Instant, to: Instant) -> bool {
        let (from, to) = (self.tenths(from), self.tenths(to));
        let gap = self.gap.load(Relaxed);
        let (start, end) = (gap >> 32, gap & u64::from(u32::MAX));
        let still = self.last_response.load(Relaxed) <= from;
        from + GAP <= to && (still || start <= from && end + GAP >= to)
    }

    /// When the first attempt without a response began; `None` if the backend responds.
    pub(super) fn unresponsive_since(&self) -> Option<Instant> {
        match self.since.load(Relaxed) {
            0 => None,
            since => Some(self.start + Duration::from_nanos(since)),
        }
    }

    /// Whether the failure of an attempt that began at `began` counts: it does not overlap with a
    /// counted failure. Of several concurrent callers, one gets `true`.
    pub(super) fn counts(&self, began: Instant, now: Instant) -> bool {
        let (began, now) = (self.at(began), self.at(now));
        let count = |last: u64| (began >= last).then_some(now.max(last));
        self.counted.fetch_update(Relaxed, Relaxed, count).is_ok()
    }

    /// Records a health check: failures of attempts that began before it do not count.
    pub(super) fn record_check(&self, now: Instant) {
        self.counted.fetch_max(self.at(now), Relaxed);
    }

    fn tenths(&self, time: Instant) -> u64 {
        self.at(time) / TENTH
    }

    fn at(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.start).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn unresponsive_since_is_not_before_the_last_response() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        responsiveness.record_response(start + 60 * SECOND);
        responsiveness.record_no_response(start + SECOND);
        assert_eq!(responsiveness.unresponsive_since(), Some(start + 60 * SECOND));
    }

    #[test]
    fn unresponsive_from_the_first_attempt_without_response_until_the_next_response() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        assert_eq!(responsiveness.unresponsive_since(), None);
        responsiveness.record_no_response(start + SECOND);
        responsiveness.record_no_response(start + 3 * SECOND);
        assert_eq!(responsiveness.unresponsive_since(), Some(start + SECOND));
        responsiveness.record_response(start + 4 * SECOND);
        assert_eq!(responsiveness.unresponsive_since(), None);
    }

    #[test]
    fn an_unresponsive_period_is_known_after_it_has_ended() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        let at = |seconds: u32| start + seconds * SECOND;
        responsiveness.record_response(at(10));
        assert!(responsiveness.was_unresponsive(at(11), at(15)), "it has not responded yet");
        assert!(!responsiveness.was_unresponsive(at(9), at(15)), "it responded in between");
        assert!(!responsiveness.was_unresponsive(at(11), at(11)), "an empty period does not count");
        responsiveness.record_response(at(20));
        responsiveness.record_response(start + 20 * SECOND + SECOND / 5);
        assert!(
            responsiveness.was_unresponsive(at(11), at(20))
                && responsiveness.was_unresponsive(at(15), at(21))
        );
        assert!(!responsiveness.was_unresponsive(at(11), at(25)), "it responded long before");
        assert!(!responsiveness.was_unresponsive(at(5), at(20)), "it responded in between");
    }

    #[test]
    fn failures_that_overlap_count_once() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        let counts = |began: u32, ended: u32| {
            responsiveness.counts(start + began * SECOND, start + ended * SECOND)
        };
        assert!(counts(0, 2));
        assert!(!counts(0, 2) && !counts(1, 3), "these overlap with the first failure");
        assert!(counts(2, 4), "this attempt began after the first failure");
        responsiveness.record_check(start + 6 * SECOND);
        assert!(!counts(5, 7) && counts(6, 8));
    }
}

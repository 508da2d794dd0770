//! Since when nothing has been heard of a backend, and which failures overlap in time.
//!
//! A backend that is out of reach fails many requests at the same moment. They are one finding about
//! the backend, not many: a failure counts only if its attempt began after the last failure that was
//! counted. Time is passed in; a moment before `start` counts as `start`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Tenths of a second without a word that are remembered.
const GAP: u64 = 10;

/// Nanoseconds of a tenth of a second.
const TENTH: u64 = 100_000_000;

/// What one backend did not say. Times are nanoseconds since `start`.
#[derive(Debug)]
pub(super) struct Responsiveness {
    start: Instant,
    /// When the first unanswered attempt began; 0: the backend was heard since.
    since: AtomicU64,
    /// When the last failure was counted.
    counted: AtomicU64,
    /// When it was last heard, in tenths of a second since `start`.
    heard: AtomicU64,
    /// The last time of more than [`GAP`] in which it was not heard: bits 32 on its beginning, below its end,
    /// in tenths of a second.
    gap: AtomicU64,
}

impl Responsiveness {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            since: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    /// An attempt that began at `began` got no answer.
    pub(super) fn begins(&self, began: Instant) {
        // It cannot have begun before the backend was last heard.
        let heard = self.heard.load(Relaxed).saturating_mul(TENTH);
        let began = self.at(began).max(heard).max(1);
        // An error means that the backend has been silent for longer.
        let _ = self.since.compare_exchange(0, began, Relaxed, Relaxed);
    }

    /// The backend can be reached again, though nothing was heard of it.
    pub(super) fn reached(&self) {
        if self.since.load(Relaxed) != 0 {
            self.since.store(0, Relaxed);
        }
    }

    /// The backend was heard. Writes little: once in a tenth of a second, while it is not silent.
    pub(super) fn ends(&self, now: Instant) {
        self.reached();
        let now = self.tenths(now);
        if self.heard.load(Relaxed) >= now {
            return;
        }
        let before = self.heard.swap(now, Relaxed);
        if now.saturating_sub(before) > GAP {
            self.gap.store(before << 32 | now, Relaxed);
        }
    }

    /// Whether the backend was silent from `from` until shortly before `to`. False for less than a second.
    pub(super) fn lasted(&self, from: Instant, to: Instant) -> bool {
        let (from, to) = (self.tenths(from), self.tenths(to));
        let gap = self.gap.load(Relaxed);
        let (start, end) = (gap >> 32, gap & u64::from(u32::MAX));
        let is_silent = self.heard.load(Relaxed) <= from;
        from + GAP <= to && (is_silent || start <= from && end + GAP >= to)
    }

    /// When the responsiveness began; `None`: there is none.
    pub(super) fn since(&self) -> Option<Instant> {
        match self.since.load(Relaxed) {
            0 => None,
            since => Some(self.start + Duration::from_nanos(since)),
        }
    }

    /// Whether the failure of an attempt that began at `began` counts: it does not overlap with a
    /// failure that was counted before. One of several threads is told so.
    pub(super) fn counts(&self, began: Instant, now: Instant) -> bool {
        let (began, now) = (self.at(began), self.at(now));
        let count = |last: u64| (began >= last).then_some(now.max(last));
        self.counted.fetch_update(Relaxed, Relaxed, count).is_ok()
    }

    /// A health check has come to a verdict: failures of attempts that began before it are old.
    pub(super) fn checked(&self, now: Instant) {
        self.counted.fetch_max(self.at(now), Relaxed);
    }

    fn tenths(&self, moment: Instant) -> u64 {
        self.at(moment) / TENTH
    }

    fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_begins_no_earlier_than_the_backend_was_last_heard() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        responsiveness.ends(start + 60 * SECOND);
        responsiveness.begins(start + SECOND);
        assert_eq!(responsiveness.since(), Some(start + 60 * SECOND));
    }

    #[test]
    fn silence_lasts_from_the_first_unanswered_attempt_until_the_backend_is_heard() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        assert_eq!(responsiveness.since(), None);
        responsiveness.begins(start + SECOND);
        responsiveness.begins(start + 3 * SECOND);
        assert_eq!(responsiveness.since(), Some(start + SECOND));
        responsiveness.ends(start + 4 * SECOND);
        assert_eq!(responsiveness.since(), None);
    }

    #[test]
    fn a_silence_is_remembered_when_it_is_over() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        let at = |seconds: u32| start + seconds * SECOND;
        responsiveness.ends(at(10));
        assert!(responsiveness.lasted(at(11), at(15)), "it lasts still");
        assert!(!responsiveness.lasted(at(9), at(15)), "it was heard meanwhile");
        assert!(!responsiveness.lasted(at(11), at(11)), "that is no time");
        responsiveness.ends(at(20));
        responsiveness.ends(start + 20 * SECOND + SECOND / 5);
        assert!(responsiveness.lasted(at(11), at(20)) && responsiveness.lasted(at(15), at(21)));
        assert!(!responsiveness.lasted(at(11), at(25)), "it was heard long before");
        assert!(!responsiveness.lasted(at(5), at(20)), "it was heard meanwhile");
    }

    #[test]
    fn failures_that_overlap_count_once() {
        let start = Instant::now();
        let responsiveness = Responsiveness::new(start);
        let counts = |began: u32, ended: u32| {
            responsiveness.counts(start + began * SECOND, start + ended * SECOND)
        };
        assert!(counts(0, 2));
        assert!(!counts(0, 2) && !counts(1, 3), "they overlap with the first");
        assert!(counts(2, 4), "it began when the first had ended");
        responsiveness.checked(start + 6 * SECOND);
        assert!(!counts(5, 7) && counts(6, 8));
    }
}

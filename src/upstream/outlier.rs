//! Outlier detection: finds backends that fail under traffic.
//!
//! Two things are counted: failures in a row, and the share of failed requests within a rolling interval.
//! Counting takes no lock and allocates nothing. The caller decides what counts as a failure;
//! [`recovery`](super::recovery) ejects the backend.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::config;

/// Parts of the interval. The oldest part is dropped as a whole, so the rate covers at least seven eighths
/// of the interval.
const SLOTS: usize = 8;

/// Why a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionReason {
    /// Too many requests in a row failed.
    Consecutive,
    /// Too large a share of the requests failed.
    Rate,
}

impl EjectionReason {
    /// The reason as text.
    pub fn words(self) -> &'static str {
        match self {
            Self::Consecutive => "too many requests in a row failed",
            Self::Rate => "too large a share of the requests failed",
        }
    }
}

/// Counters of one backend.
#[derive(Debug)]
pub(super) struct Outcomes {
    start: Instant,
    /// Failures since the last success.
    row: AtomicU32,
    /// [`Slot`]s, by their number modulo [`SLOTS`].
    slots: [AtomicU64; SLOTS],
}

/// Results within one part of the interval. Bits 0–19: failures; 20–39: requests, both saturating; 40–63:
/// number of the part.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    const COUNT: u64 = (1 << 20) - 1;
    const NUMBER: u64 = (1 << 24) - 1;

    fn empty(number: u64) -> Self {
        Self((number & Self::NUMBER) << 40)
    }

    fn is_of(self, number: u64) -> bool {
        self.0 >> 40 == number & Self::NUMBER
    }

    fn is_within(self, number: u64) -> bool {
        (number.wrapping_sub(self.0 >> 40) & Self::NUMBER) < SLOTS as u64
    }

    fn requests(self) -> u64 {
        self.0 >> 20 & Self::COUNT
    }

    fn failures(self) -> u64 {
        self.0 & Self::COUNT
    }

    fn after(self, failed: bool) -> Self {
        if self.requests() == Self::COUNT {
            return self;
        }
        Self(self.0 + (1 << 20) + u64::from(failed))
    }
}

impl Outcomes {
    pub(super) fn new(start: Instant) -> Self {
        let outcomes = Self { start, row: AtomicU32::new(0), slots: Default::default() };
        outcomes.clear();
        outcomes
    }

    /// Counts the outcome of one request. Returns a reason if the backend should be ejected; never for a
    /// success.
    pub(super) fn record(
        &self,
        failed: bool,
        settings: &config::Outlier,
        now: Instant,
    ) -> Option<EjectionReason> {
        let number = self.number(settings.interval, now);
        let count = |word: u64| {
            let slot = Slot(word);
            let slot = if slot.is_of(number) { slot } else { Slot::empty(number) };
            Some(slot.after(failed).0)
        };
        // Cannot fail: `count` always returns a value.
        let _ = self.slots[number as usize % SLOTS].fetch_update(Relaxed, Relaxed, count);
        if !failed {
            if self.row.load(Relaxed) != 0 {
                self.row.store(0, Relaxed);
            }
            return None;
        }
        let row = self.row.fetch_add(1, Relaxed).saturating_add(1);
        if settings.consecutive > 0 && row >= settings.consecutive {
            return Some(EjectionReason::Consecutive);
        }
        self.rate_exceeds(settings, number).then_some(EjectionReason::Rate)
    }

    /// Resets all counters.
    pub(super) fn clear(&self) {
        self.row.store(0, Relaxed);
        for (number, slot) in (0..).zip(&self.slots) {
            slot.store(Slot::empty(number).0, Relaxed);
        }
    }

    fn rate_exceeds(&self, settings: &config::Outlier, number: u64) -> bool {
        if settings.error_rate == 0 {
            return false;
        }
        let slots = self.slots.iter().map(|slot| Slot(slot.load(Relaxed)));
        let (requests, failures) = slots
            .filter(|slot| slot.is_within(number))
            .fold((0, 0), |(all, failed), slot| (all + slot.requests(), failed + slot.failures()));
        requests >= u64::from(settings.min_requests.max(1))
            && failures * 100 >= u64::from(settings.error_rate) * requests
    }

    fn number(&self, interval: Duration, now: Instant) -> u64 {
        let part = (interval / SLOTS as u32).as_nanos().max(1);
        (now.saturating_duration_since(self.start).as_nanos() / part) as u64
    }
}

/// Duration of an ejection that is the `count`-th recent one.
pub(super) fn ejection_time(settings: &config::Outlier, count: u32) -> Duration {
    settings.ejection.saturating_mul(count.max(1)).min(settings.max_ejection.max(settings.ejection))
}

/// Number of ejections that still count after a period without one. One ejection expires for each
/// duration of a first ejection.
pub(super) fn decayed_count(settings: &config::Outlier, count: u32, good: Duration) -> u32 {
    let expired = good.as_nanos() / settings.ejection.as_nanos().max(1);
    count.saturating_sub(u32::try_from(expired).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn settings() -> config::Outlier {
        config::Outlier {
            consecutive: 3,
            error_rate: 50,
            min_requests: 10,
            interval: Duration::from_secs(8),
            ..config::Outlier::default()
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_resets_the_count() {
        let (now, settings) = (Instant::now(), settings());
        let outcomes = Outcomes::new(now);
        let records = |results: &[bool]| -> Vec<Option<EjectionReason>> {
            results.iter().map(|failed| outcomes.record(*failed, &settings, now)).collect()
        };
        assert_eq!(records(&[true, true, false, true, true]), [None; 5]);
        assert_eq!(records(&[true]), [Some(EjectionReason::Consecutive)]);
        outcomes.clear();
        assert_eq!(records(&[true, true]), [None; 2]);
    }

    #[test]
    fn the_rate_needs_enough_requests_within_the_interval() {
        let (start, settings) = (Instant::now(), config::Outlier { consecutive: 0, ..settings() });
        let outcomes = Outcomes::new(start);
        for n in 0..9 {
            assert_eq!(outcomes.record(n % 2 == 0, &settings, start), None);
        }
        assert_eq!(outcomes.record(true, &settings, start), Some(EjectionReason::Rate));
        let later = start + Duration::from_secs(9);
        assert_eq!(outcomes.record(true, &settings, later), None);
    }

    #[test]
    fn ejections_get_longer_and_expire_over_time() {
        let settings = config::Outlier {
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(70),
            ..settings()
        };
        let seconds = |times| ejection_time(&settings, times).as_secs();
        assert_eq!([seconds(0), seconds(1), seconds(2), seconds(3)], [30, 30, 60, 70]);
        assert_eq!(decayed_count(&settings, 3, Duration::from_secs(29)), 3);
        assert_eq!(decayed_count(&settings, 3, Duration::from_secs(61)), 1);
        assert_eq!(decayed_count(&settings, 3, Duration::from_secs(3600)), 0);
    }

    proptest! {
        /// Compares with a list of all results, in parts of the interval.
        #[test]
        fn results_within_the_interval_are_counted(
            steps in prop::collection::vec((any::<bool>(), 0..2500u64), 1..200),
        ) {
            let settings = config::Outlier { consecutive: 0, ..settings() };
            let start = Instant::now();
            let outcomes = Outcomes::new(start);
            let mut clock = 0;
            let mut model: VecDeque<(u64, bool)> = VecDeque::new();
            for (failed, pause) in steps {
                clock += pause;
                let decision = outcomes.record(failed, &settings, start + Duration::from_millis(clock));
                let number = clock / 1000;
                model.push_back((number, failed));
                model.retain(|(at, _)| number - at < SLOTS as u64);
                let failures = model.iter().filter(|(_, failed)| *failed).count();
                let ejects = failed && model.len() >= 10 && failures * 2 >= model.len();
                prop_assert_eq!(decision, ejects.then_some(EjectionReason::Rate));
            }
        }
    }
}

//! Outliers: what a backend's answers under traffic say against it.
//!
//! Two things are counted: failures in a row, and how many of the requests within a rolling stretch of
//! time failed. Counting takes no lock and allocates nothing. What a verdict leads to is
//! [`recovery`](super::recovery)'s part, and what is a failure that of whoever sees the answers.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::config;

/// Parts of the interval. The oldest is forgotten at once, so that the rate is taken over seven eighths
/// of the interval at least.
const SLOTS: usize = 8;

/// Why a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionReason {
    /// So many failures in a row.
    Consecutive,
    /// Too large a part of its requests failed.
    Rate,
}

impl EjectionReason {
    /// The reason in words.
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
/// the part's number.
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

    /// Counts one request; whether that is enough to eject. A success never is.
    pub(super) fn note(
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

    /// Forgets everything.
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

/// How long the ejection lasts that is the `times`-th of late.
pub(super) fn ejection_time(settings: &config::Outlier, times: u32) -> Duration {
    settings.ejection.saturating_mul(times.max(1)).min(settings.max_ejection.max(settings.ejection))
}

/// What is left of `times` ejections after a stretch without one: each as long as a first ejection takes
/// one back.
pub(super) fn decayed_count(settings: &config::Outlier, times: u32, good: Duration) -> u32 {
    let stretches = good.as_nanos() / settings.ejection.as_nanos().max(1);
    times.saturating_sub(u32::try_from(stretches).unwrap_or(u32::MAX))
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
    fn failures_in_a_row_eject_and_one_success_breaks_the_row() {
        let (now, settings) = (Instant::now(), settings());
        let outcomes = Outcomes::new(now);
        let notes = |results: &[bool]| -> Vec<Option<EjectionReason>> {
            results.iter().map(|failed| outcomes.note(*failed, &settings, now)).collect()
        };
        assert_eq!(notes(&[true, true, false, true, true]), [None; 5]);
        assert_eq!(notes(&[true]), [Some(EjectionReason::Consecutive)]);
        outcomes.clear();
        assert_eq!(notes(&[true, true]), [None; 2]);
    }

    #[test]
    fn a_rate_counts_from_enough_requests_on_and_only_within_the_interval() {
        let (start, settings) = (Instant::now(), config::Outlier { consecutive: 0, ..settings() });
        let outcomes = Outcomes::new(start);
        for n in 0..9 {
            assert_eq!(outcomes.note(n % 2 == 0, &settings, start), None);
        }
        assert_eq!(outcomes.note(true, &settings, start), Some(EjectionReason::Rate));
        let later = start + Duration::from_secs(9);
        assert_eq!(outcomes.note(true, &settings, later), None);
    }

    #[test]
    fn ejections_grow_and_a_good_stretch_takes_one_back() {
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
        /// Against a list of all results, with the interval's parts as the grain.
        #[test]
        fn it_counts_what_the_interval_holds(
            steps in prop::collection::vec((any::<bool>(), 0..2500u64), 1..200),
        ) {
            let settings = config::Outlier { consecutive: 0, ..settings() };
            let start = Instant::now();
            let outcomes = Outcomes::new(start);
            let mut clock = 0;
            let mut model: VecDeque<(u64, bool)> = VecDeque::new();
            for (failed, pause) in steps {
                clock += pause;
                let verdict = outcomes.note(failed, &settings, start + Duration::from_millis(clock));
                let number = clock / 1000;
                model.push_back((number, failed));
                model.retain(|(at, _)| number - at < SLOTS as u64);
                let failures = model.iter().filter(|(_, failed)| *failed).count();
                let ejects = failed && model.len() >= 10 && failures * 2 >= model.len();
                prop_assert_eq!(verdict, ejects.then_some(EjectionReason::Rate));
            }
        }
    }
}

//! Admission: limits the rate of new sessions of a backend.
//!
//! After an outage, many clients reconnect at the same time. Each costs the backend a handshake, an
//! authentication and perhaps a query, and together they can take the backend down again. Each backend
//! has a virtual schedule (GCRA, ITU-T I.371): the next free time slot, which each new session moves on
//! by one interval. There is no queue: each session gets its slot and sleeps until then, first come,
//! first served.
//!
//! A session that stops waiting gives its slot back if no later slot is taken. Otherwise the slot stays
//! unused: moving the later sessions forward would need a queue.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::config;

/// Burst after a pause: the sessions of this duration at the configured rate, at least one.
const BURST: Duration = Duration::from_millis(100);

/// The schedule of one backend.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    /// When the next slot begins, in nanoseconds from `start`.
    next: AtomicU64,
    waiting: AtomicUsize,
}

/// When a new session may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScheduleDecision {
    /// The session may begin now.
    Now,
    /// The session may begin at this time. It counts as waiting until [`Schedule::leave`].
    At(Instant, TimeSlot),
    /// Too many sessions wait, or the slot would begin too late; the time until that slot.
    Rejected(Duration),
}

/// A reserved slot of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeSlot {
    before: u64,
    after: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, next: AtomicU64::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Reserves the next free slot that begins no later than `until`.
    pub(super) fn reserve(
        &self,
        settings: &config::Admission,
        now: Instant,
        until: Instant,
    ) -> ScheduleDecision {
        let interval = nanos(settings.rate.interval()).max(1);
        let ahead = nanos(BURST).max(interval) - interval;
        let (now_at, until) = (self.at(now), self.at(until));
        let mut before = self.next.load(SeqCst);
        loop {
            let after = before.max(now_at) + interval;
            let slot = (after - interval).saturating_sub(ahead);
            let waits = slot > now_at;
            let wait = Duration::from_nanos(slot.saturating_sub(now_at));
            // Counted first, so that of two concurrent callers one sees the other.
            if waits && (slot > until || !self.wait(settings.queue)) {
                return ScheduleDecision::Rejected(wait);
            }
            match self.next.compare_exchange_weak(before, after, SeqCst, SeqCst) {
                Ok(_) if waits => {
                    return ScheduleDecision::At(now + wait, TimeSlot { before, after });
                }
                Ok(_) => return ScheduleDecision::Now,
                Err(other) => before = other,
            }
            if waits {
                self.waiting.fetch_sub(1, SeqCst);
            }
        }
    }

    /// Ends the wait of a session; `unused` if its slot has not begun.
    pub(super) fn leave(&self, slot: TimeSlot, unused: bool) {
        self.waiting.fetch_sub(1, SeqCst);
        if unused {
            // Fails if a later slot is taken.
            let _ = self.next.compare_exchange(slot.after, slot.before, SeqCst, SeqCst);
        }
    }

    /// Number of waiting sessions.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    fn wait(&self, max: usize) -> bool {
        let more = |waiting: usize| (waiting < max).then(|| waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn at(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.start))
    }
}

/// Returns the `Retry-After` seconds of a rejected session, 1 to 20: the time until its slot, plus up to
/// the same time at random, so that clients do not return at the same moment. `chance` is in 0..1.
pub(super) fn retry_after(wait: Duration, chance: f64) -> u32 {
    let seconds = wait.as_secs_f64().max(1.0) * (1.0 + chance);
    // Between 1 and 20, so the cast is exact.
    seconds.ceil().clamp(1.0, 20.0) as u32
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Admission, Rate};

    fn settings(times: u32, queue: usize) -> Admission {
        let rate = Rate { times, per: Duration::from_secs(1) };
        Admission { rate, queue, deadline: Duration::from_secs(5) }
    }

    fn reserve(schedule: &Schedule, settings: &Admission, now: Instant) -> ScheduleDecision {
        schedule.reserve(settings, now, now + settings.deadline)
    }

    fn at(decision: ScheduleDecision) -> Instant {
        match decision {
            ScheduleDecision::At(at, _) => at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_burst_is_admitted_and_the_rest_at_the_rate() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(100, 1000));
        for n in 0..10 {
            assert_eq!(reserve(&schedule, &settings, now), ScheduleDecision::Now, "{n}");
        }
        for n in 1..=100 {
            let expected = now + Duration::from_millis(10 * n);
            assert_eq!(at(reserve(&schedule, &settings, now)), expected);
        }
        assert_eq!(schedule.waiting(), 100);
    }

    #[test]
    fn a_slow_rate_admits_one_session_immediately() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(1, 10));
        assert_eq!(reserve(&schedule, &settings, now), ScheduleDecision::Now);
        assert_eq!(at(reserve(&schedule, &settings, now)), now + Duration::from_secs(1));
        assert_eq!(
            reserve(&schedule, &settings, now + Duration::from_secs(2)),
            ScheduleDecision::Now
        );
    }

    #[test]
    fn a_full_queue_and_a_late_slot_reject() {
        let now = Instant::now();
        let (schedule, few) = (Schedule::new(now), settings(10, 2));
        let decisions: Vec<_> = (0..4).map(|_| reserve(&schedule, &few, now)).collect();
        assert_eq!(decisions[0], ScheduleDecision::Now);
        assert_eq!(decisions[3], ScheduleDecision::Rejected(Duration::from_millis(300)));
        assert_eq!(schedule.waiting(), 2);

        let (schedule, slow) = (Schedule::new(now), settings(1, 1000));
        let decisions: Vec<_> = (0..8).map(|_| reserve(&schedule, &slow, now)).collect();
        assert_eq!(at(decisions[5]), now + Duration::from_secs(5));
        assert_eq!(decisions[6..], [ScheduleDecision::Rejected(Duration::from_secs(6)); 2]);
        assert_eq!(schedule.waiting(), 5, "a rejected session takes neither a slot nor a place");
    }

    #[test]
    fn the_last_session_to_leave_gives_its_slot_back() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(10, 10));
        reserve(&schedule, &settings, now);
        let (ScheduleDecision::At(first, one), ScheduleDecision::At(second, two)) =
            (reserve(&schedule, &settings, now), reserve(&schedule, &settings, now))
        else {
            panic!("both sessions wait");
        };
        schedule.leave(one, true);
        assert_eq!(
            at(reserve(&schedule, &settings, now)),
            second + (second - first),
            "the first slot is not reused"
        );
        let ScheduleDecision::At(last, three) = reserve(&schedule, &settings, now) else {
            panic!("the session waits")
        };
        schedule.leave(three, true);
        assert_eq!(at(reserve(&schedule, &settings, now)), last, "the last slot is reused");
        schedule.leave(two, false);
        assert_eq!(schedule.waiting(), 2);
    }

    #[test]
    fn rejected_sessions_return_later_and_at_different_times() {
        assert_eq!(retry_after(Duration::ZERO, 0.0), 1);
        assert_eq!(retry_after(Duration::from_secs(4), 0.0), 4);
        assert_eq!(retry_after(Duration::from_secs(4), 0.9), 8);
        assert_eq!(retry_after(Duration::from_secs(3600), 0.5), 20);
    }

    #[test]
    fn concurrent_sessions_get_different_slots() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(1000, 10_000));
        let settings = Admission { deadline: Duration::from_secs(60), ..settings };
        let mut times: Vec<Instant> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let decisions = (0..1000).map(|_| reserve(&schedule, &settings, now));
                        decisions
                            .filter(|v| *v != ScheduleDecision::Now)
                            .map(at)
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(times.len(), 3900);
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), 3900);
        assert_eq!(times.last(), Some(&(now + Duration::from_millis(3900))));
    }

    proptest! {
        /// No period has more sessions than the rate and the burst allow.
        #[test]
        fn the_rate_is_not_exceeded(pauses in prop::collection::vec(0..30u64, 1..300), times in 1..200u32) {
            let start = Instant::now();
            let (schedule, settings) = (Schedule::new(start), settings(times, usize::MAX));
            let mut now = start;
            let mut begun = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                match reserve(&schedule, &settings, now) {
                    ScheduleDecision::Now => begun.push(now),
                    ScheduleDecision::At(at, _) => {
                        prop_assert!(at > now && at <= now + settings.deadline);
                        begun.push(at);
                    }
                    ScheduleDecision::Rejected(wait) => prop_assert!(wait > settings.deadline),
                }
            }
            prop_assert!(begun.is_sorted(), "first come, first served");
            let (interval, burst) = (settings.rate.interval(), (times as usize / 10).max(1));
            for (at, first) in begun.iter().enumerate() {
                for (later, last) in begun.iter().enumerate().skip(at) {
                    let may = (*last - *first).as_nanos() / interval.as_nanos().max(1);
                    prop_assert!(later - at <= may as usize + burst, "{later} {at} {may}");
                }
            }
        }
    }
}

//! Admission: how many new sessions a backend is given in a time.
//!
//! When a herd returns, each of its clients costs its node a handshake, an authentication, perhaps a
//! query; all at once they take the node down again. Each backend has a virtual schedule (GCRA, ITU-T
//! I.371): the next free moment, which every new session moves on by one interval. There is no queue to
//! keep: whoever comes is told its moment and sleeps until then, so that first come is first served.
//!
//! A waiter that leaves gives its moment back where nobody came after it. Otherwise the moment goes by
//! unused: moving all who came later would take a queue, and a herd that loses patience comes back.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::config;

/// What may come at once after a pause: a tenth of a second's worth, and one at least.
const BURST: Duration = Duration::from_millis(100);

/// The schedule of one backend.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    /// When all that were admitted are through, in nanoseconds from `start`.
    next: AtomicU64,
    waiting: AtomicUsize,
}

/// What a new session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScheduleDecision {
    /// It may begin now.
    Now,
    /// It may begin at this moment. It counts as waiting until [`Schedule::leave`].
    At(Instant, TimeSlot),
    /// Too many wait, or the moment would be too late; how long it would have been.
    Refused(Duration),
}

/// A moment that somebody has in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeSlot {
    before: u64,
    after: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, next: AtomicU64::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Asks for the next free moment, not later than `until`.
    pub(super) fn ask(
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
            let moment = (after - interval).saturating_sub(ahead);
            let waits = moment > now_at;
            let wait = Duration::from_nanos(moment.saturating_sub(now_at));
            // Counted first: of two that come at once, one sees the other.
            if waits && (moment > until || !self.wait(settings.queue)) {
                return ScheduleDecision::Refused(wait);
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

    /// One that waited does not any more; `unused`: it left before its moment came.
    pub(super) fn leave(&self, moment: TimeSlot, unused: bool) {
        self.waiting.fetch_sub(1, SeqCst);
        if unused {
            // Fails where somebody came later.
            let _ = self.next.compare_exchange(moment.after, moment.before, SeqCst, SeqCst);
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    fn wait(&self, most: usize) -> bool {
        let more = |waiting: usize| (waiting < most).then(|| waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn at(&self, moment: Instant) -> u64 {
        nanos(moment.saturating_duration_since(self.start))
    }
}

/// Whole seconds after which one that was refused should come back: when those before it will be through,
/// and up to as long again by chance, so that they do not return in step; from 1 to 20.
pub(super) fn retry_after(wait: Duration, chance: f64) -> u32 {
    let seconds = wait.as_secs_f64().max(1.0) * (1.0 + chance);
    // Between 1 and 20, hence exact.
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

    fn ask(schedule: &Schedule, settings: &Admission, now: Instant) -> ScheduleDecision {
        schedule.ask(settings, now, now + settings.deadline)
    }

    fn at(verdict: ScheduleDecision) -> Instant {
        match verdict {
            ScheduleDecision::At(at, _) => at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_burst_goes_through_and_the_rest_comes_one_by_one() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(100, 1000));
        for n in 0..10 {
            assert_eq!(ask(&schedule, &settings, now), ScheduleDecision::Now, "{n}");
        }
        for n in 1..=100 {
            let expected = now + Duration::from_millis(10 * n);
            assert_eq!(at(ask(&schedule, &settings, now)), expected);
        }
        assert_eq!(schedule.waiting(), 100);
    }

    #[test]
    fn a_slow_rate_lets_one_through_at_once() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(1, 10));
        assert_eq!(ask(&schedule, &settings, now), ScheduleDecision::Now);
        assert_eq!(at(ask(&schedule, &settings, now)), now + Duration::from_secs(1));
        assert_eq!(ask(&schedule, &settings, now + Duration::from_secs(2)), ScheduleDecision::Now);
    }

    #[test]
    fn a_full_queue_and_a_late_moment_refuse() {
        let now = Instant::now();
        let (schedule, few) = (Schedule::new(now), settings(10, 2));
        let verdicts: Vec<_> = (0..4).map(|_| ask(&schedule, &few, now)).collect();
        assert_eq!(verdicts[0], ScheduleDecision::Now);
        assert_eq!(verdicts[3], ScheduleDecision::Refused(Duration::from_millis(300)));
        assert_eq!(schedule.waiting(), 2);

        let (schedule, slow) = (Schedule::new(now), settings(1, 1000));
        let verdicts: Vec<_> = (0..8).map(|_| ask(&schedule, &slow, now)).collect();
        assert_eq!(at(verdicts[5]), now + Duration::from_secs(5));
        assert_eq!(verdicts[6..], [ScheduleDecision::Refused(Duration::from_secs(6)); 2]);
        assert_eq!(schedule.waiting(), 5, "who is refused takes no moment and no place");
    }

    #[test]
    fn the_last_to_leave_gives_its_moment_back() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(10, 10));
        ask(&schedule, &settings, now);
        let (ScheduleDecision::At(first, one), ScheduleDecision::At(second, two)) =
            (ask(&schedule, &settings, now), ask(&schedule, &settings, now))
        else {
            panic!("both wait");
        };
        schedule.leave(one, true);
        assert_eq!(at(ask(&schedule, &settings, now)), second + (second - first), "lost");
        let ScheduleDecision::At(last, three) = ask(&schedule, &settings, now) else {
            panic!("it waits")
        };
        schedule.leave(three, true);
        assert_eq!(at(ask(&schedule, &settings, now)), last, "given back");
        schedule.leave(two, false);
        assert_eq!(schedule.waiting(), 2);
    }

    #[test]
    fn who_is_refused_comes_back_later_and_not_in_step() {
        assert_eq!(retry_after(Duration::ZERO, 0.0), 1);
        assert_eq!(retry_after(Duration::from_secs(4), 0.0), 4);
        assert_eq!(retry_after(Duration::from_secs(4), 0.9), 8);
        assert_eq!(retry_after(Duration::from_secs(3600), 0.5), 20);
    }

    #[test]
    fn threads_get_each_moment_once() {
        let now = Instant::now();
        let (schedule, settings) = (Schedule::new(now), settings(1000, 10_000));
        let settings = Admission { deadline: Duration::from_secs(60), ..settings };
        let mut moments: Vec<Instant> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let asks = (0..1000).map(|_| ask(&schedule, &settings, now));
                        asks.filter(|v| *v != ScheduleDecision::Now).map(at).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(moments.len(), 3900);
        moments.sort_unstable();
        moments.dedup();
        assert_eq!(moments.len(), 3900);
        assert_eq!(moments.last(), Some(&(now + Duration::from_millis(3900))));
    }

    proptest! {
        /// However they come, no stretch of time sees more than its rate and the burst.
        #[test]
        fn the_rate_is_kept(pauses in prop::collection::vec(0..30u64, 1..300), times in 1..200u32) {
            let start = Instant::now();
            let (schedule, settings) = (Schedule::new(start), settings(times, usize::MAX));
            let mut now = start;
            let mut begun = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                match ask(&schedule, &settings, now) {
                    ScheduleDecision::Now => begun.push(now),
                    ScheduleDecision::At(at, _) => {
                        prop_assert!(at > now && at <= now + settings.deadline);
                        begun.push(at);
                    }
                    ScheduleDecision::Refused(wait) => prop_assert!(wait > settings.deadline),
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

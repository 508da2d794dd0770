//! Slots by rate and burst, the queue, and slots that are given back.

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
    assert_eq!(reserve(&schedule, &settings, now + Duration::from_secs(2)), ScheduleDecision::Now);
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
                    decisions.filter(|v| *v != ScheduleDecision::Now).map(at).collect::<Vec<_>>()
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

//! When a client speaks, and which of its messages are still unanswered.
//!
//! Owns sequence numbers and intended times of one connection. Must not know what messages look like.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::scenario::{Answer, Messages, Pace};

/// The golden ratio's fraction: its multiples spread evenly over [0, 1) however many are taken.
const GOLDEN: f64 = 0.618_033_988_749_894_8;

/// Timers are this coarse: a message that is said so little after its time counts from when it is said,
/// or every latency would hold a part of it. What is later is a stall, and counts from its time.
const GRAIN: Duration = Duration::from_millis(2);

/// Clients that speak at the same moment, at most: so many share a wake-up, which costs a harness more
/// than a message does. A server meets them as a burst of that size.
const TOGETHER: u32 = 32;

/// Places in an interval, at least.
const PLACES: u32 = 32;

/// Longest step from one place to the next.
const LONGEST_STEP: Duration = Duration::from_millis(64);

/// Moments that all clients of a run share: intended times of an even pace are some of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    epoch: Instant,
    step: Duration,
}

impl Grid {
    /// For so many clients of this pace. `epoch` is the first place.
    pub(crate) fn new(clients: u32, pace: Pace, epoch: Instant) -> Self {
        let interval = match pace {
            Pace::Every(interval) => interval,
            Pace::Silent | Pace::Think(_) => Duration::ZERO,
        };
        let step = interval.mul_f64(f64::from(TOGETHER) / f64::from(clients.max(1)));
        let step = step.min(interval / PLACES).min(LONGEST_STEP).max(Duration::from_nanos(1));
        Self { epoch, step }
    }

    /// The first place from `at` on.
    fn next(&self, at: Instant) -> Instant {
        let step = self.step.as_nanos();
        let past = at.saturating_duration_since(self.epoch).as_nanos() % step;
        at + Duration::from_nanos(((step - past) % step) as u64)
    }
}

/// The messages of one connection, numbered from 0.
#[derive(Debug)]
pub(crate) struct Talk {
    pace: Pace,
    /// Whether messages are settled by an answer; else by being said.
    awaits: bool,
    /// Intended time of message 0.
    origin: Instant,
    /// Intended time of the last message that was said, less the timer's grain.
    last: Instant,
    /// Intended time of the next message.
    due: Option<Instant>,
    said: u64,
    /// How many may be said at all.
    limit: u64,
    /// All messages below are settled.
    settled: u64,
    /// Those above that are settled too, where answers overtook each other.
    ahead: BTreeSet<u64>,
    gave_up: bool,
}

/// A number's place in [0, 1), evenly spread for the numbers from 0 on.
pub(crate) fn spread(number: u32) -> f64 {
    (f64::from(number) * GOLDEN).fract()
}

impl Talk {
    /// The talk of client `number`, connected `now`, that has settled `before` messages on earlier
    /// connections of its session. The first message is due within about one interval, by its number.
    pub(crate) fn new(
        messages: &Messages,
        before: u64,
        number: u32,
        grid: Grid,
        now: Instant,
    ) -> Self {
        let limit = messages.count.map_or(u64::MAX, |count| count.saturating_sub(before));
        let first = match messages.pace {
            Pace::Silent => None,
            Pace::Every(wait) => Some(grid.next(now + wait.mul_f64(spread(number)))),
            Pace::Think(wait) => Some(now + wait.mul_f64(spread(number))),
        };
        Self {
            pace: messages.pace,
            awaits: messages.answer != Answer::Nothing,
            origin: first.unwrap_or(now),
            last: now,
            due: first.filter(|_| limit > 0),
            said: 0,
            limit,
            settled: 0,
            ahead: BTreeSet::new(),
            gave_up: false,
        }
    }

    /// When the next message is due; `None`: not before an answer, or never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says the next message: its number. Its time must have come.
    pub(crate) fn say(&mut self) -> u64 {
        let (number, now) = (self.said, Instant::now());
        let due = self.due.unwrap_or(now);
        self.last = if now.saturating_duration_since(due) < GRAIN { now.max(due) } else { due };
        self.said += 1;
        self.due = match self.pace {
            Pace::Every(interval) if self.said < self.limit => Some(self.at(interval, self.said)),
            _ => None,
        };
        if !self.awaits {
            self.settle(number, now);
        }
        number
    }

    /// When message `number`, which was said, was due.
    pub(crate) fn intended(&self, number: u64) -> Instant {
        match self.pace {
            Pace::Every(interval) if number + 1 < self.said => self.at(interval, number),
            _ => self.last,
        }
    }

    fn at(&self, interval: Duration, number: u64) -> Instant {
        // 584 years of nanoseconds: no run overflows it.
        let nanos = (interval.as_nanos() as u64).saturating_mul(number);
        self.origin + Duration::from_nanos(nanos)
    }

    /// An answer to message `number` came: when that was due; `None` where none is awaited.
    pub(crate) fn answered(&mut self, number: u64, now: Instant) -> Option<Instant> {
        let awaited = self.awaits
            && (self.settled..self.said).contains(&number)
            && !self.ahead.contains(&number);
        awaited.then(|| {
            let intended = self.intended(number);
            self.settle(number, now);
            intended
        })
    }

    /// The oldest message without an answer.
    pub(crate) fn oldest(&self) -> Option<u64> {
        (self.settled < self.said).then_some(self.settled)
    }

    /// When the oldest message without an answer is overdue.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.intended(self.oldest()?) + timeout)
    }

    /// Stops to wait for the oldest message's answer: when that message was due.
    pub(crate) fn give_up(&mut self, now: Instant) -> Option<Instant> {
        let number = self.oldest()?;
        let intended = self.intended(number);
        self.settle(number, now);
        self.gave_up = true;
        Some(intended)
    }

    /// Whether any answer is not waited for any more: it may still come.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// How many messages are settled: answered, given up, or said where no answer is awaited.
    pub(crate) fn settled(&self) -> u64 {
        self.settled + self.ahead.len() as u64
    }

    /// When the messages were due that wait for their answers.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = Instant> {
        let numbers = (self.settled..self.said).filter(|number| !self.ahead.contains(number));
        numbers.map(|number| self.intended(number))
    }

    /// Whether there is nothing left to say or to wait for.
    pub(crate) fn done(&self) -> bool {
        self.settled >= self.limit
    }

    fn settle(&mut self, number: u64, now: Instant) {
        match number == self.settled {
            true => self.settled += 1,
            false => _ = self.ahead.insert(number),
        }
        while self.ahead.remove(&self.settled) {
            self.settled += 1;
        }
        if let Pace::Think(wait) = self.pace
            && self.said < self.limit
        {
            self.due = Some(now + wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::scenario::Payload;

    const SECOND: Duration = Duration::from_secs(1);

    /// The grid of one client that speaks once a second.
    fn alone(epoch: Instant) -> Grid {
        Grid::new(1, Pace::Every(SECOND), epoch)
    }

    fn messages(pace: Pace, count: Option<u64>, answer: Answer) -> Messages {
        let event = "echo".to_owned();
        Messages { pace, count, repeat: false, size: 64, payload: Payload::Text, event, answer }
    }

    #[test]
    fn an_even_pace_does_not_wait_for_answers() {
        let now = Instant::now();
        let mut talk =
            Talk::new(&messages(Pace::Every(SECOND), None, Answer::Ack), 0, 7, alone(now), now);
        let first = talk.due().unwrap();
        assert!(first >= now && first < now + SECOND + LONGEST_STEP);
        assert_eq!((talk.say(), talk.say()), (0, 1));
        assert_eq!(talk.due(), Some(first + 2 * SECOND));
        assert_eq!(talk.deadline(5 * SECOND), Some(first + 5 * SECOND));
        assert_eq!(talk.answered(1, now), Some(first + SECOND));
        assert_eq!(talk.answered(1, now), None, "one answer settles a message");
        assert_eq!((talk.oldest(), talk.settled()), (Some(0), 1));
        assert_eq!(talk.answered(0, now), Some(first));
        assert_eq!((talk.oldest(), talk.settled()), (None, 2));
        assert_eq!(talk.answered(2, now), None, "not said yet");
    }

    #[test]
    fn an_even_pace_keeps_to_a_grid_that_few_clients_share() {
        let epoch = Instant::now();
        for (clients, interval, step) in [
            (1000, 2 * SECOND, 62_500),
            (10_000, 10 * SECOND, 32_000),
            (100, SECOND, 31_250),
            (9, 10 * SECOND, 64_000),
        ] {
            let pace = Pace::Every(interval);
            let grid = Grid::new(clients, pace, epoch);
            let mut places = HashMap::new();
            for number in 0..clients {
                let now = epoch + SECOND;
                let wanted = messages(pace, None, Answer::Ack);
                let due = Talk::new(&wanted, 0, number, grid, now).due().unwrap();
                let step = Duration::from_micros(step);
                assert_eq!(due.duration_since(epoch).as_nanos() % step.as_nanos(), 0);
                assert!(due >= now && due < now + interval + step);
                *places.entry(due).or_insert(0) += 1;
            }
            let most = *places.values().max().unwrap();
            assert!(most <= TOGETHER + 2, "{most} of {clients}");
        }
    }

    #[test]
    fn a_thinker_waits_for_answers() {
        let now = Instant::now();
        let mut talk =
            Talk::new(&messages(Pace::Think(SECOND), None, Answer::Ack), 0, 3, alone(now), now);
        let first = talk.due().unwrap();
        talk.say();
        assert_eq!(talk.due(), None);
        let later = now + 9 * SECOND;
        assert_eq!(talk.answered(0, later), Some(first));
        assert_eq!(talk.due(), Some(later + SECOND));
        talk.say();
        assert_eq!(talk.give_up(later), Some(later + SECOND));
        assert_eq!(talk.due(), Some(later + SECOND));
    }

    #[test]
    fn a_count_ends_the_talk_across_connections() {
        let now = Instant::now();
        let wanted = messages(Pace::Every(SECOND), Some(3), Answer::Ack);
        let mut talk = Talk::new(&wanted, 1, 0, alone(now), now);
        talk.say();
        talk.say();
        assert_eq!((talk.due(), talk.done()), (None, false));
        talk.answered(1, now);
        talk.answered(0, now);
        assert!(talk.done());
        assert!(Talk::new(&wanted, 3, 0, alone(now), now).done());
    }

    #[test]
    fn what_awaits_no_answer_is_settled_when_said() {
        let now = Instant::now();
        let wanted = messages(Pace::Every(SECOND), Some(1), Answer::Nothing);
        let mut talk = Talk::new(&wanted, 0, 0, alone(now), now);
        talk.say();
        assert!(talk.done());
        assert_eq!(talk.deadline(SECOND), None);
    }

    #[test]
    fn the_silent_never_speak() {
        let now = Instant::now();
        let talk = Talk::new(&messages(Pace::Silent, None, Answer::Ack), 0, 0, alone(now), now);
        assert_eq!((talk.due(), talk.done()), (None, false));
    }

    #[test]
    fn first_messages_are_spread_evenly() {
        let mut tenths = [0; 10];
        for number in 0..1000 {
            tenths[(spread(number) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (99..=101).contains(count)), "{tenths:?}");
    }
}

//! When a client sends, and which of its messages are unanswered.
//!
//! Owns sequence numbers and intended send times of one connection. Does not know the content of messages.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::scenario::{Answer, Messages, Pace};

/// Fractional part of the golden ratio: any number of its multiples is spread evenly over [0, 1).
const GOLDEN: f64 = 0.618_033_988_749_894_8;

/// Resolution of timers. The latency of a message sent less than this after its intended time counts from the
/// actual time, or each latency would include a part of the resolution. A later send is a stall, and counts
/// from the intended time.
const TIMER_RESOLUTION: Duration = Duration::from_millis(2);

/// Maximum clients that send at the same moment. They share a wake-up, which costs the harness more than a
/// message; a server sees them as a burst of this size.
const MAX_CLIENTS_PER_SLOT: u32 = 32;

/// Minimum slots per interval.
const MIN_SLOTS: u32 = 32;

/// Maximum time from one slot to the next.
const MAX_STEP: Duration = Duration::from_millis(64);

/// Send times that all clients of a run share. The intended times of an even pace are on this grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    epoch: Instant,
    step: Duration,
}

impl Grid {
    /// A grid for this number of clients and this pace. `epoch` is the first slot.
    pub(crate) fn new(clients: u32, pace: Pace, epoch: Instant) -> Self {
        let interval = match pace {
            Pace::Every(interval) => interval,
            Pace::Silent | Pace::Think(_) => Duration::ZERO,
        };
        let step = interval.mul_f64(f64::from(MAX_CLIENTS_PER_SLOT) / f64::from(clients.max(1)));
        let step = step.min(interval / MIN_SLOTS).min(MAX_STEP).max(Duration::from_nanos(1));
        Self { epoch, step }
    }

    /// Returns the first slot at or after `at`.
    fn next(&self, at: Instant) -> Instant {
        let step = self.step.as_nanos();
        let since_slot = at.saturating_duration_since(self.epoch).as_nanos() % step;
        at + Duration::from_nanos(((step - since_slot) % step) as u64)
    }
}

/// The messages of one connection, numbered from 0.
#[derive(Debug)]
pub(crate) struct MessageTracker {
    pace: Pace,
    /// Whether a message is settled by its answer. Otherwise it is settled when it is sent.
    expects_answers: bool,
    /// Intended time of message 0.
    origin: Instant,
    /// Intended time of the last sent message, adjusted by the resolution of timers.
    last: Instant,
    /// Intended time of the next message.
    due: Option<Instant>,
    sent: u64,
    /// Maximum messages on this connection.
    limit: u64,
    /// Whether the client stays after its last message.
    stay: bool,
    /// All messages with lower numbers are settled.
    settled: u64,
    /// Higher numbers that are settled too, if answers came out of order.
    settled_early: BTreeSet<u64>,
    gave_up: bool,
}

/// Maps a number to [0, 1), evenly for the numbers from 0 on.
pub(crate) fn spread(number: u32) -> f64 {
    (f64::from(number) * GOLDEN).fract()
}

impl MessageTracker {
    /// Starts with client `number` connected `now`, whose session has settled `before` messages on earlier
    /// connections. The first message is due within about one interval; the exact time depends on `number`.
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
            expects_answers: messages.answer != Answer::Nothing,
            origin: first.unwrap_or(now),
            last: now,
            due: first.filter(|_| limit > 0),
            sent: 0,
            limit,
            stay: messages.stay,
            settled: 0,
            settled_early: BTreeSet::new(),
            gave_up: false,
        }
    }

    /// Returns when the next message is due; `None`: only after an answer, or never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Counts the next message, which must be due, as sent. Returns its number.
    pub(crate) fn record_sent(&mut self) -> u64 {
        let (number, now) = (self.sent, Instant::now());
        let due = self.due.unwrap_or(now);
        self.last =
            if now.saturating_duration_since(due) < TIMER_RESOLUTION { now.max(due) } else { due };
        self.sent += 1;
        self.due = match self.pace {
            Pace::Every(interval) if self.sent < self.limit => Some(self.at(interval, self.sent)),
            _ => None,
        };
        if !self.expects_answers {
            self.settle(number, now);
        }
        number
    }

    /// Returns the intended time of message `number`, which was sent.
    pub(crate) fn intended(&self, number: u64) -> Instant {
        match self.pace {
            Pace::Every(interval) if number + 1 < self.sent => self.at(interval, number),
            _ => self.last,
        }
    }

    fn at(&self, interval: Duration, number: u64) -> Instant {
        // Nanoseconds in 64 bits overflow only after 584 years.
        let nanos = (interval.as_nanos() as u64).saturating_mul(number);
        self.origin + Duration::from_nanos(nanos)
    }

    /// Settles message `number` with its answer. Returns its intended time; `None` if no answer to it is
    /// expected.
    pub(crate) fn answered(&mut self, number: u64, now: Instant) -> Option<Instant> {
        let expected = self.expects_answers
            && (self.settled..self.sent).contains(&number)
            && !self.settled_early.contains(&number);
        expected.then(|| {
            let intended = self.intended(number);
            self.settle(number, now);
            intended
        })
    }

    /// Returns the oldest message without an answer.
    pub(crate) fn oldest_unanswered(&self) -> Option<u64> {
        (self.settled < self.sent).then_some(self.settled)
    }

    /// Returns when the oldest message without an answer times out.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.intended(self.oldest_unanswered()?) + timeout)
    }

    /// Settles the oldest message without its answer. Returns its intended time.
    pub(crate) fn give_up(&mut self, now: Instant) -> Option<Instant> {
        let number = self.oldest_unanswered()?;
        let intended = self.intended(number);
        self.settle(number, now);
        self.gave_up = true;
        Some(intended)
    }

    /// Whether the client has given up on any answer, which may still come.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Returns the number of settled messages: answered, given up, or sent without an expected answer.
    pub(crate) fn settled(&self) -> u64 {
        self.settled + self.settled_early.len() as u64
    }

    /// Returns the intended times of the messages that wait for an answer.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = Instant> {
        let numbers =
            (self.settled..self.sent).filter(|number| !self.settled_early.contains(number));
        numbers.map(|number| self.intended(number))
    }

    /// Whether all messages are sent and settled, and the client leaves then.
    pub(crate) fn is_done(&self) -> bool {
        !self.stay && self.settled >= self.limit
    }

    fn settle(&mut self, number: u64, now: Instant) {
        match number == self.settled {
            true => self.settled += 1,
            false => _ = self.settled_early.insert(number),
        }
        while self.settled_early.remove(&self.settled) {
            self.settled += 1;
        }
        if let Pace::Think(wait) = self.pace
            && self.sent < self.limit
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

    /// The grid of one client that sends once a second.
    fn grid_for_one_client(epoch: Instant) -> Grid {
        Grid::new(1, Pace::Every(SECOND), epoch)
    }

    fn messages(pace: Pace, count: Option<u64>, answer: Answer) -> Messages {
        let event = "echo".to_owned();
        Messages {
            pace,
            count,
            repeat: false,
            stay: false,
            size: 64,
            payload: Payload::Text,
            event,
            answer,
        }
    }

    #[test]
    fn even_pace_does_not_wait_for_answers() {
        let now = Instant::now();
        let mut tracker = MessageTracker::new(
            &messages(Pace::Every(SECOND), None, Answer::Ack),
            0,
            7,
            grid_for_one_client(now),
            now,
        );
        let first = tracker.due().unwrap();
        assert!(first >= now && first < now + SECOND + MAX_STEP);
        assert_eq!((tracker.record_sent(), tracker.record_sent()), (0, 1));
        assert_eq!(tracker.due(), Some(first + 2 * SECOND));
        assert_eq!(tracker.deadline(5 * SECOND), Some(first + 5 * SECOND));
        assert_eq!(tracker.answered(1, now), Some(first + SECOND));
        assert_eq!(tracker.answered(1, now), None, "a message has one answer");
        assert_eq!((tracker.oldest_unanswered(), tracker.settled()), (Some(0), 1));
        assert_eq!(tracker.answered(0, now), Some(first));
        assert_eq!((tracker.oldest_unanswered(), tracker.settled()), (None, 2));
        assert_eq!(tracker.answered(2, now), None, "not sent yet");
    }

    #[test]
    fn even_pace_uses_a_grid_and_few_clients_share_a_slot() {
        let epoch = Instant::now();
        for (clients, interval, step) in [
            (1000, 2 * SECOND, 62_500),
            (10_000, 10 * SECOND, 32_000),
            (100, SECOND, 31_250),
            (9, 10 * SECOND, 64_000),
        ] {
            let pace = Pace::Every(interval);
            let grid = Grid::new(clients, pace, epoch);
            let mut slots = HashMap::new();
            for number in 0..clients {
                let now = epoch + SECOND;
                let wanted = messages(pace, None, Answer::Ack);
                let due = MessageTracker::new(&wanted, 0, number, grid, now).due().unwrap();
                let step = Duration::from_micros(step);
                assert_eq!(due.duration_since(epoch).as_nanos() % step.as_nanos(), 0);
                assert!(due >= now && due < now + interval + step);
                *slots.entry(due).or_insert(0) += 1;
            }
            let most = *slots.values().max().unwrap();
            assert!(most <= MAX_CLIENTS_PER_SLOT + 2, "{most} of {clients}");
        }
    }

    #[test]
    fn think_pace_waits_for_answers() {
        let now = Instant::now();
        let mut tracker = MessageTracker::new(
            &messages(Pace::Think(SECOND), None, Answer::Ack),
            0,
            3,
            grid_for_one_client(now),
            now,
        );
        let first = tracker.due().unwrap();
        tracker.record_sent();
        assert_eq!(tracker.due(), None);
        let later = now + 9 * SECOND;
        assert_eq!(tracker.answered(0, later), Some(first));
        assert_eq!(tracker.due(), Some(later + SECOND));
        tracker.record_sent();
        assert_eq!(tracker.give_up(later), Some(later + SECOND));
        assert_eq!(tracker.due(), Some(later + SECOND));
    }

    #[test]
    fn message_count_includes_earlier_connections() {
        let now = Instant::now();
        let wanted = messages(Pace::Every(SECOND), Some(3), Answer::Ack);
        let mut tracker = MessageTracker::new(&wanted, 1, 0, grid_for_one_client(now), now);
        tracker.record_sent();
        tracker.record_sent();
        assert_eq!((tracker.due(), tracker.is_done()), (None, false));
        tracker.answered(1, now);
        tracker.answered(0, now);
        assert!(tracker.is_done());
        assert!(MessageTracker::new(&wanted, 3, 0, grid_for_one_client(now), now).is_done());
    }

    #[test]
    fn client_that_stays_is_never_done() {
        let now = Instant::now();
        let wanted =
            Messages { stay: true, ..messages(Pace::Every(SECOND), Some(1), Answer::Nothing) };
        let mut tracker = MessageTracker::new(&wanted, 0, 0, grid_for_one_client(now), now);
        tracker.record_sent();
        assert_eq!((tracker.settled(), tracker.due(), tracker.is_done()), (1, None, false));
    }

    #[test]
    fn message_without_expected_answer_is_settled_when_sent() {
        let now = Instant::now();
        let wanted = messages(Pace::Every(SECOND), Some(1), Answer::Nothing);
        let mut tracker = MessageTracker::new(&wanted, 0, 0, grid_for_one_client(now), now);
        tracker.record_sent();
        assert!(tracker.is_done());
        assert_eq!(tracker.deadline(SECOND), None);
    }

    #[test]
    fn silent_client_sends_nothing() {
        let now = Instant::now();
        let tracker = MessageTracker::new(
            &messages(Pace::Silent, None, Answer::Ack),
            0,
            0,
            grid_for_one_client(now),
            now,
        );
        assert_eq!((tracker.due(), tracker.is_done()), (None, false));
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

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
mod tests;

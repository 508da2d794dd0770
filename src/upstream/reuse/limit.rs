//! After how long a backend closes idle connections, so far as it has shown.
//!
//! A single close says little: the process may have ended, or a worker been replaced. Two closes in a row
//! after about the same time are taken for the limit that the server was configured with. Nothing
//! shows a longer limit once connections are dropped before it, so that a limit is forgotten after
//! some minutes, and learned anew where it still holds. Time is passed in.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How long a limit is believed after it was last shown.
const BELIEVED: Duration = Duration::from_secs(600);

/// Two closes are alike if their times differ by no more than an eighth and this, in milliseconds.
const SLACK: u32 = 20;

/// Closes after less than this, in milliseconds, are no idle limits: a process that ends closes all its
/// connections, however young.
const SHORTEST: u32 = 500;

/// The limit of one backend.
#[derive(Debug)]
pub(super) struct ObservedLimit {
    start: Instant,
    /// Milliseconds of the last close; 0: there was none.
    last: AtomicU32,
    /// Bits 32 on: the limit in milliseconds; 0: none. Below: seconds since `start` when it was shown.
    limit: AtomicU64,
}

impl ObservedLimit {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, last: AtomicU32::new(0), limit: AtomicU64::new(0) }
    }

    /// The backend has closed a connection after it had been idle for so long.
    pub(super) fn note(&self, idle: Duration, now: Instant) {
        let idle = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
        if idle < SHORTEST {
            return;
        }
        let last = self.last.swap(idle, Relaxed);
        if last != 0 && idle.abs_diff(last) <= last / 8 + SLACK {
            // A close that is seen late, on a busy machine, must not raise the limit.
            let known = self.get(now).and_then(|limit| u32::try_from(limit.as_millis()).ok());
            let limit = known.unwrap_or(u32::MAX).min(idle).min(last);
            self.limit.store(u64::from(limit) << 32 | u64::from(self.seconds(now)), Relaxed);
        }
    }

    /// The limit; `None`: none is known, or it was last shown too long ago.
    pub(super) fn get(&self, now: Instant) -> Option<Duration> {
        let word = self.limit.load(Relaxed);
        if word == 0 {
            return None;
        }
        let age = self.seconds(now).saturating_sub(word as u32);
        (u64::from(age) < BELIEVED.as_secs()).then(|| Duration::from_millis(word >> 32))
    }

    /// Forgets all of it.
    pub(super) fn forget(&self) {
        self.last.store(0, Relaxed);
        self.limit.store(0, Relaxed);
    }

    fn seconds(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.start).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_closes_all_its_connections_at_once_shows_no_limit() {
        let start = Instant::now();
        let shown = ObservedLimit::new(start);
        for idle in [3, 5, 4, 120, 125, 499] {
            shown.note(Duration::from_millis(idle), start);
        }
        assert_eq!(shown.get(start), None);
    }

    #[test]
    fn two_closes_after_the_same_time_are_a_limit_and_one_is_none() {
        let start = Instant::now();
        let shown = ObservedLimit::new(start);
        let millis = Duration::from_millis;
        for idle in [2_000, 300, 5_000, 900] {
            shown.note(millis(idle), start);
        }
        assert_eq!(shown.get(start), None);
        shown.note(millis(2_040), start);
        shown.note(millis(2_003), start);
        assert_eq!(shown.get(start), Some(millis(2_003)));
        shown.note(millis(10), start);
        assert_eq!(shown.get(start), Some(millis(2_003)), "one close changes nothing");
        shown.forget();
        assert_eq!(shown.get(start), None);
    }

    #[test]
    fn a_limit_is_forgotten_when_nothing_has_shown_it_for_long() {
        let start = Instant::now();
        let shown = ObservedLimit::new(start);
        let later = start + Duration::from_secs(100);
        (0..2).for_each(|_| shown.note(Duration::from_secs(2), later));
        assert!(shown.get(later + BELIEVED - Duration::from_secs(1)).is_some());
        assert_eq!(shown.get(later + BELIEVED), None);
    }
}

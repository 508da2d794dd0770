//! Observed idle timeout of a backend: after how long it closes idle connections.
//!
//! A single close proves little: the process may have ended, or a worker may have been replaced. If two
//! closes in a row happen after about the same idle time, this time is used as the timeout. Then
//! connections are dropped earlier, so a longer timeout could not be observed. Therefore the limit
//! expires after some minutes and is learned again if it still holds. Callers pass the time.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How long a limit is used after it was last observed.
const LIFETIME: Duration = Duration::from_secs(600);

/// Two closes match if their idle times differ by at most an eighth plus this, in milliseconds.
const SLACK: u32 = 20;

/// Shorter idle times, in milliseconds, are ignored: a process that ends closes all its connections.
const SHORTEST: u32 = 500;

/// The limit of one backend.
#[derive(Debug)]
pub(super) struct ObservedLimit {
    start: Instant,
    /// Idle time of the last close in milliseconds; 0 if there was none.
    last: AtomicU32,
    /// Bits 32–63: the limit in milliseconds; 0 if none. Bits 0–31: when it was observed, in seconds since
    /// `start`.
    limit: AtomicU64,
}

impl ObservedLimit {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, last: AtomicU32::new(0), limit: AtomicU64::new(0) }
    }

    /// Records that the backend closed a connection that had been idle for `idle`.
    pub(super) fn record_close(&self, idle: Duration, now: Instant) {
        let idle = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
        if idle < SHORTEST {
            return;
        }
        let last = self.last.swap(idle, Relaxed);
        if last != 0 && idle.abs_diff(last) <= last / 8 + SLACK {
            // A close that is noticed late on a busy machine must not raise the limit.
            let known = self.get(now).and_then(|limit| u32::try_from(limit.as_millis()).ok());
            let limit = known.unwrap_or(u32::MAX).min(idle).min(last);
            self.limit.store(u64::from(limit) << 32 | u64::from(self.seconds(now)), Relaxed);
        }
    }

    /// Returns the limit; `None` if it is unknown or expired.
    pub(super) fn get(&self, now: Instant) -> Option<Duration> {
        let word = self.limit.load(Relaxed);
        if word == 0 {
            return None;
        }
        let age = self.seconds(now).saturating_sub(word as u32);
        (u64::from(age) < LIFETIME.as_secs()).then(|| Duration::from_millis(word >> 32))
    }

    /// Resets the limit.
    pub(super) fn reset(&self) {
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
    fn closing_all_connections_at_once_is_not_a_limit() {
        let start = Instant::now();
        let observed = ObservedLimit::new(start);
        for idle in [3, 5, 4, 120, 125, 499] {
            observed.record_close(Duration::from_millis(idle), start);
        }
        assert_eq!(observed.get(start), None);
    }

    #[test]
    fn two_closes_after_the_same_time_set_a_limit_and_one_does_not() {
        let start = Instant::now();
        let observed = ObservedLimit::new(start);
        let millis = Duration::from_millis;
        for idle in [2_000, 300, 5_000, 900] {
            observed.record_close(millis(idle), start);
        }
        assert_eq!(observed.get(start), None);
        observed.record_close(millis(2_040), start);
        observed.record_close(millis(2_003), start);
        assert_eq!(observed.get(start), Some(millis(2_003)));
        observed.record_close(millis(10), start);
        assert_eq!(observed.get(start), Some(millis(2_003)), "a single close changes nothing");
        observed.reset();
        assert_eq!(observed.get(start), None);
    }

    #[test]
    fn a_limit_expires_if_it_is_not_observed_again() {
        let start = Instant::now();
        let observed = ObservedLimit::new(start);
        let later = start + Duration::from_secs(100);
        (0..2).for_each(|_| observed.record_close(Duration::from_secs(2), later));
        assert!(observed.get(later + LIFETIME - Duration::from_secs(1)).is_some());
        assert_eq!(observed.get(later + LIFETIME), None);
    }
}

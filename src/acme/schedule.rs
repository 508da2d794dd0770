//! When a certificate is ordered: pure arithmetic, without a clock or orders.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{challenge_type::ChallengeType, error::OrderError};

/// Random time before two thirds of a certificate's lifetime at which it may be renewed, as a share of the
/// lifetime. Proxies that ordered at the same time then do not renew at the same time.
const EARLY: f64 = 0.03;

/// Random change of a wait after a failure, as a share of the wait.
const SPREAD: f64 = 0.1;

/// Maximum wait, whatever a server, a file or a changed clock says.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Minimum time between the starts of two attempts, even if an operator requests a retry.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Number of consecutive failures after which [`SLOW_MIN_INTERVAL`] replaces [`MIN_INTERVAL`]. Let's
/// Encrypt allows 5 failures of a name per hour, and one more every 12 minutes.
const FAST_RETRIES: u32 = 3;

/// See [`FAST_RETRIES`].
const SLOW_MIN_INTERVAL: Duration = Duration::from_secs(900);

/// Exponential backoff after failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// Wait after the first failure in a row. Each further failure doubles it.
    pub(super) first: Duration,
    /// Maximum wait, if the server does not request a longer one.
    pub(super) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(60), longest: Duration::from_secs(6 * 3600) }
    }
}

impl Backoff {
    /// Returns the wait after this number of consecutive failures, at least 1. `chance` is in 0..1.
    fn wait(&self, failures: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let own = self.first.saturating_mul(doubled).min(self.longest);
        own.mul_f64(1.0 + SPREAD * (2.0 * chance - 1.0)).min(self.longest)
    }
}

/// History of consecutive failed attempts. It is stored, so that a process that restarts again and again
/// does not order again and again. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct AttemptHistory {
    /// Number of failures, with the attempt that is running.
    failures: u32,
    /// Start of the last attempt.
    began: u64,
    /// Start of the next attempt, unless an operator requests an earlier one.
    until: u64,
    /// End of the server's `Retry-After`; 0: the server sent none.
    #[serde(rename = "come_back")]
    retry_after: u64,
    /// Challenge type of the next attempt.
    #[serde(rename = "way")]
    pub(super) challenge: ChallengeType,
}

impl AttemptHistory {
    /// Records the start of an attempt. It counts as a failure until its outcome is known.
    pub(super) fn begin(&mut self, backoff: &Backoff, now: SystemTime, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.began = seconds(now);
        self.until = seconds(now + backoff.wait(self.failures, chance));
        self.retry_after = 0;
    }

    /// Records the failure of the attempt. A `Retry-After` of the server lengthens the wait, up to a day.
    /// If a challenge failed and `both` types can be used, the next attempt uses the other type.
    pub(super) fn fail(
        &mut self,
        error: &OrderError,
        both: bool,
        backoff: &Backoff,
        now: SystemTime,
        chance: f64,
    ) {
        self.retry_after = error.retry_after.map_or(0, |wait| seconds(now + wait.min(MAX_WAIT)));
        let own = seconds(now + backoff.wait(self.failures, chance));
        self.until = own.max(self.retry_after);
        if error.challenge_failed && both {
            self.challenge = self.challenge.other();
        }
    }

    /// Records that the attempt brought a certificate.
    pub(super) fn succeed(&mut self) {
        *self = Self { challenge: self.challenge, ..Self::default() };
    }

    /// Whether the last attempt is later than the last attempt of `other`.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.began > other.began
    }

    /// Time until the next attempt. `requested`: an operator requests a retry.
    pub(super) fn wait(&self, now: SystemTime, requested: bool) -> Duration {
        let interval = match self.failures {
            0 => Duration::ZERO,
            failures if failures <= FAST_RETRIES => MIN_INTERVAL,
            _ => SLOW_MIN_INTERVAL,
        };
        let earliest = self.began.saturating_add(interval.as_secs()).max(self.retry_after);
        let until = if requested { earliest.min(self.until) } else { self.until };
        Duration::from_secs(until.saturating_sub(seconds(now))).min(MAX_WAIT)
    }
}

/// Returns when a certificate is renewed: at two thirds of its lifetime, or a little earlier by `chance`
/// in 0..1.
pub(super) fn renewal(from: SystemTime, to: SystemTime, chance: f64) -> SystemTime {
    let lifetime = to.duration_since(from).unwrap_or_default();
    from + lifetime.mul_f64(2.0 / 3.0 - EARLY * chance)
}

/// Seconds since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_renewed_at_two_thirds_of_its_lifetime_or_a_little_before() {
        let from = SystemTime::UNIX_EPOCH;
        let to = from + Duration::from_secs(90_000);
        let after = |chance| renewal(from, to, chance).duration_since(from).unwrap().as_secs();
        assert_eq!(after(0.0), 60_000);
        assert_eq!(after(0.5), 58_650);
        assert_eq!(after(1.0), 57_300);
        assert_eq!(
            renewal(to, from, 0.5),
            to,
            "a certificate that ends before it begins is renewed at once"
        );
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn error(retry_after: Option<u64>) -> OrderError {
        let retry_after = retry_after.map(Duration::from_secs);
        OrderError { challenge_failed: true, retry_after, ..OrderError::new("") }
    }

    /// A number of failed attempts, all at the same moment.
    fn history(failures: u32, retry_after: Option<u64>) -> AttemptHistory {
        let mut history = AttemptHistory::default();
        for _ in 0..failures {
            history.begin(&Backoff::default(), NOW, 0.5);
            history.fail(&error(retry_after), true, &Backoff::default(), NOW, 0.5);
        }
        history
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let minutes: Vec<u64> = (0..=11)
            .map(|failures| history(failures, None).wait(NOW, false).as_secs() / 60)
            .collect();
        assert_eq!(minutes, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(u32::MAX, 1.0), backoff.longest);
        assert_eq!(backoff.wait(1, 0.0), Duration::from_secs(54));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_secs(66));
    }

    #[test]
    fn retry_after_of_the_server_is_respected_up_to_a_day() {
        let left =
            |failures, retry_after| history(failures, Some(retry_after)).wait(NOW, false).as_secs();
        assert_eq!(left(1, 7200), 7200);
        assert_eq!(
            history(1, Some(7200)).wait(NOW, true).as_secs(),
            7200,
            "a requested retry does not shorten it"
        );
        assert_eq!(left(3, 5), 240);
        assert_eq!(left(1, 90_000), 86_400);
        assert_eq!(left(1, u64::MAX), 86_400);
    }

    #[test]
    fn requested_retries_wait_less_but_are_limited() {
        let requested: Vec<u64> =
            (0..=5).map(|failures| history(failures, None).wait(NOW, true).as_secs()).collect();
        // Never longer than without a request.
        assert_eq!(requested, [0, 5, 5, 5, 480, 900]);
        let later = NOW + Duration::from_secs(20);
        assert_eq!(history(1, None).wait(later, true), Duration::ZERO);
    }

    #[test]
    fn interrupted_attempt_counts_as_failure_and_clock_set_back_waits_a_day_at_most() {
        let mut history = AttemptHistory::default();
        let late = NOW + Duration::from_secs(1 << 30);
        history.begin(&Backoff::default(), late, 0.5);
        assert_eq!(history.wait(late, false), Duration::from_secs(60));
        assert_eq!(history.wait(NOW, false), MAX_WAIT);
        history.succeed();
        assert_eq!(history, AttemptHistory::default());
    }

    #[test]
    fn challenge_types_alternate_after_failed_challenges() {
        assert_eq!(history(1, None).challenge, ChallengeType::Http);
        assert_eq!(history(2, None).challenge, ChallengeType::TlsAlpn);
        let mut history = AttemptHistory::default();
        history.fail(&error(None), false, &Backoff::default(), NOW, 0.5);
        assert_eq!(history.challenge, ChallengeType::TlsAlpn);
        history.fail(&OrderError::new(""), true, &Backoff::default(), NOW, 0.5);
        assert_eq!(history.challenge, ChallengeType::TlsAlpn);
    }
}

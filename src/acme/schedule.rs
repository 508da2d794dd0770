//! When a certificate is ordered: arithmetic of time and chance, no clock and no order.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::order::{Failure, Way};

/// How far before two thirds of its life a certificate may be renewed, as part of its life: proxies
/// that got theirs at one time do not come at one time.
const EARLY: f64 = 0.03;

/// How far a wait after a failure is stretched or shortened by chance.
const SPREAD: f64 = 0.1;

/// No wait is longer, whatever a server, a file or a clock that was set says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Least time from the beginning of one attempt to that of the next, however often it is asked for.
const FLOOR: Duration = Duration::from_secs(5);

/// Failures in a row after which [`FLOOR`] is no more the least time, but [`SLOW_FLOOR`]: Let's Encrypt
/// takes 5 failures an hour for a name, and gives one back every 12 minutes.
const AT_ONCE: u32 = 3;

/// See [`AT_ONCE`].
const SLOW_FLOOR: Duration = Duration::from_secs(900);

/// The waits after failures: the first, and the longest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After the first failure in a row; each further one doubles it.
    pub(super) first: Duration,
    /// No wait of our own is longer.
    pub(super) longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_secs(60), longest: Duration::from_secs(6 * 3600) }
    }
}

impl Pace {
    /// How long to wait after so many failures in a row, at least 1; `chance` is in 0..1.
    fn wait(&self, failures: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let own = self.first.saturating_mul(doubled).min(self.longest);
        own.mul_f64(1.0 + SPREAD * (2.0 * chance - 1.0)).min(self.longest)
    }
}

/// What attempts in a row that have brought nothing leave behind; it outlives the process, so that one
/// that is started over and over does not order over and over. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct AttemptHistory {
    /// How many, the one that is being made included.
    failures: u32,
    /// When the last one began.
    began: u64,
    /// When to try again of one's own accord.
    until: u64,
    /// Before when its server does not want to be asked; 0: it has said nothing.
    come_back: u64,
    /// How names are proved the next time.
    pub(super) way: Way,
}

impl AttemptHistory {
    /// An attempt begins, and counts as a failure until it is known to be none.
    pub(super) fn begin(&mut self, pace: &Pace, now: SystemTime, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.began = seconds(now);
        self.until = seconds(now + pace.wait(self.failures, chance));
        self.come_back = 0;
    }

    /// The attempt that has begun has failed. A server that says when to come back is believed where
    /// that is later than what is due, up to a day; where a proof has failed the other way is next, if
    /// there is one.
    pub(super) fn fail(
        &mut self,
        failure: &Failure,
        other: bool,
        pace: &Pace,
        now: SystemTime,
        chance: f64,
    ) {
        self.come_back = failure.come_back.map_or(0, |wait| seconds(now + wait.min(LONGEST)));
        let own = seconds(now + pace.wait(self.failures, chance));
        self.until = own.max(self.come_back);
        if failure.unproved && other {
            self.way = self.way.other();
        }
    }

    /// There is a certificate.
    pub(super) fn succeed(&mut self) {
        *self = Self { way: self.way, ..Self::default() };
    }

    /// Whether it ends with a later attempt than another.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.began > other.began
    }

    /// How long to wait before the next attempt; `asked`: somebody wants to see it tried.
    pub(super) fn left(&self, now: SystemTime, asked: bool) -> Duration {
        let floor = match self.failures {
            0 => Duration::ZERO,
            failures if failures <= AT_ONCE => FLOOR,
            _ => SLOW_FLOOR,
        };
        let soonest = self.began.saturating_add(floor.as_secs()).max(self.come_back);
        let until = if asked { soonest.min(self.until) } else { self.until };
        Duration::from_secs(until.saturating_sub(seconds(now))).min(LONGEST)
    }
}

/// When a certificate is renewed: at two thirds of its life, or a little earlier by `chance` in 0..1.
pub(super) fn renewal(from: SystemTime, to: SystemTime, chance: f64) -> SystemTime {
    let life = to.duration_since(from).unwrap_or_default();
    from + life.mul_f64(2.0 / 3.0 - EARLY * chance)
}

/// Since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_or_a_little_before() {
        let from = SystemTime::UNIX_EPOCH;
        let to = from + Duration::from_secs(90_000);
        let after = |chance| renewal(from, to, chance).duration_since(from).unwrap().as_secs();
        assert_eq!(after(0.0), 60_000);
        assert_eq!(after(0.5), 58_650);
        assert_eq!(after(1.0), 57_300);
        assert_eq!(renewal(to, from, 0.5), to, "one that ends before it begins is renewed at once");
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn failure(come_back: Option<u64>) -> Failure {
        let come_back = come_back.map(Duration::from_secs);
        Failure { unproved: true, come_back, ..String::new().into() }
    }

    /// After so many attempts that have all begun and failed at one moment.
    fn history(failures: u32, come_back: Option<u64>) -> AttemptHistory {
        let mut history = AttemptHistory::default();
        for _ in 0..failures {
            history.begin(&Pace::default(), NOW, 0.5);
            history.fail(&failure(come_back), true, &Pace::default(), NOW, 0.5);
        }
        history
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let minutes: Vec<u64> = (0..=11)
            .map(|failures| history(failures, None).left(NOW, false).as_secs() / 60)
            .collect();
        assert_eq!(minutes, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        let pace = Pace::default();
        assert_eq!(pace.wait(u32::MAX, 1.0), pace.longest);
        assert_eq!(pace.wait(1, 0.0), Duration::from_secs(54));
        assert_eq!(pace.wait(1, 1.0), Duration::from_secs(66));
    }

    #[test]
    fn a_server_that_says_when_to_come_back_is_believed_up_to_a_day() {
        let left =
            |failures, come_back| history(failures, Some(come_back)).left(NOW, false).as_secs();
        assert_eq!(left(1, 7200), 7200);
        assert_eq!(
            history(1, Some(7200)).left(NOW, true).as_secs(),
            7200,
            "nobody may come sooner"
        );
        assert_eq!(left(3, 5), 240);
        assert_eq!(left(1, 90_000), 86_400);
        assert_eq!(left(1, u64::MAX), 86_400);
    }

    #[test]
    fn who_asks_need_not_wait_long_but_not_for_ever_again() {
        let asked: Vec<u64> =
            (0..=5).map(|failures| history(failures, None).left(NOW, true).as_secs()).collect();
        // Never longer than without asking.
        assert_eq!(asked, [0, 5, 5, 5, 480, 900]);
        let later = NOW + Duration::from_secs(20);
        assert_eq!(history(1, None).left(later, true), Duration::ZERO);
    }

    #[test]
    fn an_attempt_that_is_cut_short_counts_as_a_failure_and_a_clock_set_back_is_survived() {
        let mut history = AttemptHistory::default();
        let late = NOW + Duration::from_secs(1 << 30);
        history.begin(&Pace::default(), late, 0.5);
        assert_eq!(history.left(late, false), Duration::from_secs(60));
        assert_eq!(history.left(NOW, false), LONGEST);
        history.succeed();
        assert_eq!(history, AttemptHistory::default());
    }

    #[test]
    fn ways_alternate_where_there_are_two_and_a_proof_failed() {
        assert_eq!(history(1, None).way, Way::Http);
        assert_eq!(history(2, None).way, Way::TlsAlpn);
        let mut history = AttemptHistory::default();
        history.fail(&failure(None), false, &Pace::default(), NOW, 0.5);
        assert_eq!(history.way, Way::TlsAlpn);
        history.fail(&String::new().into(), true, &Pace::default(), NOW, 0.5);
        assert_eq!(history.way, Way::TlsAlpn);
    }
}

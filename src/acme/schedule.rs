//! When a certificate is ordered: arithmetic of time and chance, no clock and no order.

use std::time::{Duration, SystemTime};

/// How far before two thirds of its life a certificate may be renewed, as part of its life: proxies
/// that got theirs at one time do not come at one time.
const EARLY: f64 = 0.03;

/// How far a wait after a failure is stretched or shortened by chance.
const SPREAD: f64 = 0.1;

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
    /// How long to wait after so many failures in a row, at least 1; `chance` is in 0..1. A server that
    /// says when to come back is believed where that is later.
    pub(super) fn wait(&self, failures: u32, come_back: Option<Duration>, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let own = self.first.saturating_mul(doubled).min(self.longest);
        let own = own.mul_f64(1.0 + SPREAD * (2.0 * chance - 1.0));
        own.min(self.longest).max(come_back.unwrap_or_default())
    }
}

/// When a certificate is renewed: at two thirds of its life, or a little earlier by `chance` in 0..1.
pub(super) fn renewal(from: SystemTime, to: SystemTime, chance: f64) -> SystemTime {
    let life = to.duration_since(from).unwrap_or_default();
    from + life.mul_f64(2.0 / 3.0 - EARLY * chance)
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

    #[test]
    fn waits_double_up_to_the_longest() {
        let pace = Pace::default();
        let minutes: Vec<u64> =
            (1..=11).map(|failures| pace.wait(failures, None, 0.5).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        assert_eq!(pace.wait(u32::MAX, None, 1.0), pace.longest);
        assert_eq!(pace.wait(1, None, 0.0), Duration::from_secs(54));
        assert_eq!(pace.wait(1, None, 1.0), Duration::from_secs(66));
    }

    #[test]
    fn a_server_that_says_when_to_come_back_is_believed() {
        let pace = Pace::default();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(pace.wait(1, Some(day), 0.5), day);
        assert_eq!(pace.wait(3, Some(Duration::from_secs(5)), 0.5), Duration::from_secs(240));
    }
}

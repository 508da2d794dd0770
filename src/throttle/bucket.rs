//! The token bucket (GCRA): one number per key, the time at which the bucket is full again.

use crate::config::Rate;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A rate and a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Nanoseconds in which one token is added.
    interval: u64,
    /// Number of tokens in a full bucket.
    burst: u32,
}

impl TokenBucket {
    pub(crate) fn new(rate: Rate, burst: u32) -> Self {
        let interval = u64::try_from(rate.interval().as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { interval, burst: burst.max(1) }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The bucket is empty; the seconds until it has a token, rounded up.
    pub(crate) fn take(&self, full_at: &mut u64, now: u64) -> Result<(), u32> {
        let next = now.max(*full_at).saturating_add(self.interval);
        let latest = now.saturating_add(self.capacity());
        if next > latest {
            return Err(seconds(next - latest));
        }
        *full_at = next;
        Ok(())
    }

    /// Number of tokens, and the seconds until the bucket is full, rounded up.
    pub(crate) fn left(&self, full_at: u64, now: u64) -> (u32, u32) {
        let missing = full_at.saturating_sub(now);
        let tokens = self.capacity().saturating_sub(missing) / self.interval;
        (u32::try_from(tokens).unwrap_or(self.burst), seconds(missing))
    }

    /// Nanoseconds in which an empty bucket fills.
    fn capacity(&self) -> u64 {
        self.interval.saturating_mul(self.burst.into())
    }

    /// Seconds in which an empty bucket fills, rounded up.
    pub(crate) fn window(&self) -> u32 {
        seconds(self.capacity())
    }

    /// Number of tokens in a full bucket.
    pub(crate) fn burst(&self) -> u32 {
        self.burst
    }
}

fn seconds(nanos: u64) -> u32 {
    u32::try_from(nanos.div_ceil(SECOND)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn bucket(times: u32, burst: u32) -> TokenBucket {
        TokenBucket::new(Rate { times, per: Duration::from_secs(1) }, burst)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = bucket(2, 3);
        let (mut full_at, mut now) = (0, 10 * SECOND);
        for left in [2, 1, 0] {
            assert_eq!(bucket.take(&mut full_at, now), Ok(()));
            assert_eq!(bucket.left(full_at, now).0, left);
        }
        assert_eq!(bucket.take(&mut full_at, now), Err(1));
        assert_eq!(bucket.left(full_at, now), (0, 2));
        now += SECOND / 2;
        assert_eq!(bucket.take(&mut full_at, now), Ok(()));
        assert_eq!(bucket.take(&mut full_at, now), Err(1));
        now += 60 * SECOND;
        assert_eq!(bucket.left(full_at, now), (3, 0));
    }

    proptest! {
        /// In any time, no more than the burst and the rate pass.
        #[test]
        fn no_more_than_burst_and_rate_pass(
            times in 1..1000_u32,
            burst in 1..100_u32,
            steps in prop::collection::vec(0..SECOND, 1..300),
        ) {
            let bucket = bucket(times, burst);
            let (mut full_at, mut now, mut passed) = (0, SECOND, 0_u64);
            for step in steps {
                now += step / 64;
                passed += u64::from(bucket.take(&mut full_at, now).is_ok());
                let most = u64::from(burst) + (now - SECOND) / bucket.interval;
                prop_assert!(passed <= most, "{passed} of {most}");
            }
        }
    }
}

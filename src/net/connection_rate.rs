//! Limits the rate of new connections of one client address.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, net::IpAddr, time::Instant};

use super::per_address::ClientNetwork;
use crate::{
    config::Rate,
    throttle::{KeyTable, Now, TokenBucket},
};

/// Number of addresses that are remembered; a flood of others replaces those that have used least of the limit.
const MOST_ADDRESSES: u32 = 65_536;

/// New connections by client address; IPv6 by /64.
#[derive(Debug)]
pub struct ConnectionRate {
    bucket: TokenBucket,
    table: KeyTable,
    /// Keyed randomly: clients cannot choose an address that meets another one.
    hasher: RandomState,
    start: Instant,
}

impl ConnectionRate {
    /// Creates the limit; at first, every address has its whole burst.
    pub fn new(rate: Rate, burst: u32) -> Self {
        Self {
            bucket: TokenBucket::new(rate, burst),
            table: KeyTable::new(MOST_ADDRESSES),
            hasher: RandomState::new(),
            start: Instant::now(),
        }
    }

    /// Counts a connection.
    ///
    /// # Errors
    /// The address is beyond its rate; the seconds until it may connect, at least 1.
    pub fn take(&self, address: IpAddr) -> Result<(), u32> {
        let key = self.hasher.hash_one(ClientNetwork::from(address));
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let now = Now { nanos, unix: 0, period: 1 };
        self.table.with(key, now, |state| self.bucket.take(&mut state.full_at, nanos))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_network_has_its_own_rate() {
        let limit = ConnectionRate::new(Rate { times: 2, per: Duration::from_secs(3600) }, 2);
        let take = |address: &str| limit.take(address.parse().unwrap());
        assert_eq!((take("192.0.2.1"), take("::ffff:192.0.2.1")), (Ok(()), Ok(())));
        assert!(take("192.0.2.1").is_err_and(|wait| (1700..=1800).contains(&wait)));
        assert_eq!(take("192.0.2.2"), Ok(()));
        assert_eq!((take("2001:db8::1"), take("2001:db8::2")), (Ok(()), Ok(())));
        assert!(take("2001:db8::3").is_err());
        assert_eq!(take("2001:db8:0:1::3"), Ok(()));
    }
}

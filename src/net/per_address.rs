//! How many connections each client address has open, and no more of them than one may.
//!
//! An address is there while a connection of its is: memory is bounded by open connections. Locks are
//! held for one look at a map.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

/// Addresses that are counted under locks of their own; a power of two.
const SHARDS: usize = 16;

/// Fewest places that are worth giving back.
const ROOMY: usize = 64;

/// Open connections by client address.
#[derive(Debug, Default)]
pub struct PerAddress {
    shards: [Mutex<HashMap<Source, u32>>; SHARDS],
    /// Chooses the shard, in a way that nobody outside can foresee.
    hasher: RandomState,
}

/// What counts as one address: of IPv6 the network that one household has at least (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// One connection, which counts until this is dropped.
#[derive(Debug)]
pub struct Counted {
    among: Arc<PerAddress>,
    source: Source,
}

impl PerAddress {
    /// Counts one more connection from this address; `None`: it has `most` of them already.
    pub fn admit(self: &Arc<Self>, address: IpAddr, most: NonZeroU32) -> Option<Arc<Counted>> {
        let source = Source::from(address);
        let mut open = self.shard(source).lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        // There is no empty entry: `most` is at least one.
        if *count >= most.get() {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Arc::new(Counted { among: Arc::clone(self), source }))
    }

    fn shard(&self, source: Source) -> &Mutex<HashMap<Source, u32>> {
        let hash = self.hasher.hash_one(source).to_le_bytes();
        &self.shards[usize::from(hash[0]) % SHARDS]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.among.shard(self.source).lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = open.get_mut(&self.source) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        open.remove(&self.source);
        if open.capacity() > ROOMY && open.len() < open.capacity() / 4 {
            let places = open.len() * 2;
            open.shrink_to(places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(typed: &str) -> IpAddr {
        typed.parse().unwrap()
    }

    fn addresses(open: &PerAddress) -> (usize, usize) {
        let sizes = open.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap();
            (shard.len(), shard.capacity())
        });
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    #[test]
    fn each_address_has_its_own_places_and_gets_them_back() {
        let open = Arc::new(PerAddress::default());
        let two = NonZeroU32::new(2).unwrap();
        let first = open.admit(ip("192.0.2.1"), two).unwrap();
        let second = open.admit(ip("::ffff:192.0.2.1"), two).unwrap();
        assert!(open.admit(ip("192.0.2.1"), two).is_none());
        assert!(open.admit(ip("192.0.2.2"), two).is_some());
        // Whoever goes on with the connection holds its place too.
        let tunnel = Arc::clone(&first);
        drop(first);
        assert!(open.admit(ip("192.0.2.1"), two).is_none());
        drop(tunnel);
        assert!(open.admit(ip("192.0.2.1"), two).is_some());
        drop(second);
        assert_eq!(addresses(&open).0, 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let open = Arc::new(PerAddress::default());
        let one = NonZeroU32::MIN;
        let _held = open.admit(ip("2001:db8:0:1::1"), one).unwrap();
        assert!(open.admit(ip("2001:db8:0:1:ffff::2"), one).is_none());
        assert!(open.admit(ip("2001:db8:0:2::1"), one).is_some());
    }

    #[test]
    fn nothing_is_kept_of_those_that_have_gone() {
        let open = Arc::new(PerAddress::default());
        let admit = |n: u32| open.admit(IpAddr::from(n.to_be_bytes()), NonZeroU32::MIN);
        let held: Vec<_> = (0..100_000).map(|n| admit(n).unwrap()).collect();
        assert_eq!(addresses(&open).0, held.len());
        drop(held);
        let (count, places) = addresses(&open);
        assert!(count == 0 && places <= 2 * ROOMY * SHARDS, "{places} places");
    }
}

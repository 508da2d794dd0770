//! Counts client connections, and limits those of one client address.
//!
//! An address is stored only while it has an open connection, so memory is bounded by open connections. Each
//! operation holds a lock for one map access.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use super::client_limits::ConnectionSlot;

/// Number of independently locked maps; a power of two.
const SHARDS: usize = 16;

/// Minimum capacity worth releasing.
const ROOMY: usize = 64;

/// Open connections by client address.
#[derive(Debug, Default)]
pub struct PerAddress {
    shards: [Mutex<HashMap<ClientNetwork, u32>>; SHARDS],
    /// Selects the shard; keyed randomly, so that clients cannot predict it.
    hasher: RandomState,
}

/// The unit that counts as one address. For IPv6, the smallest network that a household gets (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClientNetwork {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for ClientNetwork {
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

/// An open connection of an address; counted until dropped.
#[derive(Debug)]
pub struct AddressSlot {
    among: Arc<PerAddress>,
    source: ClientNetwork,
}

/// An open connection, counted among those of the process and of its address.
#[derive(Debug)]
pub struct CountedConnection {
    _slot: ConnectionSlot,
    _address: Option<Box<AddressSlot>>,
}

impl CountedConnection {
    /// Keeps both slots; `address` is `None` if the connections of an address are not limited.
    pub fn new(slot: ConnectionSlot, address: Option<Box<AddressSlot>>) -> Arc<Self> {
        Arc::new(Self { _slot: slot, _address: address })
    }
}

impl PerAddress {
    /// Counts one more connection from this address; `None` if it already has `most`.
    pub fn admit(self: &Arc<Self>, address: IpAddr, most: NonZeroU32) -> Option<Box<AddressSlot>> {
        let source = ClientNetwork::from(address);
        let mut open = self.shard(source).lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        // An entry is never zero: `most` is at least one.
        if *count >= most.get() {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Box::new(AddressSlot { among: Arc::clone(self), source }))
    }

    fn shard(&self, source: ClientNetwork) -> &Mutex<HashMap<ClientNetwork, u32>> {
        let hash = self.hasher.hash_one(source).to_le_bytes();
        &self.shards[usize::from(hash[0]) % SHARDS]
    }
}

impl Drop for AddressSlot {
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
    fn each_address_has_its_own_limit_and_releases_it() {
        let open = Arc::new(PerAddress::default());
        let two = NonZeroU32::new(2).unwrap();
        let first = open.admit(ip("192.0.2.1"), two).unwrap();
        let second = open.admit(ip("::ffff:192.0.2.1"), two).unwrap();
        assert!(open.admit(ip("192.0.2.1"), two).is_none());
        assert!(open.admit(ip("192.0.2.2"), two).is_some());
        drop(first);
        assert!(open.admit(ip("192.0.2.1"), two).is_some());
        drop(second);
        assert_eq!(addresses(&open).0, 0);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let open = Arc::new(PerAddress::default());
        let one = NonZeroU32::MIN;
        let _held = open.admit(ip("2001:db8:0:1::1"), one).unwrap();
        assert!(open.admit(ip("2001:db8:0:1:ffff::2"), one).is_none());
        assert!(open.admit(ip("2001:db8:0:2::1"), one).is_some());
    }

    #[test]
    fn closed_connections_leave_no_entries() {
        let open = Arc::new(PerAddress::default());
        let admit = |n: u32| open.admit(IpAddr::from(n.to_be_bytes()), NonZeroU32::MIN);
        let held: Vec<_> = (0..100_000).map(|n| admit(n).unwrap()).collect();
        assert_eq!(addresses(&open).0, held.len());
        drop(held);
        let (count, places) = addresses(&open);
        assert!(count == 0 && places <= 2 * ROOMY * SHARDS, "{places} places");
    }
}

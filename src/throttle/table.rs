//! The keys of a limit and their counters, in bounded memory.
//!
//! Keys are keyed hashes, in sets of [`WAYS`]: a client can choose neither the set nor another client's key. A new key
//! in a full set replaces the one that has used least of the limit, never one with open requests or tunnels. A flood
//! of new keys therefore replaces only keys that have used as little as each of the flood's own. The number of keys
//! exceeds the bound only by keys with open requests or tunnels, which are bounded by the connections of the process.
//!
//! Each operation holds the lock of one set.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Number of keys in a set.
const WAYS: usize = 16;

/// Keys and counters.
#[derive(Debug)]
pub(crate) struct KeyTable {
    sets: Box<[Mutex<Vec<KeyEntry>>]>,
}

#[derive(Clone, Copy, Debug)]
struct KeyEntry {
    key: u64,
    state: KeyState,
}

/// The counters of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyState {
    /// When the token bucket is full again, in nanoseconds since the start of the limiter.
    pub(crate) full_at: u64,
    /// Requests in the period of the quota.
    pub(crate) used: u32,
    /// Number of that period, since 1970.
    window: u32,
    /// Requests in flight.
    pub(crate) in_flight: u32,
    /// Open tunnels.
    pub(crate) tunnels: u32,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Nanoseconds since the start of the limiter.
    pub(crate) nanos: u64,
    /// Seconds since 1970.
    pub(crate) unix: u64,
    /// Length of the quota's period in seconds, at least 1.
    pub(crate) period: u32,
}

impl Now {
    fn window(self) -> u32 {
        u32::try_from(self.unix / u64::from(self.period)).unwrap_or(u32::MAX)
    }

    /// Seconds until the next period begins.
    pub(crate) fn until_window(self) -> u32 {
        self.period - (self.unix % u64::from(self.period)) as u32
    }
}

impl KeyState {
    /// The state in the current period of the quota. A clock that was set back begins no period anew.
    pub(crate) fn at(self, now: Now) -> Self {
        match now.window() > self.window {
            true => Self { window: now.window(), used: 0, ..self },
            false => self,
        }
    }

    fn is_open(&self) -> bool {
        self.in_flight > 0 || self.tunnels > 0
    }

    /// How much a key has used, for comparison.
    fn usage(self, now: Now) -> (u32, u64) {
        (self.at(now).used, self.full_at.saturating_sub(now.nanos))
    }
}

impl KeyTable {
    /// Creates an empty table for about this many keys; memory grows as it fills.
    pub(crate) fn new(most: u32) -> Self {
        let sets = (most as usize).div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Mutex::default()).collect() }
    }

    /// Returns the counters of a key.
    pub(crate) fn peek(&self, key: u64) -> KeyState {
        let set = self.set(key);
        set.iter().find(|entry| entry.key == key).map(|entry| entry.state).unwrap_or_default()
    }

    /// Changes the counters of a key. A known key allocates nothing.
    pub(crate) fn with<T>(&self, key: u64, now: Now, act: impl FnOnce(&mut KeyState) -> T) -> T {
        let mut set = self.set(key);
        if let Some(entry) = set.iter_mut().find(|entry| entry.key == key) {
            return act(&mut entry.state);
        }
        let mut state = KeyState::default();
        let acted = act(&mut state);
        let entry = KeyEntry { key, state };
        let least = match set.len() < WAYS {
            true => None,
            false => set
                .iter_mut()
                .filter(|entry| !entry.state.is_open())
                .min_by_key(|entry| entry.state.usage(now)),
        };
        match least {
            Some(least) => *least = entry,
            None => set.push(entry),
        }
        acted
    }

    /// Changes the counters of a key that has ended a request or a tunnel.
    pub(crate) fn release(&self, key: u64, act: impl FnOnce(&mut KeyState)) {
        let mut set = self.set(key);
        let Some(at) = set.iter().position(|entry| entry.key == key) else { return };
        act(&mut set[at].state);
        if set.len() > WAYS && !set[at].state.is_open() {
            set.swap_remove(at);
            set.shrink_to(WAYS);
        }
    }

    fn set(&self, key: u64) -> MutexGuard<'_, Vec<KeyEntry>> {
        // The high half of the product: any number of sets, without a division.
        let at = (u128::from(key) * self.sets.len() as u128) >> 64;
        self.sets[at as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of keys, and their memory in bytes.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        let sizes = self.sets.iter().map(|set| {
            let set = set.lock().unwrap();
            (set.len(), set.capacity() * size_of::<KeyEntry>() + size_of_val(&*set))
        });
        sizes.fold((0, 0), |(keys, bytes), (more, larger)| (keys + more, bytes + larger))
    }
}

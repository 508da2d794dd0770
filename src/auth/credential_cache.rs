//! Credentials that were verified, by a hash. No credential is stored.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{digest, hmac, rand};

/// Number of shards: workers rarely wait for each other.
const SHARDS: usize = 16;

/// Maximum number of credentials in a shard.
const MOST: usize = 1024;

/// Hash of a credential.
pub(super) type CredentialHash = [u8; 32];

/// What verified credentials have led to.
#[derive(Debug)]
pub(super) struct CredentialCache<V> {
    shards: [Mutex<HashMap<CredentialHash, Verified<V>>>; SHARDS],
}

#[derive(Debug)]
struct Verified<V> {
    value: V,
    /// When it must be verified again, in seconds since 1970.
    until: u64,
}

/// Returns the hash of a random secret, such as a token.
pub(super) fn hash(secret: &str) -> CredentialHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    hash
}

/// Hashes secrets that can be guessed, such as passwords: a copy of the memory does not help to guess them without the
/// key.
#[derive(Debug)]
pub(super) struct KeyedHash(hmac::Key);

impl KeyedHash {
    /// Creates a hash with a random key.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        // The process has no secure random numbers without the operating system, and stops.
        if rand::fill(&mut key).is_err() {
            std::process::abort();
        }
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// Returns the hash of a secret.
    pub(super) fn of(&self, secret: &[u8]) -> CredentialHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.0, secret).as_ref());
        hash
    }
}

impl<V> Default for CredentialCache<V> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<V: Clone> CredentialCache<V> {
    /// Returns what a credential has led to, if that is still valid.
    pub(super) fn find(&self, credential: &CredentialHash, now: u64) -> Option<V> {
        let shard = self.shard(credential).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(credential).filter(|known| known.until > now).map(|known| known.value.clone())
    }

    /// Stores what a credential has led to. A full shard first loses what is too old, then any.
    pub(super) fn insert(&self, credential: CredentialHash, value: V, until: u64, now: u64) {
        let mut shard = self.shard(&credential).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MOST {
            shard.retain(|_, known| known.until > now);
        }
        if shard.len() >= MOST {
            // The order of a hash map is not known to clients. A half at once: the scan is paid by many credentials.
            let mut keep = MOST / 2;
            shard.retain(|_, _| {
                keep = keep.saturating_sub(1);
                keep > 0
            });
        }
        shard.insert(credential, Verified { value, until });
    }

    /// Forgets all credentials: the keys have changed.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn shard(&self, credential: &CredentialHash) -> &Mutex<HashMap<CredentialHash, Verified<V>>> {
        &self.shards[usize::from(credential[0]) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_stays_bounded() {
        let cache = CredentialCache::default();
        for n in 0..40_000_u32 {
            cache.insert(hash(&n.to_string()), n, 10, 0);
        }
        let lengths = cache.shards.iter().map(|shard| shard.lock().unwrap().len());
        assert!(lengths.clone().all(|length| (1..=MOST).contains(&length)));
        assert_eq!(cache.find(&hash("39999"), 9), Some(39_999));
        assert_eq!(cache.find(&hash("39999"), 10), None);
        assert_eq!(cache.find(&hash("40000"), 9), None);
        cache.clear();
        assert_eq!(cache.find(&hash("39999"), 9), None);
    }

    #[test]
    fn hashes_of_passwords_depend_on_the_process() {
        let (one, other) = (KeyedHash::new(), KeyedHash::new());
        assert_eq!(one.of(b"secret"), one.of(b"secret"));
        assert_ne!(one.of(b"secret"), other.of(b"secret"));
    }
}

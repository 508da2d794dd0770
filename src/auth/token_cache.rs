//! Tokens that were verified, by their SHA-256. No token is stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;

use super::Identity;

/// Number of shards: workers rarely wait for each other.
const SHARDS: usize = 16;

/// Maximum number of tokens in a shard.
const MOST: usize = 1024;

/// Hash of a token.
type TokenHash = [u8; 32];

/// Verified tokens and their identities.
#[derive(Debug, Default)]
pub(super) struct TokenCache {
    shards: [Mutex<HashMap<TokenHash, Arc<Identity>>>; SHARDS],
}

/// Returns the hash of a token.
pub(super) fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

impl TokenCache {
    /// Returns the identity of a verified token. The caller checks the time.
    pub(super) fn find(&self, token: &TokenHash) -> Option<Arc<Identity>> {
        self.shard(token).lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// Stores a verified token. A full shard first loses the tokens that have expired, then any.
    pub(super) fn insert(&self, token: TokenHash, identity: Arc<Identity>, now: u64) {
        let mut shard = self.shard(&token).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MOST {
            shard.retain(|_, known| known.expires.is_some_and(|expires| expires > now));
        }
        if shard.len() >= MOST {
            // The order of a hash map is not known to clients. A half at once: the scan is paid by many tokens.
            let mut keep = MOST / 2;
            shard.retain(|_, _| {
                keep = keep.saturating_sub(1);
                keep > 0
            });
        }
        shard.insert(token, identity);
    }

    /// Forgets all tokens: the keys have changed.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn shard(&self, token: &TokenHash) -> &Mutex<HashMap<TokenHash, Arc<Identity>>> {
        &self.shards[usize::from(token[0]) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_stays_bounded() {
        let cache = TokenCache::default();
        for n in 0..40_000_u32 {
            let identity = Arc::new(Identity { expires: Some(u64::MAX), ..Identity::default() });
            cache.insert(hash(&n.to_string()), identity, 0);
        }
        let lengths = cache.shards.iter().map(|shard| shard.lock().unwrap().len());
        assert!(lengths.clone().all(|length| (1..=MOST).contains(&length)));
        assert!(cache.find(&hash("39999")).is_some());
        assert!(cache.find(&hash("40000")).is_none());
        cache.clear();
        assert!(cache.find(&hash("39999")).is_none());
    }
}

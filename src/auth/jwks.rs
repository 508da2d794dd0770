//! Keys from a URL: fetched at the first token, again after a while, and once for an unknown key id.
//!
//! Keys stay in use if a fetch fails or returns none. Before the first success, every token is refused.

use std::{sync::Arc, time::Duration};

use super::remote::{DocumentSource, RemoteDocument};
use crate::config::{self, VerificationKey};

/// Maximum size of a JWK set.
const MAX_SET: usize = 256 << 10;

/// Types of a set of keys, and of the metadata of a provider.
const ACCEPT: &str = "application/jwk-set+json, application/json";

/// Keys from a URL.
pub(super) type RemoteKeys = RemoteDocument<Vec<VerificationKey>>;

/// Creates the keys of a URL, which are not fetched yet.
pub(super) fn keys_from(url: String, refresh: Duration, timeout: Duration) -> Arc<RemoteKeys> {
    RemoteDocument::new(DocumentSource {
        url,
        accept: ACCEPT,
        max_size: MAX_SET,
        refresh,
        timeout,
        other: config::key_url_of_provider,
        read: Box::new(read),
        words: ("keys", "tokens are refused"),
    })
}

fn read(set: &[u8]) -> Result<Vec<VerificationKey>, String> {
    let keys = config::verification_keys_of_set(set)?;
    match keys.is_empty() {
        true => Err("the JWK set has no key that can verify tokens".to_owned()),
        false => Ok(keys),
    }
}

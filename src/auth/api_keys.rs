//! API keys: from a key to the identity of its client.
//!
//! Keys are random, so a fast hash is enough. Only the first bytes of a hash decide where the list is searched; the rest
//! is compared in constant time. Knowledge of these bytes of the hash does not help to find a key.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::{Map, Value};

use super::{
    AuthFault, AuthMethod, Identity,
    credential_cache::{self, CredentialHash},
};
use crate::config::{ApiKey, ApiKeysConfig, TokenPlace};

/// Longest key, in bytes.
const LONGEST: usize = 1024;

/// Bytes of a hash by which the list is searched.
const SEARCHED: usize = 4;

/// The API keys of a route.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    /// Sorted by hash.
    keys: Box<[(CredentialHash, Arc<Identity>)]>,
    places: Vec<TokenPlace>,
}

impl ApiKeys {
    pub(crate) fn new(config: &ApiKeysConfig) -> Self {
        let keys = config.keys.iter().map(|key| (key.hash, Arc::new(identity(key)))).collect();
        Self { keys, places: config.places.clone() }
    }

    /// Places of a key in a request.
    pub(crate) fn places(&self) -> &[TokenPlace] {
        &self.places
    }

    /// Checks a key.
    ///
    /// # Errors
    /// There is no such key, or it has expired.
    pub(crate) fn check(&self, key: &str, now: u64) -> Result<Arc<Identity>, AuthFault> {
        if key.len() > LONGEST {
            return Err(AuthFault::TooLong);
        }
        let hash = credential_cache::hash(key);
        let start = &hash[..SEARCHED];
        let from = self.keys.partition_point(|(known, _)| known[..SEARCHED] < *start);
        let near = self.keys[from..].iter().take_while(|(known, _)| known[..SEARCHED] == *start);
        let mut found = None;
        for (known, identity) in near {
            if verify_slices_are_equal(known, &hash).is_ok() {
                found = Some(identity);
            }
        }
        let identity = found.ok_or(AuthFault::UnknownApiKey)?;
        match identity.expires {
            Some(expires) if expires <= now => Err(AuthFault::Expired(Arc::clone(identity))),
            _ => Ok(Arc::clone(identity)),
        }
    }
}

fn identity(key: &ApiKey) -> Identity {
    let mut claims = Map::new();
    if !key.scopes.is_empty() {
        claims.insert("scope".to_owned(), Value::String(key.scopes.join(" ")));
    }
    Identity {
        method: AuthMethod::ApiKey,
        subject: key.client.as_str().into(),
        expires: key.expires,
        claims,
        ..Identity::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_that_of_its_client() {
        let key = |secret: &str, client: &str, expires| ApiKey {
            hash: credential_cache::hash(secret),
            client: client.to_owned(),
            expires,
            scopes: Vec::new(),
        };
        let mut keys: Vec<ApiKey> = (0..2000)
            .map(|n| key(&n.to_string(), &format!("client-{n}"), None))
            .chain([key("old", "mobile", Some(100)), key("new", "mobile", None)])
            .collect();
        // The same first bytes as another hash.
        let mut near = key("new", "near", None);
        near.hash[31] ^= 1;
        keys.push(near);
        // Those of a key that is not in the file.
        let mut other = key("absent", "other", None);
        other.hash[31] ^= 1;
        keys.push(other);
        keys.sort_by_key(|key| key.hash);
        let keys = ApiKeys::new(&ApiKeysConfig {
            path: "keys.txt".into(),
            keys: keys.into(),
            places: Vec::new(),
        });
        let subject =
            |secret: &str, now| keys.check(secret, now).map(|known| known.subject.clone());
        assert_eq!(&*subject("1234", 0).unwrap(), "client-1234");
        assert_eq!(&*subject("old", 99).unwrap(), "mobile");
        assert_eq!(&*subject("new", 100).unwrap(), "mobile");
        assert!(matches!(subject("old", 100), Err(AuthFault::Expired(_))));
        assert!(matches!(subject("absent", 0), Err(AuthFault::UnknownApiKey)));
        assert!(matches!(subject("2000", 0), Err(AuthFault::UnknownApiKey)));
        assert!(matches!(subject("", 0), Err(AuthFault::UnknownApiKey)));
        assert!(matches!(subject(&"x".repeat(2000), 0), Err(AuthFault::TooLong)));
    }
}

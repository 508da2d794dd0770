//! Types of stored responses.

use std::{path::PathBuf, time::Duration};

/// Stored responses of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Lifetime of responses that give none; `None`: they are not stored without a validator.
    pub lifetime: Option<Duration>,
    /// Lifetime of responses with `Last-Modified` alone, in percent of the time since; 0: none.
    pub heuristic: u8,
    /// How long a stale response may replace an error of the backend, unless the response says otherwise.
    pub stale_if_error: Option<Duration>,
    /// Maximum size of a stored response, in bytes.
    pub max_entry: u64,
    /// Whether responses with `Set-Cookie` are stored.
    pub store_cookies: bool,
    /// Whether `Cache-Control` of requests is followed.
    pub client_directives: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            lifetime: None,
            heuristic: 0,
            stale_if_error: None,
            max_entry: 8 << 20,
            store_cookies: false,
            client_directives: true,
        }
    }
}

/// The stored responses of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheStoreConfig {
    /// Maximum size in memory, in bytes.
    pub memory: u64,
    /// The second level on disk.
    pub disk: Option<CacheDiskConfig>,
}

/// Stored responses on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDiskConfig {
    /// The folder.
    pub path: PathBuf,
    /// Maximum size, in bytes.
    pub max: u64,
}

impl Default for CacheStoreConfig {
    fn default() -> Self {
        Self { memory: 128 << 20, disk: None }
    }
}

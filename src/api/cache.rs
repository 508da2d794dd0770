//! Stored responses: what they use, and requests that remove them.

use serde::{Deserialize, Serialize};

/// The stored responses of the process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CacheState {
    /// Maximum size in memory, in bytes.
    pub memory: u64,
    /// Size in memory, in bytes, about.
    pub used: u64,
    /// Number of URLs with stored responses, about.
    pub urls: u64,
    /// Maximum size on disk, in bytes; 0: nothing is kept there.
    pub disk: u64,
    /// Size on disk, in bytes, about.
    pub disk_used: u64,
    /// Number of URLs with stored responses on disk, about.
    pub disk_urls: u64,
}

/// Which stored responses are removed: exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Those of this URL: scheme, host, path and query, as clients see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Those whose URL begins like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Those with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// All.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What a purge has removed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Purged {
    /// Number of URLs whose stored responses were removed.
    pub urls: u64,
}

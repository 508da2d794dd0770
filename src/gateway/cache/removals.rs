//! What was removed of late, so that responses that were requested before are not stored.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use moka::sync::Cache;

/// How long the removal of a URL is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Most URLs of which that is remembered.
const MOST_REMEMBERED: u64 = 16_384;

/// Removals of stored responses.
#[derive(Debug)]
pub(super) struct Removals {
    /// When the responses of a URL were removed.
    urls: Cache<u128, Instant>,
    /// Counts purges.
    purges: AtomicU64,
}

/// A point in time between removals.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreMoment {
    at: Instant,
    purges: u64,
}

impl Removals {
    pub(super) fn new() -> Self {
        let urls = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { urls, purges: AtomicU64::new(0) }
    }

    /// The present moment.
    pub(super) fn moment(&self) -> StoreMoment {
        StoreMoment { at: Instant::now(), purges: self.purges.load(Ordering::Acquire) }
    }

    /// The responses of a URL are removed now.
    pub(super) fn note(&self, hash: u128) {
        self.urls.insert(hash, Instant::now());
    }

    /// Some responses are removed now, and perhaps those of any URL.
    pub(super) fn note_purge(&self) {
        self.purges.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the responses of a URL were not removed since.
    pub(super) fn none_since(&self, hash: u128, since: StoreMoment) -> bool {
        let is_removed = self.urls.get(&hash).is_some_and(|removed| removed >= since.at);
        !is_removed && self.purges.load(Ordering::Acquire) == since.purges
    }
}

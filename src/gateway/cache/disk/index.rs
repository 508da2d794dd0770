//! The index of the files: what they hold, for lookups and purges, and which of them make room.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use moka::{Expiry, notification::RemovalCause, policy::EvictionPolicy, sync::Cache};
use prometheus_client::metrics::counter::Counter;

use super::folder::FileName;
use crate::gateway::cache::{store::CacheKey, stored::StoredResponse, vary::SelectingFields};

/// Files use whole blocks of this size.
const BLOCK: u64 = 4096;

/// The files of a URL.
#[derive(Debug)]
pub(super) struct IndexedUrl {
    pub(super) key: CacheKey,
    pub(super) files: Box<[IndexedFile]>,
}

/// A file, as the index knows it.
#[derive(Clone, Debug)]
pub(super) struct IndexedFile {
    pub(super) name: FileName,
    pub(super) selecting: SelectingFields,
    pub(super) tags: Box<[Box<str>]>,
    /// Bytes on disk.
    size: u64,
    /// When it cannot be used any more.
    ends: Instant,
}

/// Keeps a URL as long as one of its files can be used.
struct IndexedFor;

impl IndexedFor {
    fn time(url: &IndexedUrl, now: Instant) -> Option<Duration> {
        let last = url.files.iter().map(|file| file.ends).max()?;
        Some(last.saturating_duration_since(now))
    }
}

impl Expiry<u128, Arc<IndexedUrl>> for IndexedFor {
    fn expire_after_create(
        &self,
        _: &u128,
        url: &Arc<IndexedUrl>,
        now: Instant,
    ) -> Option<Duration> {
        Self::time(url, now)
    }

    fn expire_after_update(
        &self,
        _: &u128,
        url: &Arc<IndexedUrl>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::time(url, now)
    }
}

impl IndexedFile {
    pub(super) fn new(name: FileName, response: &StoredResponse, size: u64) -> Self {
        /// Longer times are not needed, and might not be representable.
        const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
        let kept = response.kept_for(SystemTime::now()).min(LONGEST);
        Self {
            name,
            selecting: response.selecting.clone(),
            tags: response.tags.clone(),
            size: size.div_ceil(BLOCK) * BLOCK,
            ends: Instant::now() + kept,
        }
    }
}

/// Creates an index of at most `max` bytes. The files of what leaves it are added to `unlinks`.
pub(super) fn new(
    max: u64,
    unlinks: Arc<Mutex<Vec<FileName>>>,
    evicted: Counter,
) -> Cache<u128, Arc<IndexedUrl>> {
    let weigh = |_: &u128, url: &Arc<IndexedUrl>| {
        let bytes: u64 = url.files.iter().map(|file| file.size).sum();
        u32::try_from(bytes >> 10).unwrap_or(u32::MAX)
    };
    let leaves = move |_: Arc<u128>, url: Arc<IndexedUrl>, cause: RemovalCause| {
        if cause == RemovalCause::Size {
            evicted.inc();
        }
        // The thread that replaces an entry removes the files that it does not keep.
        if cause != RemovalCause::Replaced {
            let names = url.files.iter().map(|file| file.name);
            unlinks.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        }
    };
    Cache::builder()
        .max_capacity(max >> 10)
        .eviction_policy(EvictionPolicy::lru())
        .weigher(weigh)
        .expire_after(IndexedFor)
        .eviction_listener(leaves)
        .build()
}

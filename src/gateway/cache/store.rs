//! The stored responses of the process, bounded in bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, notification::RemovalCause, ops::compute::Op, sync::Cache};
use moorline_http::Head;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    flight::{Flights, Turn},
    metrics::CacheMetrics,
    stored::StoredResponse,
};

/// Most responses that are kept for one URL; the oldest is replaced.
const MOST_VARIANTS: usize = 32;

/// How long it is remembered that the response of a URL cannot be stored.
const UNSTORABLE: Duration = Duration::from_secs(60);

/// Most URLs of which that is remembered.
const MOST_UNSTORABLE: u64 = 16_384;

/// The stored responses of the process.
#[derive(Debug)]
pub(crate) struct CacheStore {
    resources: Cache<u128, Arc<Resource>>,
    /// URLs whose responses cannot be stored: requests do not wait for each other.
    unstorable: Cache<u128, ()>,
    /// When responses of a URL were removed. A response that was requested before is not stored.
    removed: Cache<u128, Instant>,
    /// Counts purges. A response that was requested before one is not stored.
    purges: AtomicU64,
    flights: Arc<Flights>,
    metrics: CacheMetrics,
    /// Maximum size, in bytes.
    memory: u64,
}

/// What names the response of a request, without the fields that select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CacheKey {
    hash: u128,
    /// Separates the responses of routes.
    scope: u64,
    url: Box<str>,
}

/// A point in time between removals.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreMoment {
    at: Instant,
    purges: u64,
}

/// The stored responses of one URL.
#[derive(Debug)]
struct Resource {
    key: CacheKey,
    variants: Box<[Arc<StoredResponse>]>,
}

/// Stored responses that are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PurgeTarget {
    /// All.
    All,
    /// Those of this URL: scheme, host, path and query.
    Url(String),
    /// Those whose URL begins like this.
    Prefix(String),
    /// Those with this tag.
    Tag(String),
}

impl CacheKey {
    /// Creates the key of a URL within a scope, such as a route: scopes share nothing.
    pub(super) fn new(scope: u64, url: impl Into<Box<str>>) -> Self {
        let url = url.into();
        Self { hash: xxh3_128_with_seed(url.as_bytes(), scope), scope, url }
    }

    /// Resolves a reference to a URL of the same origin; `None`: it is of another one, or not valid.
    pub(super) fn resolve(&self, path: &str, reference: &str) -> Option<String> {
        let (scheme, rest) = self.url.split_once("://")?;
        let host = rest.split('/').next()?;
        let reference = reference.split('#').next()?;
        if let Some((other_scheme, other)) = reference.split_once("://") {
            let (other_host, target) = other.split_once('/').unwrap_or((other, ""));
            let same =
                other_scheme.eq_ignore_ascii_case(scheme) && other_host.eq_ignore_ascii_case(host);
            return same.then(|| format!("{scheme}://{host}/{target}"));
        }
        let target = match reference.strip_prefix("//") {
            Some(_) => return None,
            None if reference.starts_with('/') => reference.to_owned(),
            None => format!("{}{reference}", &path[..=path.rfind('/')?]),
        };
        Some(format!("{scheme}://{host}{target}"))
    }

    /// The key of another URL in the same scope.
    pub(super) fn for_url(&self, url: String) -> Self {
        Self::new(self.scope, url)
    }
}

/// Keeps a resource as long as one of its responses can be used.
struct KeptFor;

impl KeptFor {
    fn time(resource: &Resource) -> Option<Duration> {
        let kept = |stored: &Arc<StoredResponse>| stored.freshness.kept_for(stored.has_validator());
        resource.variants.iter().map(kept).max()
    }
}

impl Expiry<u128, Arc<Resource>> for KeptFor {
    fn expire_after_create(
        &self,
        _: &u128,
        resource: &Arc<Resource>,
        _: Instant,
    ) -> Option<Duration> {
        Self::time(resource)
    }

    fn expire_after_update(
        &self,
        _: &u128,
        resource: &Arc<Resource>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::time(resource)
    }
}

impl CacheStore {
    /// Creates a store that uses at most `memory` bytes.
    pub(crate) fn new(memory: u64, metrics: CacheMetrics) -> Self {
        let weigh = |_: &u128, resource: &Arc<Resource>| {
            let sizes = resource.variants.iter().map(|stored| stored.size());
            u32::try_from(sizes.sum::<usize>() + resource.key.url.len() + 128).unwrap_or(u32::MAX)
        };
        let evicted = metrics.evicted.clone();
        let count = move |_: Arc<u128>, _: Arc<Resource>, cause: RemovalCause| {
            if cause == RemovalCause::Size {
                evicted.inc();
            }
        };
        Self {
            resources: Cache::builder()
                .max_capacity(memory)
                .weigher(weigh)
                .expire_after(KeptFor)
                .eviction_listener(count)
                .build(),
            unstorable: Cache::builder()
                .max_capacity(MOST_UNSTORABLE)
                .time_to_live(UNSTORABLE)
                .build(),
            removed: Cache::builder()
                .max_capacity(MOST_UNSTORABLE)
                .time_to_live(UNSTORABLE)
                .build(),
            purges: AtomicU64::new(0),
            flights: Arc::default(),
            metrics,
            memory,
        }
    }

    /// Maximum size, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    pub(super) fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }

    /// Joins the requests for this key.
    pub(super) fn join(&self, key: &CacheKey) -> Turn {
        self.flights.join(key.hash)
    }

    /// The state before a request is sent, which [`insert`](Self::insert) compares.
    pub(super) fn moment(&self) -> StoreMoment {
        StoreMoment { at: Instant::now(), purges: self.purges.load(Ordering::Acquire) }
    }

    /// Returns the response that a request selects, and whether there are responses to other requests.
    pub(super) fn find(
        &self,
        key: &CacheKey,
        request: &Head,
    ) -> (Option<Arc<StoredResponse>>, bool) {
        let Some(resource) = self.resources.get(&key.hash).filter(|found| found.key == *key) else {
            return (None, false);
        };
        let selected =
            resource.variants.iter().rev().find(|stored| stored.selecting.match_request(request));
        (selected.cloned(), true)
    }

    /// Stores a response, unless it was requested before a removal. It replaces those that the same requests select.
    pub(super) fn insert(&self, key: &CacheKey, stored: StoredResponse, since: StoreMoment) {
        let is_removed = self.removed.get(&key.hash).is_some_and(|removed| removed >= since.at);
        if is_removed || self.purges.load(Ordering::Acquire) != since.purges {
            return;
        }
        self.unstorable.invalidate(&key.hash);
        self.metrics.stored.inc();
        let stored = Arc::new(stored);
        self.resources.entry(key.hash).and_compute_with(|entry| {
            let old = entry.map(|entry| entry.into_value()).filter(|old| old.key == *key);
            let others = old.iter().flat_map(|old| old.variants.iter());
            let mut variants: Vec<_> =
                others.filter(|other| other.selecting != stored.selecting).cloned().collect();
            if variants.len() >= MOST_VARIANTS {
                variants.remove(0);
            }
            variants.push(Arc::clone(&stored));
            Op::Put(Arc::new(Resource { key: key.clone(), variants: variants.into() }))
        });
    }

    /// Removes all responses of a URL.
    pub(super) fn remove(&self, key: &CacheKey) {
        self.removed.insert(key.hash, Instant::now());
        self.resources.invalidate(&key.hash);
    }

    /// Remembers that responses of a URL cannot be stored at present.
    pub(super) fn note_unstorable(&self, key: &CacheKey) {
        self.unstorable.insert(key.hash, ());
    }

    pub(super) fn is_unstorable(&self, key: &CacheKey) -> bool {
        self.unstorable.contains_key(&key.hash)
    }

    /// Removes responses at once, and returns how many URLs had one.
    pub(crate) fn purge(&self, target: &PurgeTarget) -> u64 {
        self.purges.fetch_add(1, Ordering::AcqRel);
        self.metrics.purges.inc();
        let matches = |resource: &Resource| match target {
            PurgeTarget::All => true,
            PurgeTarget::Url(url) => *resource.key.url == **url,
            PurgeTarget::Prefix(prefix) => resource.key.url.starts_with(&**prefix),
            PurgeTarget::Tag(tag) => resource
                .variants
                .iter()
                .any(|stored| stored.tags.iter().any(|known| **known == **tag)),
        };
        let matching = self.resources.iter().filter(|(_, resource)| matches(resource));
        let hashes: Vec<u128> = matching.map(|(hash, _)| *hash).collect();
        for hash in &hashes {
            self.resources.invalidate(hash);
        }
        hashes.len() as u64
    }

    /// Bytes in use and number of URLs, about.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.resources.run_pending_tasks();
        (self.resources.weighted_size(), self.resources.entry_count())
    }
}

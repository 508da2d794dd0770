//! The stored responses of the process, bounded in bytes: in memory, and on disk if that is configured.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use moka::{Expiry, notification::RemovalCause, ops::compute::Op, sync::Cache};
use moorline_http::Head;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    disk::{DiskLevel, LoadedFile},
    flight::{Flights, Turn},
    metrics::CacheMetrics,
    removals::{Removals, StoreMoment},
    stored::StoredResponse,
};
use crate::config::CacheStoreConfig;

/// Most responses that are kept for one URL; the oldest is replaced.
pub(super) const MOST_VARIANTS: usize = 32;

/// How long it is remembered that the response of a URL cannot be stored.
const UNSTORABLE: Duration = Duration::from_secs(60);

/// Most URLs of which that is remembered.
const MOST_UNSTORABLE: u64 = 16_384;

/// The stored responses of the process.
#[derive(Debug)]
pub(crate) struct CacheStore {
    memory: MemoryLevel,
    disk: Option<DiskLevel>,
    /// URLs whose responses cannot be stored: requests do not wait for each other.
    unstorable: Cache<u128, ()>,
    /// A response that was requested before a removal is not stored.
    removals: Arc<Removals>,
    flights: Arc<Flights>,
    metrics: CacheMetrics,
    config: CacheStoreConfig,
}

/// The first level of the store.
#[derive(Clone, Debug)]
pub(super) struct MemoryLevel(Cache<u128, Arc<Resource>>);

/// What names the response of a request, without the fields that select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CacheKey {
    hash: u128,
    /// Separates the responses of routes.
    scope: u64,
    url: Box<str>,
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

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// The scope and the URL.
    pub(super) fn parts(&self) -> (u64, &str) {
        (self.scope, &self.url)
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
        let now = SystemTime::now();
        resource.variants.iter().map(|stored| stored.kept_for(now)).max()
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

impl PurgeTarget {
    /// Whether it names the responses of a URL. The function says whether one of them has a tag.
    pub(super) fn matches(&self, key: &CacheKey, has_tag: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::Url(url) => *key.url == **url,
            Self::Prefix(prefix) => key.url.starts_with(&**prefix),
            Self::Tag(tag) => has_tag(tag),
        }
    }
}

impl Resource {
    fn has_tag(&self, tag: &str) -> bool {
        self.variants.iter().any(|stored| stored.tags.iter().any(|known| **known == *tag))
    }
}

impl MemoryLevel {
    fn new(most: u64, metrics: &CacheMetrics) -> Self {
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
        Self(
            Cache::builder()
                .max_capacity(most)
                .weigher(weigh)
                .expire_after(KeptFor)
                .eviction_listener(count)
                .build(),
        )
    }

    /// Stores a response. It replaces those that the same requests select.
    fn put(&self, key: &CacheKey, stored: &Arc<StoredResponse>) {
        self.0.entry(key.hash).and_compute_with(|entry| {
            let old = entry.map(|entry| entry.into_value()).filter(|old| old.key == *key);
            let others = old.iter().flat_map(|old| old.variants.iter());
            let mut variants: Vec<_> =
                others.filter(|other| other.selecting != stored.selecting).cloned().collect();
            if variants.len() >= MOST_VARIANTS {
                variants.remove(0);
            }
            variants.push(Arc::clone(stored));
            Op::Put(Arc::new(Resource { key: key.clone(), variants: variants.into() }))
        });
    }

    /// Stores a response from the disk, unless the same requests select another one, which is newer.
    pub(super) fn add(&self, key: &CacheKey, stored: &Arc<StoredResponse>) {
        let found = self.0.get(&key.hash).filter(|found| found.key == *key);
        let is_known = |found: Arc<Resource>| {
            found.variants.iter().any(|known| known.selecting == stored.selecting)
        };
        if !found.is_some_and(is_known) {
            self.put(key, stored);
        }
    }
}

impl CacheStore {
    /// Creates a store. Its disk is opened by another thread.
    pub(crate) fn new(config: &CacheStoreConfig, metrics: CacheMetrics) -> Self {
        let memory = MemoryLevel::new(config.memory, &metrics);
        let removals = Arc::new(Removals::new());
        let disk = config.disk.as_ref().map(|disk| {
            DiskLevel::start(disk, memory.clone(), Arc::clone(&removals), metrics.clone())
        });
        Self {
            memory,
            disk,
            unstorable: Cache::builder()
                .max_capacity(MOST_UNSTORABLE)
                .time_to_live(UNSTORABLE)
                .build(),
            removals,
            flights: Arc::default(),
            metrics,
            config: config.clone(),
        }
    }

    /// The settings.
    pub(crate) fn config(&self) -> &CacheStoreConfig {
        &self.config
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
        self.removals.moment()
    }

    /// Returns the response in memory that a request selects, and whether there are responses to other requests.
    pub(super) fn find(
        &self,
        key: &CacheKey,
        request: &Head,
    ) -> (Option<Arc<StoredResponse>>, bool) {
        let Some(resource) = self.memory.0.get(&key.hash).filter(|found| found.key == *key) else {
            return (None, false);
        };
        let selected =
            resource.variants.iter().rev().find(|stored| stored.selecting.match_request(request));
        (selected.cloned(), true)
    }

    /// Reads the response on disk that a request selects; `None`: there is none.
    pub(super) fn load(
        &self,
        key: &CacheKey,
        request: &Head,
    ) -> Option<watch::Receiver<LoadedFile>> {
        self.disk.as_ref()?.load(key, request)
    }

    /// Stores a response, unless it was requested before a removal.
    pub(super) fn insert(&self, key: &CacheKey, stored: StoredResponse, since: StoreMoment) {
        if !self.removals.none_since(key.hash, since) {
            return;
        }
        self.unstorable.invalidate(&key.hash);
        self.metrics.stored.inc();
        let stored = Arc::new(stored);
        self.memory.put(key, &stored);
        if let Some(disk) = &self.disk {
            disk.write(key, &stored, since);
        }
    }

    /// Removes all responses of a URL.
    pub(super) fn remove(&self, key: &CacheKey) {
        self.removals.note(key.hash);
        self.memory.0.invalidate(&key.hash);
        if let Some(disk) = &self.disk {
            disk.remove(key);
        }
    }

    /// Remembers that responses of a URL cannot be stored at present.
    pub(super) fn note_unstorable(&self, key: &CacheKey) {
        self.unstorable.insert(key.hash, ());
    }

    pub(super) fn is_unstorable(&self, key: &CacheKey) -> bool {
        self.unstorable.contains_key(&key.hash)
    }

    /// Removes responses and their files at once, and returns how many URLs had one. Blocks.
    pub(crate) fn purge(&self, target: &PurgeTarget) -> u64 {
        if let Some(disk) = &self.disk {
            disk.wait_until_open();
        }
        self.removals.note_purge();
        self.metrics.purges.inc();
        let matching = self
            .memory
            .0
            .iter()
            .filter(|(_, resource)| target.matches(&resource.key, |tag| resource.has_tag(tag)));
        let mut hashes: HashSet<u128> = matching.map(|(hash, _)| *hash).collect();
        for hash in &hashes {
            self.memory.0.invalidate(hash);
        }
        if let Some(disk) = &self.disk {
            hashes.extend(disk.purge(target));
        }
        hashes.len() as u64
    }

    /// Bytes in memory and number of URLs, about.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.memory.0.run_pending_tasks();
        (self.memory.0.weighted_size(), self.memory.0.entry_count())
    }

    /// Bytes on disk and number of URLs, about; `None`: there is no disk.
    pub(crate) fn disk_usage(&self) -> Option<(u64, u64)> {
        self.disk.as_ref().map(DiskLevel::usage)
    }
}

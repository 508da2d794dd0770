//! The second level of the store: responses on disk, which survive a restart.
//!
//! It owns a folder with one file per response, an index of the files in memory, and one thread that reads and writes
//! them. Each response that is stored in memory is written, too. A request that memory cannot answer waits for the thread
//! only if the index has a response that it selects.
//!
//! Invariants:
//!
//! - Workers never touch the disk. They ask the index, and put jobs into a bounded queue: if it is full, a response is not
//!   written, and a request goes on to the backend. Only a purge, which may block, removes files itself.
//! - At most `max` bytes are used, in whole blocks, and one file that is being written. What was used least recently is
//!   removed first.
//! - A file is whole or missing: it gets its name after it was written. There is no `fsync`, since a damaged file is only a
//!   miss: both parts of it have a checksum, and what does not match is removed.
//! - The names of files are hashes. Files are opened relative to the folder, without following links, with mode 0600 in a
//!   folder with mode 0700.
//! - A removal reaches the index at once, and then the file. What was requested before a removal is not written after it.
//! - One process uses the folder: the last one that opened it, so that an upgrade takes it over. The other one goes on from
//!   memory.
//! - A disk that fails is logged once, and the cache goes on from memory.
//!
//! This module must not know what makes a response fresh, or which requests may have it, beyond the fields that `Vary` names.
//!
//! There are libraries, but none fits. `cacache` has no limit in bytes, and keeps what nothing names until a collection.
//! `foyer` writes to large preallocated regions, would replace the memory level as well, and cannot find entries by prefix
//! or tag; an index beside it could disagree with it after a restart. The file system already gives what is needed.

mod folder;
mod format;
mod index;
mod worker;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use moka::sync::Cache;
use moorline_http::Head;
use tokio::sync::watch;

use self::{
    folder::{FileName, ResponseFolder},
    index::IndexedUrl,
};
use super::{
    flight::{FlightGuard, Flights, Turn},
    metrics::CacheMetrics,
    removals::{Removals, StoreMoment},
    store::{CacheKey, MemoryLevel, PurgeTarget},
    stored::StoredResponse,
    vary::SelectingFields,
};
use crate::config::CacheDiskConfig;

/// Most bytes that wait to be written.
const MOST_QUEUED: usize = 16 << 20;

/// Most requests for different files that wait for them.
const MOST_LOADS: usize = 256;

/// The responses on disk.
#[derive(Debug)]
pub(super) struct DiskLevel {
    shared: Arc<DiskShared>,
}

/// A response that was read; `None`: the file is missing or damaged.
pub(super) type LoadedFile = Option<Arc<StoredResponse>>;

/// What the thread shares with others.
#[derive(Debug)]
struct DiskShared {
    /// By the hash of the URL; weighed in KiB.
    index: Cache<u128, Arc<IndexedUrl>>,
    queue: Mutex<DiskQueue>,
    /// There is a job, or the thread is to end.
    wakes: Condvar,
    /// The folder was opened, or cannot be.
    opens: Condvar,
    folder: OnceLock<ResponseFolder>,
    /// Files of removed responses.
    unlinks: Arc<Mutex<Vec<FileName>>>,
    is_closed: AtomicBool,
    loads: Arc<Flights<LoadedFile>>,
    removals: Arc<Removals>,
    metrics: CacheMetrics,
}

#[derive(Debug, Default)]
struct DiskQueue {
    loads: VecDeque<LoadJob>,
    writes: VecDeque<WriteJob>,
    /// Size of the responses in `writes`.
    bytes: usize,
    /// The index is complete, or there is none.
    is_open: bool,
}

/// A file that requests wait for.
#[derive(Debug)]
struct LoadJob {
    key: CacheKey,
    name: FileName,
    since: StoreMoment,
    guard: FlightGuard<LoadedFile>,
}

/// A response that is written.
#[derive(Debug)]
struct WriteJob {
    key: CacheKey,
    stored: Arc<StoredResponse>,
    since: StoreMoment,
}

/// What the thread does next.
#[derive(Debug)]
enum DiskJob {
    Load(LoadJob),
    Write(WriteJob),
    Unlink,
}

impl DiskLevel {
    /// Opens the folder by another thread. Until that is done, nothing is found.
    pub(super) fn start(
        config: &CacheDiskConfig,
        memory: MemoryLevel,
        removals: Arc<Removals>,
        metrics: CacheMetrics,
    ) -> Self {
        let unlinks = Arc::<Mutex<Vec<FileName>>>::default();
        let shared = Arc::new(DiskShared {
            index: index::new(config.max, Arc::clone(&unlinks), metrics.disk_evicted.clone()),
            queue: Mutex::default(),
            wakes: Condvar::new(),
            opens: Condvar::new(),
            folder: OnceLock::new(),
            unlinks,
            is_closed: AtomicBool::new(false),
            loads: Arc::default(),
            removals,
            metrics,
        });
        let (for_thread, for_config) = (Arc::clone(&shared), config.clone());
        let run = move || worker::run(&for_thread, &for_config, &memory);
        if let Err(error) = thread::Builder::new().name("cache-disk".to_owned()).spawn(run) {
            tracing::warn!(%error, "cannot start a thread; stored responses are kept only in memory");
            shared.close();
        }
        Self { shared }
    }

    /// Writes a response, if the queue has room.
    pub(super) fn write(&self, key: &CacheKey, stored: &Arc<StoredResponse>, since: StoreMoment) {
        if self.shared.is_closed() {
            return;
        }
        let (mut queue, size) = (self.shared.queue(), stored.size());
        if !queue.writes.is_empty() && queue.bytes + size > MOST_QUEUED {
            self.shared.metrics.disk_dropped.inc();
            return;
        }
        queue.bytes += size;
        let (key, stored) = (key.clone(), Arc::clone(stored));
        queue.writes.push_back(WriteJob { key, stored, since });
        drop(queue);
        self.shared.wakes.notify_one();
    }

    /// Reads the response that a request selects: it arrives by the channel. `None`: there is none, or the disk is busy.
    pub(super) fn load(
        &self,
        key: &CacheKey,
        request: &Head,
    ) -> Option<watch::Receiver<LoadedFile>> {
        if self.shared.is_closed() {
            return None;
        }
        let url = self.shared.index.get(&key.hash()).filter(|found| found.key == *key)?;
        let mut files = url.files.iter().rev();
        let name = files.find(|file| file.selecting.match_request(request))?.name;
        let guard = match self.shared.loads.join(name.url ^ u128::from(name.variant)) {
            Turn::Waits(receiver) => return Some(receiver),
            Turn::Leads(guard) => guard,
        };
        let (receiver, since) = (guard.receiver(), self.shared.removals.moment());
        let mut queue = self.shared.queue();
        if queue.loads.len() >= MOST_LOADS {
            return None;
        }
        queue.loads.push_back(LoadJob { key: key.clone(), name, since, guard });
        drop(queue);
        self.shared.wakes.notify_one();
        Some(receiver)
    }

    /// Removes the responses of a URL.
    pub(super) fn remove(&self, key: &CacheKey) {
        if !self.shared.is_closed() && self.shared.index.contains_key(&key.hash()) {
            self.shared.index.invalidate(&key.hash());
            // Under the lock, the thread cannot miss it.
            drop(self.shared.queue());
            self.shared.wakes.notify_one();
        }
    }

    /// Waits until the index is complete.
    pub(super) fn wait_until_open(&self) {
        let waits = |queue: &mut DiskQueue| !queue.is_open;
        let queue = self.shared.opens.wait_while(self.shared.queue(), waits);
        drop(queue.unwrap_or_else(PoisonError::into_inner));
    }

    /// Removes responses and their files, and returns the hashes of their URLs.
    pub(super) fn purge(&self, target: &PurgeTarget) -> Vec<u128> {
        if self.shared.is_closed() {
            return Vec::new();
        }
        let tags = |url: &IndexedUrl, tag: &str| {
            url.files.iter().any(|file| file.tags.iter().any(|known| **known == *tag))
        };
        let matching = self
            .shared
            .index
            .iter()
            .filter(|(_, url)| target.matches(&url.key, |tag| tags(url, tag)))
            .map(|(hash, _)| *hash);
        let hashes: Vec<u128> = matching.collect();
        for hash in &hashes {
            self.shared.index.invalidate(hash);
        }
        self.shared.unlink();
        hashes
    }

    /// Bytes in use and number of URLs, about.
    pub(super) fn usage(&self) -> (u64, u64) {
        if self.shared.is_closed() {
            return (0, 0);
        }
        self.shared.index.run_pending_tasks();
        (self.shared.index.weighted_size() << 10, self.shared.index.entry_count())
    }
}

impl Drop for DiskLevel {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl DiskShared {
    fn queue(&self) -> MutexGuard<'_, DiskQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Ends the thread. Its files stay.
    fn close(&self) {
        let mut queue = self.queue();
        self.is_closed.store(true, Ordering::Release);
        *queue = DiskQueue { is_open: true, ..DiskQueue::default() };
        drop(queue);
        self.wakes.notify_one();
        self.opens.notify_all();
    }

    /// The index is complete.
    fn opened(&self) {
        self.queue().is_open = true;
        self.opens.notify_all();
    }

    /// Waits for a job; `None`: the thread ends. Clients wait for loads, so they come first.
    fn next(&self) -> Option<DiskJob> {
        let is_idle = |queue: &mut DiskQueue| {
            let has_jobs = !queue.loads.is_empty() || !queue.writes.is_empty();
            !self.is_closed() && !has_jobs && self.unlinks().is_empty()
        };
        let queue = self.wakes.wait_while(self.queue(), is_idle);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return None;
        }
        if let Some(load) = queue.loads.pop_front() {
            return Some(DiskJob::Load(load));
        }
        Some(match queue.writes.pop_front() {
            Some(write) => {
                queue.bytes -= write.stored.size();
                DiskJob::Write(write)
            }
            None => DiskJob::Unlink,
        })
    }

    fn unlinks(&self) -> MutexGuard<'_, Vec<FileName>> {
        self.unlinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of removed responses.
    fn unlink(&self) {
        let names = std::mem::take(&mut *self.unlinks());
        if let Some(folder) = self.folder.get().filter(|_| !self.is_closed()) {
            names.into_iter().for_each(|name| folder.remove(name));
        }
    }
}

/// The name of the file of a response.
fn name(key: &CacheKey, selecting: &SelectingFields) -> FileName {
    FileName { url: key.hash(), variant: format::variant(selecting) }
}

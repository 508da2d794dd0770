//! The thread that reads and writes files.

use std::{io, sync::Arc};

use moka::ops::compute::Op;

use super::{
    DiskJob, DiskShared, LoadJob, WriteJob,
    folder::{ReadFile, ResponseFolder},
    format,
    index::{IndexedFile, IndexedUrl},
};
use crate::{
    config::CacheDiskConfig,
    gateway::cache::store::{CacheKey, MOST_VARIANTS, MemoryLevel},
};

/// Opens the folder, and does jobs until the level is closed.
pub(super) fn run(shared: &DiskShared, config: &CacheDiskConfig, memory: &MemoryLevel) {
    let opened = ResponseFolder::open(&config.path).and_then(|folder| {
        let folder = shared.folder.get_or_init(|| folder);
        find(shared, folder).map(|()| folder)
    });
    let folder = match opened {
        Ok(folder) => folder,
        Err(error) => {
            let path = config.path.display();
            tracing::warn!(%path, %error, "cannot use the folder; stored responses are kept only in memory");
            return shared.close();
        }
    };
    shared.opened();
    let mut is_failing = false;
    while let Some(job) = shared.next() {
        shared.unlink();
        let write = match job {
            DiskJob::Load(job) => {
                load(shared, folder, memory, job);
                continue;
            }
            DiskJob::Unlink => continue,
            DiskJob::Write(job) => job,
        };
        if !folder.is_owned() {
            let path = config.path.display();
            tracing::warn!(%path, "another process has taken over the folder; stored responses are kept only in memory");
            return shared.close();
        }
        match store(shared, folder, config.max, &write) {
            Ok(()) => is_failing = false,
            Err(error) => {
                shared.metrics.disk_failed.inc();
                if !std::mem::replace(&mut is_failing, true) {
                    let path = config.path.display();
                    tracing::warn!(%path, %error, "cannot write to the folder; stored responses are kept only in memory until it works again");
                }
            }
        }
        // The files of what had to make room.
        shared.index.run_pending_tasks();
        shared.unlink();
    }
}

/// Fills the index with what is in the folder, from the oldest file to the newest.
fn find(shared: &DiskShared, folder: &ResponseFolder) -> io::Result<()> {
    let since = shared.removals.moment();
    let mut found = Vec::new();
    for name in folder.names()? {
        if shared.is_closed() {
            break;
        }
        match folder.read_head(name) {
            Ok(ReadFile { key, response, size, modified }) => {
                found.push((modified, key, IndexedFile::new(name, &response, size)));
            }
            Err(_) => folder.remove(name),
        }
    }
    found.sort_by_key(|(modified, ..)| *modified);
    for (_, key, file) in found {
        match shared.removals.none_since(key.hash(), since) {
            true => add(shared, &key, file),
            false => folder.remove(file.name),
        }
    }
    shared.index.run_pending_tasks();
    shared.unlink();
    Ok(())
}

/// Reads a file into memory, and gives it to the requests that wait for it.
fn load(shared: &DiskShared, folder: &ResponseFolder, memory: &MemoryLevel, job: LoadJob) {
    let LoadJob { key, name, since, guard } = job;
    let Some(response) = folder.read(name).ok().filter(|found| found.key == key) else {
        forget(shared, &key, name);
        return folder.remove(name);
    };
    if shared.removals.none_since(key.hash(), since) {
        let response = Arc::new(response.response);
        memory.add(&key, &response);
        guard.land(Some(response));
    }
}

/// Writes a response. It enters the index when its file is there.
fn store(shared: &DiskShared, folder: &ResponseFolder, max: u64, job: &WriteJob) -> io::Result<()> {
    let WriteJob { key, stored, since } = job;
    let head = format::encode(key, stored);
    let size = (head.len() + stored.body.len()) as u64;
    if size > max || !shared.removals.none_since(key.hash(), *since) {
        return Ok(());
    }
    let name = super::name(key, &stored.selecting);
    if let Err(error) = folder.write(name, &[&head, &stored.body]) {
        // The former response is still there, but it is older than the one in memory.
        forget(shared, key, name);
        folder.remove(name);
        return Err(error);
    }
    if !shared.removals.none_since(key.hash(), *since) {
        folder.remove(name);
        return Ok(());
    }
    add(shared, key, IndexedFile::new(name, stored, size));
    // The entry that it replaced may have expired just now, with the same name.
    shared.unlinks().retain(|removed| *removed != name);
    if !shared.removals.none_since(key.hash(), *since) {
        // It was removed in between.
        shared.index.invalidate(&key.hash());
    }
    shared.metrics.disk_written.inc();
    Ok(())
}

/// Adds a file to the index. It replaces the one with its name; the oldest makes room.
fn add(shared: &DiskShared, key: &CacheKey, file: IndexedFile) {
    shared.index.entry(key.hash()).and_compute_with(|entry| {
        let old = entry.map(|entry| entry.into_value());
        let (same, other): (Vec<_>, Vec<_>) = old.iter().partition(|old| old.key == *key);
        let strangers = other.iter().flat_map(|old| old.files.iter().map(|file| file.name));
        shared.unlinks().extend(strangers.filter(|name| *name != file.name));
        let files = same.iter().flat_map(|old| old.files.iter());
        let mut files: Vec<_> = files.filter(|known| known.name != file.name).cloned().collect();
        if files.len() >= MOST_VARIANTS {
            shared.unlinks().push(files.remove(0).name);
        }
        files.push(file);
        Op::Put(Arc::new(IndexedUrl { key: key.clone(), files: files.into() }))
    });
}

/// Removes a file from the index.
fn forget(shared: &DiskShared, key: &CacheKey, name: super::FileName) {
    shared.index.entry(key.hash()).and_compute_with(|entry| {
        let Some(old) = entry.map(|entry| entry.into_value()) else { return Op::Nop };
        let files: Box<[_]> = old.files.iter().filter(|file| file.name != name).cloned().collect();
        match files.is_empty() {
            true => Op::Remove,
            false => Op::Put(Arc::new(IndexedUrl { key: old.key.clone(), files })),
        }
    });
}

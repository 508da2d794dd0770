//! Contents of the watched files at the last comparison.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::config::{Content, Reading};

/// A file with newer time stamps may change again without a new time stamp, because the clocks of file
/// systems are coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// The watched files with their contents.
#[derive(Debug, Default)]
pub(super) struct Contents(HashMap<PathBuf, WatchedFile>);

#[derive(Debug)]
struct WatchedFile {
    content: Content,
    /// While the identity is equal, the content is too; `None`: the file must be read.
    identity: Option<FileIdentity>,
}

/// Metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Contents {
    /// Removes all files.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds files with the contents that were read. If a file was read twice, the first content counts.
    pub(super) fn add(&mut self, readings: Vec<Reading>) {
        let mut new = HashMap::new();
        for Reading { path, content } in readings {
            new.entry(path).or_insert(WatchedFile { content, identity: None });
        }
        self.0.extend(new);
    }

    /// Returns the paths of the watched files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Compares and records the contents. Returns whether a file has changed.
    pub(super) fn compare(&mut self) -> bool {
        let mut changed = false;
        for (path, known) in &mut self.0 {
            changed |= known.compare(path);
        }
        changed
    }
}

impl WatchedFile {
    fn compare(&mut self, path: &Path) -> bool {
        if let Content::Names(_) = self.content {
            return self.record(Content::names(path), None);
        }
        let Ok(about) = fs::metadata(path) else { return self.record(Content::Unreadable, None) };
        if !about.is_file() {
            // A pipe or a device returns each byte once.
            return false;
        }
        let identity = FileIdentity::of(&about);
        if self.identity == Some(identity) {
            return false;
        }
        let content = Content::read(path).unwrap_or(Content::Unreadable);
        self.record(content, identity.is_settled().then_some(identity))
    }

    fn record(&mut self, content: Content, identity: Option<FileIdentity>) -> bool {
        let changed = content != self.content;
        *self = Self { content, identity };
        changed
    }
}

impl FileIdentity {
    fn of(about: &fs::Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let newest = self.modified.0.max(self.changed.0);
        u64::try_from(newest).is_ok_and(|newest| newest + SETTLED.as_secs() < now.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(path: &Path) -> Reading {
        Reading { path: path.to_owned(), content: Content::read(path).unwrap() }
    }

    #[test]
    fn a_change_is_found_once_and_a_new_time_is_not_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "one").unwrap();
        let mut contents = Contents::default();
        contents.add(vec![reading(&file)]);
        assert!(!contents.compare());
        fs::write(&file, "one").unwrap();
        assert!(!contents.compare(), "the same bytes");
        fs::write(&file, "two").unwrap();
        assert!(contents.compare());
        assert!(!contents.compare());
        fs::remove_file(&file).unwrap();
        assert!(contents.compare());
        assert!(!contents.compare());
        fs::write(&file, "two").unwrap();
        assert!(contents.compare(), "it is back");
    }

    #[test]
    fn a_file_with_old_time_stamps_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "one").unwrap();
        let identity = FileIdentity::of(&fs::metadata(&file).unwrap());
        assert!(!identity.is_settled());
        let old = FileIdentity { modified: (1, 0), changed: (1, 0), ..identity };
        assert!(old.is_settled());
        let mut contents = Contents::default();
        contents.add(vec![reading(&file)]);
        let known = contents.0.get_mut(&file).unwrap();
        *known = WatchedFile { content: Content::of(b"another"), identity: Some(identity) };
        assert!(!contents.compare(), "the file was read");
    }
}

//! What the watched files held when they were last looked at.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::config::{Content, Reading};

/// A file whose time stamps are younger may change again without changing them: clocks of file systems
/// are coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// The watched files with their contents.
#[derive(Debug, Default)]
pub(super) struct Contents(HashMap<PathBuf, WatchedFile>);

#[derive(Debug)]
struct WatchedFile {
    content: Content,
    /// As long as this is the same, so is the content; `None`: it has to be read to know.
    identity: Option<FileIdentity>,
}

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Contents {
    /// Forgets all files.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes these files, and what was read of them. Of a file that was read twice the first counts.
    pub(super) fn note(&mut self, readings: Vec<Reading>) {
        let mut new = HashMap::new();
        for Reading { path, content } in readings {
            new.entry(path).or_insert(WatchedFile { content, identity: None });
        }
        self.0.extend(new);
    }

    /// The watched files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Whether a file holds something else than at the last look. The new content is noted.
    pub(super) fn compare(&mut self) -> bool {
        let mut changed = false;
        for (path, known) in &mut self.0 {
            changed |= known.look_again(path);
        }
        changed
    }
}

impl WatchedFile {
    fn look_again(&mut self, path: &Path) -> bool {
        if let Content::Names(_) = self.content {
            return self.note(Content::names(path), None);
        }
        let Ok(about) = fs::metadata(path) else { return self.note(Content::Unreadable, None) };
        if !about.is_file() {
            // A pipe or a device gives each byte once.
            return false;
        }
        let identity = FileIdentity::of(&about);
        if self.identity == Some(identity) {
            return false;
        }
        let content = Content::read(path).unwrap_or(Content::Unreadable);
        self.note(content, identity.is_settled().then_some(identity))
    }

    fn note(&mut self, content: Content, identity: Option<FileIdentity>) -> bool {
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
    fn a_change_is_found_once_and_a_new_time_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "one").unwrap();
        let mut contents = Contents::default();
        contents.note(vec![reading(&file)]);
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
    fn a_file_that_has_settled_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "one").unwrap();
        let identity = FileIdentity::of(&fs::metadata(&file).unwrap());
        assert!(!identity.is_settled());
        let old = FileIdentity { modified: (1, 0), changed: (1, 0), ..identity };
        assert!(old.is_settled());
        let mut contents = Contents::default();
        contents.note(vec![reading(&file)]);
        let known = contents.0.get_mut(&file).unwrap();
        *known = WatchedFile { content: Content::of(b"another"), identity: Some(identity) };
        assert!(!contents.compare(), "the file was read");
    }
}

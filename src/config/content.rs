//! The content of a file when it was read, so that a later change is noticed.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{bytes::LARGEST_FILE, includes};

/// A file or folder that was read for a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its path, as it was resolved. The last component is a pattern if names were looked for.
    pub path: PathBuf,
    /// What was found there.
    pub content: Content,
}

/// The content that a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with bytes of this fingerprint.
    Bytes(u64),
    /// Names of this fingerprint that a pattern matches.
    Names(u64),
    /// Nothing that can be read.
    Unreadable,
}

impl Content {
    /// The content of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Bytes(xxh3_64(bytes))
    }

    /// These names, which a pattern matches.
    pub fn of_names(names: &[OsString]) -> Self {
        let mut hash = Xxh3Default::new();
        for name in names {
            hash.update(name.as_bytes());
            hash.update(b"/");
        }
        Self::Names(hash.digest())
    }

    /// The names that match a path now. The last component of the path is a pattern.
    pub fn names(pattern: &Path) -> Self {
        Self::of_names(&includes::current_names(pattern))
    }

    /// The content of a regular file, now.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > LARGEST_FILE {
            true => Ok(Self::Unreadable),
            false => Ok(Self::of(&bytes)),
        }
    }
}

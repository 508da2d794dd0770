//! What a file held when it was read, to tell later whether it holds something else.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use super::file::LARGEST_FILE;

/// A file that was read for a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its path, as it was resolved.
    pub path: PathBuf,
    /// What was found there.
    pub content: Content,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with bytes of this fingerprint.
    Bytes(u64),
    /// Nothing that can be read.
    Unreadable,
}

impl Content {
    /// The content of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Bytes(xxh3_64(bytes))
    }

    /// The content of a regular file at this moment.
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

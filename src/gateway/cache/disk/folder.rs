//! The folder of stored responses: only its owner may use it, and nothing in it leads out.

use std::{
    fmt,
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
    time::SystemTime,
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat},
    io::Errno,
    process::geteuid,
};

use super::format::{FilePrefix, PREFIX};
use crate::gateway::cache::{store::CacheKey, stored::StoredResponse};

/// The folder within the one that the configuration names. That one may exist and be open to others.
const FOLDER: &str = "responses";

/// The file that names the process that uses the folder.
const OWNER: &str = "owner";

/// Begins the names of files that are being written.
const TEMPORARY: &str = "new-";

/// The name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileName {
    /// Hash of the URL and its scope.
    pub(super) url: u128,
    /// Hash of the fields that selected the response.
    pub(super) variant: u64,
}

/// The folder, as one process uses it.
#[derive(Debug)]
pub(super) struct ResponseFolder {
    folder: OwnedFd,
    /// Names the process, by chance.
    owner: String,
}

/// What was found in a file.
#[derive(Debug)]
pub(super) struct ReadFile {
    pub(super) key: CacheKey,
    /// Without a body if only the head was read.
    pub(super) response: StoredResponse,
    /// Bytes.
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.url, self.variant)
    }
}

impl FileName {
    fn parse(name: &str) -> Option<Self> {
        let (url, variant) = name.split_once('-')?;
        let parsed = Self {
            url: u128::from_str_radix(url, 16).ok()?,
            variant: u64::from_str_radix(variant, 16).ok()?,
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl ResponseFolder {
    /// Opens or creates the folder, and takes it over from the process that used it.
    ///
    /// # Errors
    /// It cannot be created or opened, it belongs to another user, or others may read it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let outer = File::open(path)?;
        match mkdirat(&outer, FOLDER, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&outer, FOLDER, flags, Mode::empty())?;
        let about = fstat(&folder)?;
        let text = match about.st_mode & 0o077 {
            _ if about.st_uid != geteuid().as_raw() => {
                "its folder `responses` belongs to another user"
            }
            0 => "",
            _ => "other users may open its folder `responses`; set its mode to 0700",
        };
        if !text.is_empty() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let opened = Self { folder, owner: format!("{:016x}", fastrand::u64(..)) };
        opened.put(OWNER, &[opened.owner.as_bytes()])?;
        Ok(opened)
    }

    /// Whether no other process has taken the folder over.
    pub(super) fn is_owned(&self) -> bool {
        let read = || {
            let mut text = String::new();
            self.file(OWNER)?.take(64).read_to_string(&mut text).map(|_| text)
        };
        read().is_ok_and(|owner| owner == self.owner)
    }

    /// The names of stored responses. Files that a process did not finish are removed.
    pub(super) fn names(&self) -> io::Result<Vec<FileName>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match FileName::parse(name) {
                Some(name) => names.push(name),
                None if name.starts_with(TEMPORARY) => _ = self.unlink(name),
                None => {}
            }
        }
        Ok(names)
    }

    /// Reads the head of a file.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged (`InvalidData`).
    pub(super) fn read_head(&self, name: FileName) -> io::Result<ReadFile> {
        self.open_head(name).map(|(found, _, _)| found)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`read_head`](Self::read_head).
    pub(super) fn read(&self, name: FileName) -> io::Result<ReadFile> {
        let (found, prefix, mut file) = self.open_head(name)?;
        // The size is that of the file.
        let mut body = vec![0; usize::try_from(prefix.body).map_err(|_| damaged())?];
        file.read_exact(&mut body)?;
        if !prefix.is_body(&body) {
            return Err(damaged());
        }
        Ok(ReadFile { response: found.response.with_body(Bytes::from(body)), ..found })
    }

    fn open_head(&self, name: FileName) -> io::Result<(ReadFile, FilePrefix, File)> {
        let mut file = self.file(&name.to_string())?;
        let about = file.metadata()?;
        let (size, modified) = (about.len(), about.modified()?);
        let mut prefix = [0; PREFIX];
        file.read_exact(&mut prefix)?;
        let prefix = FilePrefix::read(&prefix, size).ok_or_else(damaged)?;
        let mut head = vec![0; prefix.head];
        file.read_exact(&mut head)?;
        let (key, response) = prefix.decode_head(&head).ok_or_else(damaged)?;
        if super::name(&key, &response.selecting) != name {
            return Err(damaged());
        }
        Ok((ReadFile { key, response, size, modified }, prefix, file))
    }

    /// Writes a file, which others see only when it is whole.
    pub(super) fn write(&self, name: FileName, pieces: &[&[u8]]) -> io::Result<()> {
        self.put(&name.to_string(), pieces)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: FileName) {
        // A file that cannot be removed is found again at the next start.
        _ = self.unlink(&name.to_string());
    }

    fn put(&self, name: &str, pieces: &[&[u8]]) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{}", self.owner);
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK;
        let file = openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        let written = pieces.iter().try_for_each(|piece| file.write_all(piece));
        let renamed = written.and_then(|()| {
            renameat(&self.folder, &temporary, &self.folder, name).map_err(io::Error::from)
        });
        if renamed.is_err() {
            _ = self.unlink(&temporary);
        }
        renamed
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&self.folder, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(damaged());
        }
        Ok(File::from(file))
    }

    fn unlink(&self, name: &str) -> rustix::io::Result<()> {
        unlinkat(&self.folder, name, AtFlags::empty())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "damaged file")
}

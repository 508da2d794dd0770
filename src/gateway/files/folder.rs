//! Opens and reads the files below a folder.
//!
//! The kernel resolves each name below the folder (`openat2(2)` of Linux 5.6), so that no link, and no folder that is swapped
//! meanwhile, leads out of it. Most files are in the kernel's memory: they are opened and read on the thread of the
//! connection, which never waits for the disk. Whatever would wait runs on a thread for blocking work.
//!
//! Invariants:
//!
//! - An open file is a regular file below the folder. Opening a pipe or a device could wait forever, or have effects.
//! - A link is followed if it stays below the folder, also if its target is absolute.
//!
//! This module must not know HTTP.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::{self, IoSliceMut},
    os::fd::OwnedFd,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, ReadWriteFlags, preadv2},
};
use tokio::{
    io::{AsyncRead, AsyncSeek, ReadBuf},
    task::JoinHandle,
};

/// Maximum number of bytes that a thread for blocking work reads at once.
const PIECE: usize = 256 << 10;

/// How often a name is resolved anew if folders are moved meanwhile.
const TRIES: usize = 8;

/// Whether a step may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskAccess {
    /// It fails with [`io::ErrorKind::WouldBlock`] instead.
    Cached,
    /// It waits; only for threads for blocking work.
    Blocking,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// What a name leads to.
#[derive(Debug)]
pub(super) enum FolderEntry {
    File(Box<OpenFile>),
    Folder,
    Missing,
}

impl Folder {
    /// Opens a folder; links in its own path are followed.
    ///
    /// # Errors
    /// The folder cannot be opened, or not without waiting.
    pub(super) fn open(path: &Path, access: DiskAccess) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat2(CWD, path, flags, Mode::empty(), access.flags())
            .map_err(|error| access.error(error))?;
        Ok(Self { path: path.to_owned(), descriptor })
    }

    /// Opens what has this name, which is relative; empty: the folder itself.
    ///
    /// # Errors
    /// The disk has failed, or the file cannot be opened without waiting.
    pub(super) fn entry(&self, name: &Path, access: DiskAccess) -> io::Result<FolderEntry> {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        match self.resolve(name, access) {
            Err(Errno::XDEV) if access == DiskAccess::Cached => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(Errno::XDEV) => self.entry_of_absolute_link(name),
            entry => absent(entry, access),
        }
    }

    /// Follows links with absolute targets, which the kernel counts as leading out of the folder.
    fn entry_of_absolute_link(&self, name: &Path) -> io::Result<FolderEntry> {
        let (root, real) = (self.path.canonicalize()?, self.path.join(name).canonicalize());
        let inside = real.ok().and_then(|real| Some(real.strip_prefix(&root).ok()?.to_owned()));
        let Some(inside) = inside else { return Ok(FolderEntry::Missing) };
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { &inside };
        absent(self.resolve(inside, DiskAccess::Blocking), DiskAccess::Blocking)
    }

    fn resolve(&self, name: &Path, access: DiskAccess) -> Result<FolderEntry, Errno> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | access.flags();
        let open = |flags: OFlags| {
            let flags = flags | OFlags::CLOEXEC;
            let opened = || openat2(&self.descriptor, name, flags, Mode::empty(), beneath);
            let mut outcome = opened();
            for _ in 1..TRIES {
                if access == DiskAccess::Cached || !matches!(outcome, Err(Errno::AGAIN)) {
                    break;
                }
                outcome = opened();
            }
            Ok(File::from(outcome?))
        };
        let metadata = |file: &File| file.metadata().map_err(|error| errno(&error));
        let kind = metadata(&open(OFlags::PATH)?)?.file_type();
        if kind.is_dir() {
            return Ok(FolderEntry::Folder);
        }
        if !kind.is_file() {
            return Ok(FolderEntry::Missing);
        }
        // Without waiting, if a pipe has taken its place.
        let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let metadata = metadata(&file)?;
        Ok(match metadata.is_file() {
            true => FolderEntry::File(Box::new(OpenFile::new(file, metadata))),
            false => FolderEntry::Missing,
        })
    }
}

impl DiskAccess {
    fn flags(self) -> ResolveFlags {
        match self {
            Self::Cached => ResolveFlags::CACHED,
            Self::Blocking => ResolveFlags::empty(),
        }
    }

    fn error(self, error: Errno) -> io::Error {
        match (self, error) {
            // A kernel before 5.12 does not know the flag.
            (Self::Cached, Errno::AGAIN | Errno::INVAL) => io::ErrorKind::WouldBlock.into(),
            _ => error.into(),
        }
    }
}

/// The entry, which is missing for some errors.
fn absent(entry: Result<FolderEntry, Errno>, access: DiskAccess) -> io::Result<FolderEntry> {
    match entry {
        Err(Errno::INVAL) if access == DiskAccess::Blocking => Ok(FolderEntry::Missing),
        Err(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ACCESS
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::XDEV,
        ) => Ok(FolderEntry::Missing),
        entry => entry.map_err(|error| access.error(error)),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// An open regular file, which is read from its start.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    metadata: Metadata,
    position: u64,
    /// Reads what is not in memory.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Bytes that were read there, and how many of them have been given.
    read: (Vec<u8>, usize),
}

impl OpenFile {
    fn new(file: File, metadata: Metadata) -> Self {
        let read = (Vec::new(), 0);
        Self { file: Arc::new(file), metadata, position: 0, reading: None, read }
    }

    /// The state of the file when it was opened.
    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The same file, from its start.
    pub(super) fn again(&self) -> Self {
        let (file, metadata) = (Arc::clone(&self.file), self.metadata.clone());
        Self { file, metadata, position: 0, reading: None, read: (Vec::new(), 0) }
    }

    /// Bytes that are expected from the current position on.
    fn rest(&self) -> usize {
        let rest = self.metadata.len().saturating_sub(self.position);
        usize::try_from(rest).unwrap_or(usize::MAX)
    }

    /// Gives what a thread for blocking work has read; false if there is none.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let (bytes, given) = &mut self.read;
        let count = (bytes.len() - *given).min(buffer.remaining());
        buffer.put_slice(&bytes[*given..*given + count]);
        *given += count;
        self.position += count as u64;
        count > 0
    }

    /// Reads without waiting.
    fn read_cached(&self, buffer: &mut ReadBuf<'_>) -> Result<usize, Errno> {
        // One byte more shows whether the file has grown.
        let size = buffer.remaining().min(self.rest().saturating_add(1));
        let mut parts = [IoSliceMut::new(buffer.initialize_unfilled_to(size))];
        preadv2(&self.file, &mut parts, self.position, ReadWriteFlags::NOWAIT)
    }
}

impl AsyncRead for OpenFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if buffer.remaining() == 0 || self.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            if let Some(reading) = &mut self.reading {
                let bytes = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other)?;
                self.reading = None;
                self.read = (bytes?, 0);
                if self.read.0.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.read_cached(buffer) {
                Ok(count) => {
                    buffer.advance(count);
                    self.position += count as u64;
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::INTR) => {}
                // Not in memory, or a file system that does not support the flag.
                Err(Errno::AGAIN | Errno::OPNOTSUPP) => {
                    let (file, position) = (Arc::clone(&self.file), self.position);
                    let size = self.rest().saturating_add(1).min(PIECE);
                    self.reading = Some(tokio::task::spawn_blocking(move || {
                        let mut bytes = vec![0; size];
                        let count = file.read_at(&mut bytes, position)?;
                        bytes.truncate(count);
                        Ok(bytes)
                    }));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncSeek for OpenFile {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        let io::SeekFrom::Start(position) = position else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        (self.position, self.reading, self.read) = (position, None, (Vec::new(), 0));
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

/// The path with something behind its last name.
pub(super) fn with_suffix(path: &Path, suffix: &OsStr) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

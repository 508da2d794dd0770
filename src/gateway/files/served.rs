//! One file as `tower-http` sees it: the file that was found, and its compressed forms beside it.
//!
//! `ServeDir` gets a name that stands for the file: its real name is perhaps not UTF-8, and has been resolved already. Only the
//! extension is the real one, as it decides the media type.

use std::{
    ffi::OsStr,
    fs::Metadata,
    future::{Future, Ready, ready},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tower_http::services::fs::{Backend, File};

use super::folder::{DiskAccess, Folder, FolderEntry, OpenFile, with_suffix};

/// The name that stands for the file.
const NAME: &str = "file";

/// A file that was found.
#[derive(Clone, Debug)]
pub(super) struct ServedFile(Arc<FileParts>);

#[derive(Debug)]
struct FileParts {
    folder: Folder,
    /// Relative to the folder.
    path: PathBuf,
    file: Box<OpenFile>,
}

impl ServedFile {
    pub(super) fn new(folder: Folder, path: PathBuf, file: Box<OpenFile>) -> Self {
        Self(Arc::new(FileParts { folder, path, file }))
    }

    /// The path that stands for the file.
    pub(super) fn target(&self) -> String {
        match self.0.path.extension().and_then(OsStr::to_str) {
            Some(kind) => format!("/{NAME}.{}", utf8_percent_encode(kind, NON_ALPHANUMERIC)),
            None => format!("/{NAME}"),
        }
    }

    /// What `ServeDir` has put behind the name: the extension of a compressed form.
    fn suffix(&self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let kind = self.0.path.extension().map_or(0, |kind| 1 + kind.len());
        let suffix = name.get(NAME.len() + kind..).unwrap_or_default();
        PathBuf::from(String::from_utf8_lossy(suffix).into_owned())
    }
}

impl FileParts {
    /// Opens a compressed form of the file.
    fn compressed(&self, suffix: &Path, access: DiskAccess) -> io::Result<OpenFile> {
        let path = with_suffix(&self.path, suffix.as_os_str());
        match self.folder.entry(&path, access)? {
            FolderEntry::File(file) => Ok(*file),
            FolderEntry::Folder | FolderEntry::Missing => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A step that is complete, unless it must wait for the disk.
type DiskStep<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for ServedFile {
    type File = OpenFile;
    type Metadata = Metadata;
    type OpenFuture = DiskStep<OpenFile>;
    type MetadataFuture = DiskStep<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let suffix = self.suffix(&path);
        if suffix.as_os_str().is_empty() {
            return Box::pin(ready(Ok(self.0.file.again())));
        }
        match self.0.compressed(&suffix, DiskAccess::Cached) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let found = Arc::clone(&self.0);
                let opened = tokio::task::spawn_blocking(move || {
                    found.compressed(&suffix, DiskAccess::Blocking)
                });
                Box::pin(async { opened.await.map_err(io::Error::other)? })
            }
            opened => Box::pin(ready(opened)),
        }
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let opened = self.open(path);
        Box::pin(async { Ok(opened.await?.metadata().clone()) })
    }
}

impl File for OpenFile {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(OpenFile::metadata(self).clone()))
    }
}

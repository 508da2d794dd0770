//! Reads and writes of single files, which only this user can read.
//!
//! A file is written under another name, synced and renamed, and the folder is synced.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::StoreError;

/// Writes or replaces a file, with mode 0600.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(path, bytes).map_err(|error| StoreError::Write(path.to_owned(), error))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    // A file from before a crash may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file if it exists.
///
/// # Errors
/// The file cannot be removed.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Remove(path.to_owned(), error))
        }
        _ => Ok(()),
    }
}

/// Returns the bytes of a file, if it exists. Logs why an existing file cannot be read.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let shown = path.display();
            tracing::error!(
                "cannot read {shown}: {error}; requesting a new one from the ACME server"
            );
            None
        }
    }
}

/// Sets the mode of a file to 0600 if other users can read it.
pub(super) fn restrict(path: &Path) {
    let Ok(about) = fs::metadata(path) else { return };
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    let shown = path.display();
    match fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Ok(()) => tracing::warn!(
            "other users could read {shown} (mode {mode:o}), which contains a private key; the mode is now \
             0600; if another user may have read the file, delete it, and a new key is made"
        ),
        Err(error) => tracing::error!(
            "other users can read {shown} (mode {mode:o}), which contains a private key, and the mode cannot be \
             changed: {error}; run `chmod 600 {shown}` as its owner"
        ),
    }
}

/// Renames an unusable file to `NAME.bad`, and logs why.
pub(super) fn set_aside(path: &Path, why: &str) {
    let aside = with_suffix(path, ".bad");
    let (shown, kept) = (path.display(), aside.display());
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            "cannot use {shown}: {why}; renamed it to {kept}; requesting a new one from the ACME server"
        ),
        Err(error) => tracing::error!(
            "cannot use {shown}: {why}; requesting a new one from the ACME server, which will replace the file, \
             because it cannot be renamed to {kept}: {error}"
        ),
    }
}

/// Appends a suffix to the file name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

//! Logs the secrets of TLS sessions for debugging. The file allows decrypting the sessions.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustix::process::geteuid;
use rustls::KeyLog;

/// One writer per file in the whole process, even if several listeners name the file.
static WRITERS: Mutex<Vec<Weak<KeyLogWriter>>> = Mutex::new(Vec::new());

/// Appends to a file in the format of `SSLKEYLOGFILE`, one line per write.
#[derive(Debug)]
pub(super) struct KeyLogWriter {
    path: PathBuf,
    file: Mutex<File>,
}

impl KeyLogWriter {
    /// Returns the writer of this file and restricts the file to its owner.
    ///
    /// # Errors
    /// The file cannot be opened, its mode cannot be set, or it belongs to another user; the text names the file.
    pub(super) fn of(path: &Path) -> io::Result<Arc<Self>> {
        let mut writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|writer| writer.strong_count() > 0);
        if let Some(same) = writers.iter().filter_map(Weak::upgrade).find(|w| w.path == path) {
            return Ok(same);
        }
        let file = open(path)?;
        let writer = Arc::new(Self { path: path.to_owned(), file: Mutex::new(file) });
        writers.push(Arc::downgrade(&writer));
        Ok(writer)
    }
}

/// Reopens every file, for a rotation that renamed it. If reopening fails, the old file stays in use and the error
/// is logged.
pub(crate) fn reopen() {
    let writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
    for writer in writers.iter().filter_map(Weak::upgrade) {
        match open(&writer.path) {
            Ok(file) => *writer.file.lock().unwrap_or_else(PoisonError::into_inner) = file,
            Err(error) => tracing::error!("{error}"),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let own = || {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // The owner can read the file whatever its mode.
        if file.metadata()?.uid() != geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the file belongs to another user",
            ));
        }
        // An existing file may be readable by others.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    own().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("key log {}: {error}", path.display()))
    })
}

impl KeyLog for KeyLogWriter {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        push_hex(&mut line, client_random);
        line.push(' ');
        push_hex(&mut line, secret);
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(file = %self.path.display(), %error, "cannot write to the TLS key log; a secret is missing from it");
        }
    }
}

/// Appends bytes as lower-case hex.
pub(super) fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

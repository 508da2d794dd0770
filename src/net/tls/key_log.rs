//! The secrets of sessions, for who debugs: anyone who reads them reads the sessions.

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

/// Who writes to a file is one for the whole process, however many listeners name it.
static WRITERS: Mutex<Vec<Weak<Writer>>> = Mutex::new(Vec::new());

/// Appends to a file in the format of `SSLKEYLOGFILE`, a line a write.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: Mutex<File>,
}

impl Writer {
    /// The writer of this file, which is for its owner's eyes only from then on.
    ///
    /// # Errors
    /// The file cannot be opened, its mode not be set, or it is another user's; the text names it.
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

/// Opens every file anew, for a rotation that has renamed it. Where one cannot be, the old one is written
/// to as before, and a line says so.
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
        // Whose it is, may read it whatever its mode.
        if file.metadata()?.uid() != geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        // One that was there may be open to others.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    own().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("key log {}: {error}", path.display()))
    })
}

impl KeyLog for Writer {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        push_hex(&mut line, client_random);
        line.push(' ');
        push_hex(&mut line, secret);
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(file = %self.path.display(), %error, "a TLS secret was not written");
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

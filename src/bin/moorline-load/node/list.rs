//! The list of backends that a proxy reads: an address a line.

use std::{fmt::Write, fs, io, net::SocketAddr, path::Path};

/// Replaces the list in one step, so that nobody reads half of it.
///
/// # Errors
///
/// A sentence for the user.
pub(crate) fn write(
    path: &Path,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> Result<(), String> {
    let mut text = String::new();
    for address in addresses {
        let _ = writeln!(text, "{address}");
    }
    let written = replace(path, text.as_bytes());
    written.map_err(|e| format!("the backend list {} cannot be written: {e}", path.display()))
}

/// Replaces a file in one step.
///
/// # Errors
///
/// From the file system: the old file is as it was.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    // Beside the file: a rename works within one file system only.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path))
}

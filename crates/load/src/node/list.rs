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

/// Replaces a file in one step: where the path is a link, the file that it names. Its mode stays.
///
/// # Errors
///
/// From the file system: the old file is as it was.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // Beside the file: a rename works within one file system only.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, text)?;
    if let Ok(old) = fs::metadata(&path) {
        fs::set_permissions(&fresh, old.permissions())?;
    }
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_stays_a_link_and_the_mode_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write(&link, ["127.0.0.1:1".parse().unwrap()]).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "127.0.0.1:1\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

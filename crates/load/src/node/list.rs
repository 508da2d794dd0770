//! The backend list of a proxy: one address per line.

use std::{fmt::Write, fs, io, net::SocketAddr, path::Path};

use anyhow::Context as _;

/// Replaces the list atomically, so that a reader never sees half of it.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn write(
    path: &Path,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> anyhow::Result<()> {
    let mut text = String::new();
    for address in addresses {
        let _ = writeln!(text, "{address}");
    }
    let written = replace(path, text.as_bytes());
    written.with_context(|| format!("cannot write the backend list {}", path.display()))
}

/// Replaces a file atomically. If the path is a symbolic link, replaces its target. The mode stays.
///
/// # Errors
///
/// Errors of the file system. The old file is unchanged.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // In the same folder: a rename works only within one file system.
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
    fn symbolic_link_and_mode_are_kept() {
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

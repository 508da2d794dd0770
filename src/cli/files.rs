//! Files that a command reads itself.

use std::{fs, io, path::Path};

use anyhow::anyhow;

/// The text of a file.
///
/// # Errors
/// A sentence: which file cannot be read, why, and what to do.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).map_err(|error| anyhow!(unreadable(path, &error)))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; check the path".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; run the command as a user who can read it, or with sudo".to_owned()
        }
        io::ErrorKind::IsADirectory => "it is a folder; name a file in it".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text; save it as UTF-8".to_owned(),
        _ => error.to_string(),
    };
    format!("cannot read {}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| text(path).unwrap_err().to_string();
        let absent = folder.path().join("none.toml");
        let wanted = "none.toml: there is no such file; check the path";
        assert!(said(&absent).ends_with(wanted), "{}", said(&absent));
        assert!(said(folder.path()).ends_with("it is a folder; name a file in it"));
    }
}

//! Files that a command reads itself.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::anyhow;

use crate::config;

/// Name of a file argument that stands for standard input or standard output.
pub(super) const STANDARD_INPUT: &str = "-";

/// Largest text that is read from standard input, in bytes: as for a file.
const LARGEST_INPUT: u64 = 8 << 20;

/// The text of standard input.
///
/// # Errors
/// Standard input cannot be read, is longer than 8 MiB or is not UTF-8 text.
pub(super) fn standard_input() -> io::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().take(LARGEST_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_INPUT {
        return Err(io::Error::other("standard input has more than 8 MiB; give a configuration"));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::other("standard input is not UTF-8 text; encode it as UTF-8"))
}

/// The text of a file.
///
/// # Errors
/// A sentence: which file cannot be read, why, and what to do.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let utf8 = |bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
    let text = config::file_bytes(path).and_then(utf8);
    text.map_err(|error| anyhow!(unreadable(path, &error)))
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

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let said = text(&pipe).unwrap_err().to_string();
        assert!(said.contains("nothing was written to it"), "{said}");
    }
}

//! Files and standard input that commands read.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::anyhow;

use crate::config;

/// File argument that means standard input or standard output.
pub(super) const STANDARD_INPUT: &str = "-";

/// Maximum size of standard input, in bytes; equal to that of a file.
const MAX_INPUT: u64 = 8 << 20;

/// Reads standard input.
///
/// # Errors
/// Standard input cannot be read, is longer than 8 MiB or is not UTF-8 text.
pub(super) fn standard_input() -> io::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(io::Error::other("standard input has more than 8 MiB; give a configuration"));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::other("standard input is not UTF-8 text; encode it as UTF-8"))
}

/// Reads a file.
///
/// # Errors
/// The file cannot be read; the text names it and says what to do.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let utf8 = |bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
    let text = config::file_bytes(path).and_then(utf8);
    text.map_err(|error| anyhow!(unreadable(path, &error)))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "the file does not exist; check the path".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; run the command as a user with read permission, or with sudo"
                .to_owned()
        }
        io::ErrorKind::IsADirectory => "it is a folder; name a file in it".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text; save it as UTF-8".to_owned(),
        _ => error.to_string(),
    };
    format!("cannot read {}: {reason}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let message = |path: &Path| text(path).unwrap_err().to_string();
        let absent = folder.path().join("none.toml");
        let expected = "none.toml: the file does not exist; check the path";
        assert!(message(&absent).ends_with(expected), "{}", message(&absent));
        assert!(message(folder.path()).ends_with("it is a folder; name a file in it"));
    }

    #[test]
    fn reading_a_pipe_without_a_writer_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let message = text(&pipe).unwrap_err().to_string();
        assert!(message.contains("nothing was written to it"), "{message}");
    }
}

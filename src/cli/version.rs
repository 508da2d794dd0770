//! `moorline version` and `--version`: version, commit and features of this binary.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

/// Version of the package, for one line.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// Commit of the build, if it is known (see `build.rs`).
const COMMIT: Option<&str> = option_env!("MOORLINE_COMMIT");

/// Features of the package, and whether this binary has them.
const FEATURES: [(&str, bool); 1] = [("demo", cfg!(feature = "demo"))];

/// Version, commit and features, for `--version`.
pub fn long() -> String {
    described(COMMIT, &FEATURES)
}

/// Prints the version.
///
/// # Errors
/// Standard output cannot be written to.
pub fn print() -> io::Result<ExitCode> {
    writeln!(io::stdout(), "moorline {}", long())?;
    Ok(ExitCode::SUCCESS)
}

fn described(commit: Option<&str>, features: &[(&str, bool)]) -> String {
    let mut text = SHORT.to_owned();
    if let Some(commit) = commit {
        let _ = write!(text, " ({commit})");
    }
    let names: Vec<&str> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let _ = write!(text, "\nfeatures: {names}");
    text
}

#[cfg(test)]
mod tests {
    use super::{SHORT, described};

    #[test]
    fn the_version_has_commit_and_features() {
        let features = [("demo", true), ("other", false)];
        let expected = format!("{SHORT} (1a2b3c4d5e6f)\nfeatures: demo");
        assert_eq!(described(Some("1a2b3c4d5e6f"), &features), expected);
        assert_eq!(described(None, &features[1..]), format!("{SHORT}\nfeatures: none"));
    }
}

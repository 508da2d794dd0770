//! Passes the commit of a release build to the compiler, as `MOORLINE_COMMIT`.
//!
//! The commit comes from the environment variable of that name (for packagers), from
//! `.cargo_vcs_info.json` (a published crate), or from git. Without any of them the version has no
//! commit. Debug builds do not ask git: each commit would compile the whole crate again.

use std::{env, fs, process::Command};

/// Digits of a commit that are shown.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MOORLINE_COMMIT");
    let commit = env::var("MOORLINE_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = commit.or_else(published).or_else(released) {
        println!("cargo::rustc-env=MOORLINE_COMMIT={commit}");
    }
}

/// The commit that a published crate was packaged from.
fn published() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    shortened(commit)
}

/// The commit of the working tree, for a release build. `-modified` follows if files differ from it.
fn released() -> Option<String> {
    if env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // The files that a commit changes. In a linked worktree they are not below `.git`.
    for path in ["HEAD", "index", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in ["src", "crates", "Cargo.toml", "Cargo.lock"] {
        if fs::exists(path).is_ok_and(|exists| exists) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // A package within the repository of another project has no own commit.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let package = env::current_dir().ok()?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(package).ok()? {
        return None;
    }
    let commit = shortened(&git(&["rev-parse", "HEAD"])?)?;
    let modified = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if modified.is_empty() { commit } else { format!("{commit}-modified") })
}

/// Runs git; `None` if there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The first digits of a commit.
fn shortened(commit: &str) -> Option<String> {
    let digits = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    commit.get(..DIGITS).filter(|_| digits).map(str::to_owned)
}

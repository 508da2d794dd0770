//! The program of the load harness, which is another package of the workspace.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// Path of `moorline-load`: the value of `MOORLINE_LOAD_BIN`, or the program beside `moorline`, which this
/// function builds first in the same profile.
pub(crate) fn harness() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> =
        LazyLock::new(|| std::env::var_os("MOORLINE_LOAD_BIN").map_or_else(build, PathBuf::from));
    &PROGRAM
}

fn build() -> PathBuf {
    let folder =
        Path::new(env!("CARGO_BIN_EXE_moorline")).parent().expect("a program is in a folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "moorline-load"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.arg("--target-dir").arg(folder.parent().expect("a profile is in a target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().is_ok_and(|status| status.success()), "moorline-load did not build");
    folder.join("moorline-load")
}

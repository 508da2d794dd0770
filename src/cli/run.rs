//! `moorline run FILE`: runs the proxy with a configuration file.

use std::{path::PathBuf, process::ExitCode};

use super::{
    files,
    serve::{Service, serve},
};
use crate::{config::check, runtimes::Workers};

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file. It is watched: an edit is checked and applied without dropping connections;
    /// an invalid file is rejected and its errors are printed. SIGHUP reloads the file, SIGUSR2 upgrades to
    /// a new binary
    pub file: PathBuf,
}

/// Runs until a signal stops the process.
///
/// # Errors
/// The file has errors, or the process cannot start.
pub async fn run(args: Args, workers: Workers) -> anyhow::Result<ExitCode> {
    // Reloads and upgrades read the configuration again.
    anyhow::ensure!(
        args.file.as_os_str() != files::STANDARD_INPUT,
        "cannot run from standard input: a reload and an upgrade read the configuration again; write it to \
         a file"
    );
    let file = args.file.clone();
    let load = move || Ok(check::file(&file)?);
    serve(Service { load, file: Some(args.file), greeting: None, stays: None, workers }).await
}

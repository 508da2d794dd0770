//! `moorline man`: manual pages in roff.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap_mangen::Man;

/// Arguments of `man`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Without --dir, the page of the program is written to standard output.

Examples:
  moorline man | man -l -
  moorline man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Write a page for the program and one for each command to this folder, which is created if missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Args {
    /// Writes the pages of this command line.
    ///
    /// # Errors
    /// The folder, a page or standard output cannot be written to.
    pub fn run(&self, command: clap::Command) -> anyhow::Result<ExitCode> {
        let Some(folder) = &self.dir else {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            io::stdout().write_all(&page)?;
            return Ok(ExitCode::SUCCESS);
        };
        let written =
            fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
        written.with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

//! `moorline completions SHELL`: a script that completes commands and flags.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline completions bash > /etc/bash_completion.d/moorline
  moorline completions zsh > /usr/local/share/zsh/site-functions/_moorline
  moorline completions fish > ~/.config/fish/completions/moorline.fish
  moorline completions elvish >> ~/.config/elvish/rc.elv
  moorline completions powershell >> $PROFILE")]
pub struct Args {
    /// The shell to write the script for
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Args {
    /// Prints the script for this command line.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub fn run(&self, mut command: clap::Command) -> io::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "moorline", &mut script);
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

//! `moorline schema`: the JSON Schema of the configuration file.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use crate::config::check;

/// Arguments of `schema`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Editors with Taplo, such as VS Code with Even Better TOML, use the schema for completion and checks. Begin the \
configuration with the line `#:schema ./moorline.schema.json`.

Examples:
  moorline schema > moorline.schema.json")]
pub struct Args {}

impl Args {
    /// Prints the schema.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn run(&self) -> io::Result<ExitCode> {
        writeln!(io::stdout(), "{:#}", check::json_schema())?;
        Ok(ExitCode::SUCCESS)
    }
}

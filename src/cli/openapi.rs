//! `moorline openapi`: routes from an API description, and an API description from routes.

mod import;
mod inline;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Subcommand;

use self::import::{ImportOptions, ImportedRoutes};
use super::files::STANDARD_INPUT;
use crate::{config, publication};

/// Arguments of `openapi`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: OpenApiCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum OpenApiCommand {
    /// Write routes from an API description, OpenAPI 3.0 or 3.1 in YAML or JSON.
    Import(ImportArgs),
    /// Write the API description of the routes of a configuration file.
    Export(ExportArgs),
}

/// Arguments of `openapi import`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Without --live, each operation becomes a route with method, path, authentication and the keys of \
`x-moorline-route`. With --live, one route names the document: its changes take effect without another \
import, and requests are checked by its schemas. What a route cannot express is printed to standard error; \
operations whose authentication is unknown are left out.

Examples:
  moorline openapi import api.yaml -o moorline.toml
  moorline openapi import api.yaml --live
  moorline openapi import api.json --pool app -o conf.d/api.toml")]
struct ImportArgs {
    /// The API description
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write one route that uses the document
    #[arg(long)]
    live: bool,
    /// Pool of the routes, which the configuration has; then only the routes are written. The first one is used where the
    /// document names none
    #[arg(long = "pool", value_name = "NAME")]
    pools: Vec<String>,
    /// File to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `openapi export`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Routes with `openapi` are described by the operations of their documents, as they are published: with the \
public hosts and paths, and the authentication that the routes require. Other routes are described by their path.

Examples:
  moorline openapi export > api.json
  moorline openapi export app.example.com -c /etc/moorline/moorline.toml
  moorline openapi export --html -o api.html
  moorline openapi export --routes | moorline openapi import -")]
struct ExportArgs {
    /// Host whose routes are described; without it, those of all hosts
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "moorline.toml")]
    config: PathBuf,
    /// Add the routes themselves, as `x-moorline-routes`, and keep the keys of the documents that begin with `x-moorline-`
    #[arg(long)]
    routes: bool,
    /// Write a page that shows the description, without scripts
    #[arg(long, conflicts_with = "routes")]
    html: bool,
    /// File to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// Reads, translates and writes.
    ///
    /// # Errors
    /// A file cannot be read or written, or has faults.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            OpenApiCommand::Import(args) => args.run(),
            OpenApiCommand::Export(args) => args.run(),
        }
    }
}

impl ImportArgs {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let bytes = match self.file.as_os_str() == STANDARD_INPUT {
            true => io::read_to_string(io::stdin()).context("cannot read standard input")?,
            false => {
                let bytes = config::file_bytes(&self.file)
                    .map_err(|wrong| anyhow::anyhow!("{}: {wrong}", self.file.display()))?;
                String::from_utf8(bytes)
                    .with_context(|| format!("{} is not UTF-8", self.file.display()))?
            }
        };
        let is_file = self.file.as_os_str() != STANDARD_INPUT;
        anyhow::ensure!(is_file || !self.live, "--live needs a file that the route can name");
        let options = ImportOptions {
            file: &self.file,
            live: self.live,
            pools: &self.pools,
            folder: self.output.as_deref().and_then(Path::parent).unwrap_or(Path::new("")),
        };
        let ImportedRoutes { text, notes } = import::import(&bytes, &options)?;
        write(self.output.as_deref(), &text)?;
        for note in notes {
            eprintln!("{note}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ExportArgs {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let config = config::check::file(&self.config)?;
        let name = self.name.as_deref().unwrap_or(publication::ALL);
        let published = publication::document(&config, name, self.routes).with_context(|| {
            let names = publication::names(&config).join(", ");
            format!("there is no description {name:?}; the names are: {names}")
        })?;
        for note in &published.notes {
            eprintln!("{note}");
        }
        let text = match self.html {
            true => publication::page(&published.document).text,
            false => format!("{:#}\n", published.document),
        };
        write(self.output.as_deref(), &text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a text to a file or to standard output.
fn write(output: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match output.filter(|path| path.as_os_str() != STANDARD_INPUT) {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}

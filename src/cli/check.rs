//! `moorline check FILE`: reports all errors and warnings of a configuration without starting the proxy.
//!
//! Uses the same code as `run` and a reload.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::{net::lookup_host, task::JoinSet, time::timeout};

use super::files;
use crate::config::{
    Config, check,
    warnings::{self, Environment, Warning},
};

/// Deadline of a DNS lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of names that are looked up.
const MAX_NAMES: usize = 1_000;

/// Arguments of `check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A file with errors cannot be used; a file with warnings can. Exit code 0: no error; with --strict, no \
warning either.

Examples:
  moorline check moorline.toml
  moorline check --strict moorline.toml && systemctl reload moorline
  envsubst < moorline.toml.in | moorline check -")]
pub struct Args {
    /// The configuration to check; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Exit with code 1 if there is a warning
    #[arg(long)]
    pub strict: bool,
}

impl Args {
    /// Checks the file. Prints the result to standard output, and errors and warnings to standard error.
    /// Exit code 0 if there is no error, else 1.
    ///
    /// # Errors
    /// Standard input is not UTF-8 text, or a result cannot be written.
    pub async fn run(&self) -> io::Result<ExitCode> {
        let input = self.file == Path::new(files::STANDARD_INPUT);
        let path = if input { Path::new("<stdin>") } else { &self.file };
        let file = path.display();
        let loaded = match input {
            true => check::text(&files::standard_input()?, path),
            false => check::file(path),
        };
        let config = match loaded {
            Ok(config) => config,
            Err(faults) => {
                let count = counted(faults.0.len(), "error");
                writeln!(io::stderr(), "{faults}\n{count} in {file}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        let unresolved = unresolved(&config).await;
        let warnings = warnings::all(&config, &Environment::here(path, &unresolved));
        for warning in &warnings {
            let Warning { at, message, help } = warning;
            writeln!(io::stderr(), "warning: {message}\n --> {at}\n  = help: {help}\n")?;
        }
        let result = match (warnings.len(), self.strict) {
            (0, _) => "is valid",
            (_, false) => "is valid, with warnings",
            (_, true) => "has warnings",
        };
        writeln!(io::stdout(), "{file} {result}: {}", summary(&config, warnings.len()))?;
        let failed = self.strict && !warnings.is_empty();
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Returns names of backends that do not resolve, with the reason.
async fn unresolved(config: &Config) -> Vec<(String, String)> {
    let backends = config.pools.iter().flat_map(|pool| &pool.backends);
    let named = backends.filter(|backend| backend.address.has_name());
    let names: BTreeSet<String> = named.map(|backend| backend.address.host.clone()).collect();
    let mut lookups = JoinSet::new();
    for name in names.into_iter().take(MAX_NAMES) {
        lookups.spawn(async move {
            let reason = match timeout(LOOKUP_TIMEOUT, lookup_host((name.as_str(), 0))).await {
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no reply within {}s", LOOKUP_TIMEOUT.as_secs()),
            };
            Some((name, reason))
        });
    }
    lookups.join_all().await.into_iter().flatten().collect()
}

/// Returns the numbers of listeners, routes, pools, backends and warnings, in one line.
fn summary(config: &Config, warnings: usize) -> String {
    let backends = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let mut counts = vec![
        counted(config.listeners.len(), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.pools.len(), "pool"),
        counted(backends, "backend"),
    ];
    if warnings > 0 {
        counts.push(counted(warnings, "warning"));
    }
    counts.join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::summary;
    use crate::config::check;

    #[test]
    fn the_summary_counts_one_and_many() {
        let text = "listeners.a.bind = \"[::1]:0\"\npools.b.backends = [\"a:1\", \"b:1\"]\n";
        let config = check::text(text, Path::new("m.toml")).unwrap();
        assert_eq!(summary(&config, 0), "1 listener, 1 route, 1 pool, 2 backends");
        assert!(summary(&config, 1).ends_with(", 1 warning"));
    }
}

//! `moorline check FILE`: every fault of a configuration at once, without starting anything.
//!
//! It is what `run` and a reload do first, never a second opinion.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use crate::config::{Config, check};

/// Arguments of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration to check
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl Args {
    /// Checks the file; the verdict goes to standard output, faults to standard error. Exit code 0
    /// where there is none, else 1.
    ///
    /// # Errors
    ///
    /// Where neither can be written to.
    pub fn run(&self) -> io::Result<ExitCode> {
        match check::load(&self.file) {
            Ok(config) => {
                let file = self.file.display();
                writeln!(io::stdout(), "{file} is good: {}", summary(&config))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(faults) => {
                let count = counted(faults.0.len(), "fault");
                writeln!(io::stderr(), "{faults}\n{count} in {}", self.file.display())?;
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// How much of everything a configuration has, in one line.
fn summary(config: &Config) -> String {
    let backends = config.pools.iter().map(|pool| pool.backends.len()).sum();
    [
        counted(config.listeners.len(), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.pools.len(), "pool"),
        counted(backends, "backend"),
    ]
    .join(", ")
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
        let config = check::parse(text, Path::new("m.toml")).unwrap();
        assert_eq!(summary(&config), "1 listener, 1 route, 1 pool, 2 backends");
    }
}

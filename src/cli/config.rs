//! `moorline config`: what the running process runs by, orders and discovery included.

use std::process::ExitCode;

use serde_json::Value;

use super::{client::Access, show};

/// Arguments of `config`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Secrets are not shown.

Examples:
  moorline config
  moorline config --json | jq .pools")]
pub struct Args {
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Asks and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.access.get::<Value>("/v1/config").await?;
        answer.print(&self.access, |config| show::lines(&format!("{config:#}")));
        Ok(ExitCode::SUCCESS)
    }
}

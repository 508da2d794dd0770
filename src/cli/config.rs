//! `moorline config`: shows the effective configuration of the running process, including commands and
//! discovery.

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
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The process cannot be reached or does not reply.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let reply = self.access.get::<Value>("/v1/config").await?;
        reply.print(&self.access, |config| show::escaped_lines(&format!("{config:#}")));
        Ok(ExitCode::SUCCESS)
    }
}

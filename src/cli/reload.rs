//! `moorline reload`: reloads the configuration file, unless that disconnects too many sessions.

use std::process::ExitCode;

use http::Method;

use super::{
    client::Access,
    number,
    plan::{self, Tense},
};
use crate::api::{Plan, ReloadRequest};

/// Arguments of `reload`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline reload
  moorline reload --max-disconnects 0     # only if no session is disconnected")]
pub struct Args {
    /// Reject the reload if it would disconnect more sessions than this
    #[arg(
        long, value_name = "N", allow_negative_numbers = true,
        value_parser = number::within(0_u64, 1_000_000_000)
    )]
    pub max_disconnects: Option<u64>,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the command and prints its result.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the command; the text has all errors of the file.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = ReloadRequest { max_disconnects: self.max_disconnects };
        let reply = self.access.request(Method::POST, "/v1/reload", Some(&request)).await?;
        reply.print(&self.access, |plan: &Plan| plan::text(plan, Tense::Did));
        Ok(ExitCode::SUCCESS)
    }
}

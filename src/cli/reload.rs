//! `moorline reload`: reads the file again and puts it in force, unless that costs too much.

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
    /// Refuse the reload if it would disconnect more sessions than this
    #[arg(
        long, value_name = "N", allow_negative_numbers = true,
        value_parser = number::within(0_u64, 1_000_000_000)
    )]
    pub max_disconnects: Option<u64>,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Orders and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, or why it was refused; every fault of the file.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let order = ReloadRequest { max_disconnects: self.max_disconnects };
        let answer = self.access.ask(Method::POST, "/v1/reload", Some(&order)).await?;
        answer.print(&self.access, |plan: &Plan| plan::words(plan, Tense::Did));
        Ok(ExitCode::SUCCESS)
    }
}

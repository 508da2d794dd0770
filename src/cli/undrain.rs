//! `moorline undrain`: ends drains, so that the backends take new sessions again.

use std::process::ExitCode;

use http::Method;

use super::{client::Access, drain, target::TargetArgs};
use crate::api::Undrain;

/// Arguments of `undrain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline undrain chat/blue-2
  moorline undrain --all")]
pub struct Args {
    /// Backends whose drains end.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the command and prints its result.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the request.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let target = self.target.into_target();
        let all = target.pool.is_none();
        let request = Undrain { pool: target.pool, backend: target.backend, all };
        let reply = self.access.request(Method::POST, "/v1/undrain", Some(&request)).await?;
        reply.print(&self.access, drain::undrained_text);
        Ok(ExitCode::SUCCESS)
    }
}

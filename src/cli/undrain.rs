//! `moorline undrain`: ends drains, so that backends take new sessions again.

use std::process::ExitCode;

use http::Method;

use super::{client::Access, drain, target::Whom};
use crate::api::Undrain;

/// Arguments of `undrain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline undrain chat/blue-2
  moorline undrain --all")]
pub struct Args {
    /// Whose drain to end.
    #[command(flatten)]
    pub whom: Whom,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Orders and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, or why it was refused.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let target = self.whom.target();
        let all = target.pool.is_none();
        let order = Undrain { pool: target.pool, backend: target.backend, all };
        let answer = self.access.ask(Method::POST, "/v1/undrain", Some(&order)).await?;
        answer.print(&self.access, drain::ended);
        Ok(ExitCode::SUCCESS)
    }
}

//! `moorline upgrade`: the running process hands over to a new binary and drains.

use std::{
    path::{self, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use http::Method;

use super::client::Access;
use crate::api::{UpgradeRequest, Upgraded};

/// Longest wait for the new process; the server's deadline for it, `upgrade.ready`, is shorter.
const WITHIN: Duration = Duration::from_secs(300);

/// Arguments of `upgrade`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
The new process takes over the listening sockets and the known sessions. The old process drains as soon \
as the new one serves; if the new one fails, the old one goes on serving. SIGUSR2 does the same.

Examples:
  moorline upgrade                            # the file at the path of the running binary
  moorline upgrade /opt/moorline/bin/moorline")]
pub struct Args {
    /// The new binary [default: the file at the path of the running one]
    #[arg(value_name = "BINARY")]
    pub binary: Option<PathBuf>,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Orders, waits for the new process and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, or why the new process does not serve.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let binary = match &self.binary {
            Some(binary) => {
                let whole =
                    path::absolute(binary).context("cannot resolve the path of the binary")?;
                Some(
                    whole
                        .to_str()
                        .context("the path is not valid UTF-8; rename the file")?
                        .to_owned(),
                )
            }
            None => None,
        };
        let order = UpgradeRequest { binary };
        let answer = self
            .access
            .ask_within::<Upgraded>(WITHIN, Method::POST, "/v1/upgrade", Some(&order))
            .await?;
        answer.print(&self.access, |new| {
            format!("process {} serves; the one before it drains", new.pid)
        });
        Ok(ExitCode::SUCCESS)
    }
}

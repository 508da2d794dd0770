//! `moorline upgrade`: the running process hands over to a process of a new binary, and drains.

use std::{
    path::{self, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use http::Method;

use super::client::Access;
use crate::api::{UpgradeRequest, Upgraded};

/// Deadline of the reply. The deadline of the new process, `upgrade.ready`, is shorter.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// Arguments of `upgrade`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
The new process takes over the listening sockets and the known sessions. The old process shuts down as \
soon as the new process serves. If the new process fails, the old one continues to serve. SIGUSR2 also starts \
an upgrade.

Examples:
  moorline upgrade                            # the file at the path of the running binary
  moorline upgrade /opt/moorline/bin/moorline")]
pub struct Args {
    /// The new binary [default: the file at the path of the running binary]
    #[arg(value_name = "BINARY")]
    pub binary: Option<PathBuf>,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the command, waits for the new process and prints its process id.
    ///
    /// # Errors
    /// The process cannot be reached, or the new process does not serve.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let binary = match &self.binary {
            Some(binary) => {
                let absolute =
                    path::absolute(binary).context("cannot resolve the path of the binary")?;
                Some(
                    absolute
                        .to_str()
                        .context("the path is not valid UTF-8; rename the file")?
                        .to_owned(),
                )
            }
            None => None,
        };
        let request = UpgradeRequest { binary };
        let reply = self
            .access
            .request_within::<Upgraded>(REPLY_TIMEOUT, Method::POST, "/v1/upgrade", Some(&request))
            .await?;
        reply.print(&self.access, |new| {
            format!("process {} serves; the old process shuts down", new.pid)
        });
        Ok(ExitCode::SUCCESS)
    }
}

//! `moorline revoke`: ends all sessions of a subject.

use std::process::ExitCode;

use http::Method;

use super::{
    client::Access,
    show::{counted, plain},
};
use crate::api::{RevokeRequest, Revoked};

/// Arguments of `revoke`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Tunnels are closed between two messages with status 1008, or the `close_code` of their route. Polling sessions end \
at their next request. Tokens of the subject that were issued until now are refused until the process restarts.

Examples:
  moorline revoke anna
  moorline revoke 4f2a-11 --api https://proxy-2.internal:9443 --token-file token.txt")]
pub struct Args {
    /// The subject, as in the claim `sub` of its tokens
    pub subject: String,
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
        let request = RevokeRequest { subject: self.subject };
        let reply = self.access.request(Method::POST, "/v1/revocations", Some(&request)).await?;
        reply.print(&self.access, |revoked: &Revoked| {
            let sessions = counted(revoked.sessions, "session");
            let tunnels = counted(revoked.tunnels, "tunnel");
            format!("revoked {}: {sessions} and {tunnels} end", plain(&revoked.subject))
        });
        Ok(ExitCode::SUCCESS)
    }
}

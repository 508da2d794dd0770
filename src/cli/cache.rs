//! `moorline cache`: shows what stored responses use, and removes some.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;

use super::{client::Access, show::counted};
use crate::api::{CacheState, PurgeRequest, Purged};

/// Arguments of `cache`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline cache
  moorline cache purge --url https://app.example.com/assets/app.js
  moorline cache purge --prefix https://app.example.com/assets/
  moorline cache purge --tag product-7")]
pub struct Args {
    #[command(subcommand)]
    command: Option<CacheCommand>,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

#[derive(Clone, Debug, Subcommand)]
enum CacheCommand {
    /// Remove stored responses
    Purge {
        #[command(flatten)]
        what: PurgeArgs,
    },
}

/// What is removed.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PurgeArgs {
    /// The responses of this URL: scheme, host, path and query, as clients see them
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The responses of all URLs that begin like this
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// The responses with this tag in `Cache-Tag`, `Surrogate-Key` or `xkey`
    #[arg(long)]
    tag: Option<String>,
    /// All responses
    #[arg(long)]
    all: bool,
}

impl Args {
    /// Sends the command and prints its result.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the request.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, access } = self;
        match command {
            None => {
                let reply = access.request(Method::GET, "/v1/cache", None::<&()>).await?;
                reply.print(&access, state_text);
            }
            Some(CacheCommand::Purge { what }) => {
                let PurgeArgs { url, prefix, tag, all } = what;
                let request = PurgeRequest { url, prefix, tag, all };
                let reply = access.request(Method::POST, "/v1/cache/purge", Some(&request)).await?;
                reply.print(&access, |purged: &Purged| {
                    format!("removed the stored responses of {}", counted(purged.urls, "URL"))
                });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn state_text(state: &CacheState) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let urls = counted(state.urls, "URL");
    let memory =
        format!("stored responses of {urls}: {} of {} MiB", mib(state.used), mib(state.memory));
    if state.disk == 0 {
        return memory;
    }
    let (urls, used) = (counted(state.disk_urls, "URL"), mib(state.disk_used));
    format!("{memory}\non disk, of {urls}: {used} of {} MiB", mib(state.disk))
}

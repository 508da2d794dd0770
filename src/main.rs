//! The `moorline` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use moorline::{cli, observe::log};

/// The front door for Socket.IO and WebSocket apps.
#[derive(Debug, Parser)]
#[command(name = "moorline", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy from a configuration file.
    Run(cli::run::Args),
    /// Run the proxy from flags, without a file.
    Proxy(cli::proxy::Args),
    /// Check a configuration file: every fault at once, with its place.
    Check(cli::check::Args),
    /// Run a chat on three embedded Socket.IO nodes behind TLS, with nothing to configure.
    #[cfg(feature = "demo")]
    Demo(cli::demo::Args),
    /// Show the running process: what it does, its listeners, its pools.
    Status(cli::status::Args),
    /// Show the backends of the running process; add, remove and weigh them.
    Backends(cli::backends::Args),
    /// Empty backends of their sessions without dropping everybody at once.
    Drain(cli::drain::Args),
    /// End drains: backends take new sessions again.
    Undrain(cli::undrain::Args),
    /// Read the configuration file again and put it in force.
    Reload(cli::reload::Args),
    /// Say what putting a configuration in force would do, and who would be disconnected.
    Plan(cli::plan::Args),
    /// Show tunnels, streams and polling sessions, find one, close one.
    Sessions(cli::sessions::Args),
    /// Say who would serve a request, and by which rule.
    Explain(cli::explain::Args),
    /// Show what the running process runs by, without secrets.
    Config(cli::config::Args),
    /// Hand over to a new binary without dropping anyone.
    Upgrade(cli::upgrade::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    log::init();
    match start(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            Command::Run(args) => cli::run::run(args).await,
            Command::Proxy(args) => cli::proxy::run(args).await,
            Command::Check(args) => Ok(args.run()?),
            #[cfg(feature = "demo")]
            Command::Demo(args) => cli::demo::run(args).await,
            Command::Status(args) => args.run().await,
            Command::Backends(args) => args.run().await,
            Command::Drain(args) => args.run().await,
            Command::Undrain(args) => args.run().await,
            Command::Reload(args) => args.run().await,
            Command::Plan(args) => args.run().await,
            Command::Sessions(args) => args.run().await,
            Command::Explain(args) => args.run().await,
            Command::Config(args) => args.run().await,
            Command::Upgrade(args) => args.run().await,
        }
    });
    // Whatever still runs after a drain was told to stop; a name that is being looked up is not
    // worth waiting for.
    runtime.shutdown_background();
    code
}

//! The `moorline` command.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use moorline::{
    cli,
    config::check::Faults,
    observe::log,
    runtimes::{self, Workers},
};

/// The front door for Socket.IO and WebSocket apps.
#[derive(Debug, Parser)]
#[command(
    name = "moorline",
    version = cli::version::SHORT,
    long_version = cli::version::long(),
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
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
    /// Check a configuration file: every error and warning at once, with its place.
    Check(cli::check::Args),
    /// Run a chat on three embedded Socket.IO nodes behind TLS, with nothing to configure.
    #[cfg(feature = "demo")]
    Demo(cli::demo::Args),
    /// Show the running process, its listeners and its pools.
    Status(cli::status::Args),
    /// Show the backends of the running process; add or remove them, change weights.
    Backends(cli::backends::Args),
    /// Drain backends gradually.
    Drain(cli::drain::Args),
    /// End drains: backends take new sessions again.
    Undrain(cli::undrain::Args),
    /// Reload the configuration file.
    Reload(cli::reload::Args),
    /// Show what a reload would change, and how many sessions it would disconnect.
    Plan(cli::plan::Args),
    /// Show tunnels, streams and polling sessions; find or close one.
    Sessions(cli::sessions::Args),
    /// Show what stored responses use; remove some.
    Cache(cli::cache::Args),
    /// End all sessions of a subject, and refuse its tokens.
    Revoke(cli::revoke::Args),
    /// Show which backend a request would go to, and by which rule.
    Explain(cli::explain::Args),
    /// Show the configuration of the running process, without secrets.
    Config(cli::config::Args),
    /// Hand over to a new binary without dropping connections.
    Upgrade(cli::upgrade::Args),
    /// Write a starting configuration, or translate one of nginx or HAProxy.
    Init(cli::init::Args),
    /// Make routes from an API description, or an API description from routes.
    Openapi(cli::openapi::Args),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema(cli::schema::Args),
    /// Print a completion script for a shell.
    Completions(cli::completions::Args),
    /// Write manual pages.
    Man(cli::man::Args),
    /// Print the version, the commit and the features of this binary.
    Version,
    /// Print help, or the help of a command.
    #[command(disable_help_flag = true)]
    Help {
        /// The command, for example `drain` or `backends add`
        #[arg(allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let serves = command.serves();
    let flush = serves.then(log::queue);
    log::init();
    match start(command) {
        Ok(code) => code,
        Err(error) => {
            // Faults of a file have their own format, and come before the first line of the log.
            match serves && !error.is::<Faults>() {
                true => log::fatal(&format!("{error:#}")),
                false => {
                    drop(flush);
                    eprintln!("{error:#}");
                }
            }
            ExitCode::FAILURE
        }
    }
}

impl Command {
    /// Whether the command runs a proxy, and writes a log.
    fn serves(&self) -> bool {
        match self {
            Self::Run(_) | Self::Proxy(_) => true,
            #[cfg(feature = "demo")]
            Self::Demo(_) => true,
            _ => false,
        }
    }
}

/// Prints the help of the program or of one of its commands, by name.
fn help(names: &[String]) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let mut of = &mut command;
    for name in names.iter().filter(|name| !name.starts_with('-')) {
        let known = of.find_subcommand(name).is_some();
        anyhow::ensure!(known, "there is no command `{name}`; `moorline help` lists the commands");
        of = of.find_subcommand_mut(name).context("the command is known")?;
    }
    of.print_long_help()?;
    Ok(ExitCode::SUCCESS)
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    let control = runtimes::control()?;
    let code = match command.serves() {
        true => {
            let (runtime, workers) = runtimes::workers()?;
            let code = control.block_on(serve(command, workers));
            runtime.shutdown_background();
            code
        }
        false => control.block_on(run(command)),
    };
    // The shutdown has ended all other work. Do not wait for a blocking name lookup.
    control.shutdown_background();
    code
}

async fn serve(command: Command, workers: Workers) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => cli::run::run(args, workers).await,
        Command::Proxy(args) => cli::proxy::run(args, workers).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => cli::demo::run(args, workers).await,
        _ => anyhow::bail!("the command does not run a proxy"),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => Ok(args.run().await?),
        Command::Status(args) => args.run().await,
        Command::Backends(args) => args.run().await,
        Command::Drain(args) => args.run().await,
        Command::Undrain(args) => args.run().await,
        Command::Cache(args) => args.run().await,
        Command::Reload(args) => args.run().await,
        Command::Plan(args) => args.run().await,
        Command::Sessions(args) => args.run().await,
        Command::Revoke(args) => args.run().await,
        Command::Explain(args) => args.run().await,
        Command::Config(args) => args.run().await,
        Command::Upgrade(args) => args.run().await,
        Command::Init(args) => args.run(),
        Command::Openapi(args) => args.run(),
        Command::Schema(args) => Ok(args.run()?),
        Command::Completions(args) => Ok(args.run(Cli::command())?),
        Command::Man(args) => args.run(Cli::command()),
        Command::Version => Ok(cli::version::print()?),
        Command::Help { command } => help(&command),
        _ => anyhow::bail!("the command runs a proxy"),
    }
}

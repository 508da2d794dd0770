//! The command line: arguments and exit codes.
//!
//! 0: the run ended and all assertions hold. 1: an assertion failed. 2: the run could not be done; one line
//! on standard error gives the reason.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    node,
    scenario::options::{ChaosOptions, DeployOptions, HerdOptions, NodeOptions, Options},
};

/// Exit code of invalid input, an unusable target, or a run that had to stop.
const BAD_INPUT: u8 = 2;

/// Load-tests Socket.IO, WebSocket and HTTP servers, and the proxies in front of them.
#[derive(Debug, Parser)]
#[command(name = "moorline-load", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Clients connect, send messages and disconnect.
    Run(run::Args),
    /// Run clients under the control of another program.
    ///
    /// Reads commands from standard input, one per line, and answers each with one line of JSON: connected
    /// clients, totals, errors and nodes. `status` changes nothing. `down NODE`: from now on, a loss of this
    /// node is expected and is not an error. `up NODE`: it is an error again. `mark TEXT` adds a mark to the
    /// report. The run ends at the end of standard input.
    Controlled(run::Args),
    /// Disconnect all clients at once, and let them reconnect.
    Herd(run::ModeArgs<HerdOptions>),
    /// Start nodes and replace them one by one through the proxy's backend list, while clients send messages.
    Deploy(run::ModeArgs<DeployOptions>),
    /// Start nodes, and kill, hang or reset them at given times, while clients send messages.
    Chaos(run::ModeArgs<ChaosOptions>),
    /// Start Socket.IO nodes, and an echo server, as targets.
    Node(NodeOptions),
}

/// Parses the arguments and runs the subcommand.
pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => args.options().and_then(run::run),
        Command::Controlled(args) => {
            args.options().and_then(|options| run::run(Options { controlled: true, ..options }))
        }
        Command::Herd(args) => run::run(args.options(|typed| &mut typed.herd)),
        Command::Deploy(args) => run::run(args.options(|typed| &mut typed.deploy)),
        Command::Chaos(args) => run::run(args.options(|typed| &mut typed.chaos)),
        Command::Node(options) => node::serve(&options).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(BAD_INPUT)
    })
}

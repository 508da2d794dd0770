//! The command line: what is typed, and the exit code.
//!
//! 0: the run is over and what was asserted holds. 1: it does not. 2: it could not be run; one
//! sentence on standard error says why.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    node,
    scenario::options::{ChaosOptions, DeployOptions, HerdOptions, NodeOptions, Options},
};

/// What is bad about the input, not about the target.
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
    /// Clients arrive, talk, and leave.
    Run(run::Args),
    /// Clients arrive and talk; orders from standard input, a line each, say what happens to their nodes, and
    /// are answered by a line of JSON: how things stand.
    ///
    /// `look` changes nothing; `gone NODE` makes it no fault to lose that node, `back NODE` a fault again;
    /// `mark TEXT` is for the report. The run ends with its input.
    Led(run::Args),
    /// All clients drop at once, and return.
    Herd(run::CourseArgs<HerdOptions>),
    /// Nodes are started, and replaced one by one through the proxy's backend list, while clients talk.
    Deploy(run::CourseArgs<DeployOptions>),
    /// Nodes are started, and killed, hung or reset on a timetable, while clients talk.
    Chaos(run::CourseArgs<ChaosOptions>),
    /// Start Socket.IO nodes and an echo origin to aim at.
    Node(NodeOptions),
}

/// Runs what was asked for.
pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(args.options()),
        Command::Led(args) => run::run(args.options().map(|typed| Options { led: true, ..typed })),
        Command::Herd(args) => run::run(args.options(|typed| &mut typed.herd)),
        Command::Deploy(args) => run::run(args.options(|typed| &mut typed.deploy)),
        Command::Chaos(args) => run::run(args.options(|typed| &mut typed.chaos)),
        Command::Node(options) => node::serve(&options).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|fault| {
        eprintln!("{fault}");
        ExitCode::from(BAD_INPUT)
    })
}

//! A run under the control of another program, which changes the nodes and reads how the clients are doing.
//!
//! Commands come on standard input, one per line. Each is answered, once it has taken effect, with one line
//! of JSON on standard output.

use std::{
    io::{self, BufRead, Write},
    thread,
};

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::RunContext;

/// A command of the controlling program.
#[derive(Debug, PartialEq, Eq)]
enum ControlCommand<'a> {
    /// No change: only report the status.
    Status,
    /// From now on, losing this node is expected.
    NodeDown(&'a str),
    /// From now on, losing this node is an error again.
    NodeUp(&'a str),
    /// Add a mark to the report.
    Mark(&'a str),
}

/// Runs commands until the end of standard input.
///
/// # Errors
///
/// An unknown command, or a status that cannot be written.
pub(super) async fn run(run: &RunContext) -> anyhow::Result<()> {
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        match ControlCommand::parse(&line)? {
            ControlCommand::Status => {}
            ControlCommand::NodeDown(node) => run.node_states.mark_faulty(node),
            ControlCommand::NodeUp(node) => run.node_states.clear(node),
            ControlCommand::Mark(text) => run.collector.mark(text),
        }
        let status = serde_json::to_string(&run.collector.status());
        let status = status.context("cannot encode the status")?;
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{status}").and_then(|()| out.flush());
        written.context("cannot write the status to standard output")?;
    }
    Ok(())
}

impl<'a> ControlCommand<'a> {
    fn parse(line: &'a str) -> anyhow::Result<Self> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("status", "") => Ok(Self::Status),
            ("down", node) if !node.is_empty() => Ok(Self::NodeDown(node)),
            ("up", node) if !node.is_empty() => Ok(Self::NodeUp(node)),
            ("mark", text) if !text.is_empty() => Ok(Self::Mark(text)),
            _ => bail!("unknown command {line:?}: use status, down NODE, up NODE or mark TEXT"),
        }
    }
}

/// Returns the lines of standard input, until its end.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    // The thread is never joined: it may wait for a line until the process ends.
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).find(Result::is_err)
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed() {
        let parse = |line| ControlCommand::parse(line).unwrap();
        assert_eq!(parse("status\n"), ControlCommand::Status);
        assert_eq!(parse("down node-1.2"), ControlCommand::NodeDown("node-1.2"));
        assert_eq!(parse(" up  node-1 "), ControlCommand::NodeUp("node-1"));
        assert_eq!(parse("mark all is well"), ControlCommand::Mark("all is well"));
        for line in ["", "down", "status all", "mark ", "leave"] {
            let fault = ControlCommand::parse(line).unwrap_err().to_string();
            assert!(fault.starts_with(&format!("unknown command {line:?}")), "{fault}");
        }
    }
}

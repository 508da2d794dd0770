//! A run that another program leads: it knows what becomes of the nodes, and asks how the clients fare.
//!
//! Orders come on standard input, a line each; once it is in force, each is answered by one line of JSON
//! on standard output: how things stand.

use std::{
    io::{self, BufRead, Write},
    thread,
};

use tokio::sync::mpsc;

use super::Stage;

/// What a line orders.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    /// Nothing: how do things stand?
    Look,
    /// From now on, losing this node is expected.
    Gone(&'a str),
    /// From now on, losing this node is a fault again.
    Back(&'a str),
    /// Something happens to all.
    Mark(&'a str),
}

/// Obeys until the end of standard input.
///
/// # Errors
///
/// A sentence for the user: an order that is none, an answer that nobody reads.
pub(super) async fn run(stage: &Stage) -> Result<(), String> {
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        match Command::parse(&line)? {
            Command::Look => {}
            Command::Gone(node) => stage.departed.insert(node),
            Command::Back(node) => stage.departed.remove(node),
            Command::Mark(text) => stage.collector.mark(text),
        }
        let look = serde_json::to_string(&stage.collector.look());
        let look = look.map_err(|e| format!("how things stand cannot be told: {e}"))?;
        let mut out = io::stdout().lock();
        let told = writeln!(out, "{look}").and_then(|()| out.flush());
        told.map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(())
}

impl<'a> Command<'a> {
    fn parse(line: &'a str) -> Result<Self, String> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("look", "") => Ok(Self::Look),
            ("gone", node) if !node.is_empty() => Ok(Self::Gone(node)),
            ("back", node) if !node.is_empty() => Ok(Self::Back(node)),
            ("mark", text) if !text.is_empty() => Ok(Self::Mark(text)),
            _ => Err(format!(
                "unknown order {line:?}; the orders are look, gone NODE, back NODE and mark TEXT"
            )),
        }
    }
}

/// Lines of standard input, until it ends.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    // Never joined: it may wait for a line at the end of the process.
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
    fn orders_are_words() {
        assert_eq!(Command::parse("look\n"), Ok(Command::Look));
        assert_eq!(Command::parse("gone node-1.2"), Ok(Command::Gone("node-1.2")));
        assert_eq!(Command::parse(" back  node-1 "), Ok(Command::Back("node-1")));
        assert_eq!(Command::parse("mark all is well"), Ok(Command::Mark("all is well")));
        for line in ["", "gone", "look out", "mark ", "leave"] {
            let fault = Command::parse(line).unwrap_err();
            assert!(fault.starts_with(&format!("unknown order {line:?}")), "{fault}");
        }
    }
}

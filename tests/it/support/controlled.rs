//! Clients that a test controls: those of `moorline-load controlled`, and the npm clients of
//! `tests/socketio/controlled.mjs`. Both accept the same commands and return the same figures.

use std::{
    collections::BTreeMap,
    ops::{Add, Sub},
    process::Stdio,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::within;

/// A process with clients; dropping it kills the process.
pub(crate) struct ControlledClients {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Status of the clients: current connections, and totals since their start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(crate) struct ClientStatus {
    /// Clients connected.
    pub(crate) connected: u64,
    /// Totals.
    pub(crate) totals: Totals,
    /// Errors by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Clients connected by node.
    pub(crate) nodes: BTreeMap<String, u64>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub(crate) struct Totals {
    /// Opened sessions.
    pub(crate) connects: u64,
    /// Answered messages.
    pub(crate) answered: u64,
    /// Sessions ended by a Close with code 1012.
    pub(crate) moved: u64,
    /// Sessions lost with a node that was reported as down.
    pub(crate) node_gone: u64,
    /// Other lost sessions.
    pub(crate) disconnects: u64,
    /// Failures of all kinds, including lost sessions.
    pub(crate) errors: u64,
    /// Answers from a node that does not own the session.
    pub(crate) misrouted: u64,
}

impl ControlledClients {
    /// Starts the clients.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, commands, answers }
    }

    /// Returns the status.
    pub(crate) async fn status(&mut self) -> ClientStatus {
        self.command("status").await
    }

    /// Sends a command, waits until it has taken effect, and returns the status.
    pub(crate) async fn command(&mut self, command: &str) -> ClientStatus {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let answer = within(command, self.answers.next_line()).await.unwrap();
        let answer = answer.unwrap_or_else(|| panic!("the clients ended before {command:?}"));
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Stops all clients and waits for their end.
    pub(crate) async fn stop(mut self) {
        drop(self.commands);
        let status = within("the end of the clients", self.child.wait()).await.unwrap();
        assert!(status.success(), "the clients ended with {status}");
    }
}

impl ClientStatus {
    /// Number of errors of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> u64 {
        self.errors.get(kind).copied().unwrap_or(0)
    }

    /// Number of clients on a node.
    pub(crate) fn on(&self, node: &str) -> u64 {
        self.nodes.get(node).copied().unwrap_or(0)
    }
}

impl Add for ClientStatus {
    type Output = Self;

    /// Adds two sets of clients.
    fn add(mut self, other: Self) -> Self {
        for (kind, many) in other.errors {
            *self.errors.entry(kind).or_default() += many;
        }
        for (node, many) in other.nodes {
            *self.nodes.entry(node).or_default() += many;
        }
        self.connected += other.connected;
        self.totals = self.totals.each(&other.totals, u64::add);
        self
    }
}

impl Sub<&Self> for ClientStatus {
    type Output = Self;

    /// Subtracts an earlier status. The number of connected clients stays.
    fn sub(mut self, earlier: &Self) -> Self {
        for (kind, many) in &mut self.errors {
            *many -= earlier.of_kind(kind);
        }
        self.totals = self.totals.each(&earlier.totals, u64::sub);
        self
    }
}

impl Totals {
    fn each(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connects: combine(self.connects, other.connects),
            answered: combine(self.answered, other.answered),
            moved: combine(self.moved, other.moved),
            node_gone: combine(self.node_gone, other.node_gone),
            disconnects: combine(self.disconnects, other.disconnects),
            errors: combine(self.errors, other.errors),
            misrouted: combine(self.misrouted, other.misrouted),
        }
    }
}

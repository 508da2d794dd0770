//! Crowds of clients that a test leads, whoever they are made by: `moorline-load led`, and
//! `tests/socketio/led.mjs` for those of npm. Both take the same orders and tell the same figures.

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

/// A crowd; dropping it kills the process.
pub(crate) struct Led {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// How a crowd fares: clients now, sums since its beginning.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(crate) struct Look {
    /// Clients connected.
    pub(crate) connected: u64,
    /// Sums.
    pub(crate) totals: Totals,
    /// Errors by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Clients connected by node.
    pub(crate) nodes: BTreeMap<String, u64>,
}

/// What happened to a crowd.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub(crate) struct Totals {
    /// Sessions begun.
    pub(crate) connects: u64,
    /// Messages answered.
    pub(crate) answered: u64,
    /// Sessions ended by a Close with code 1012.
    pub(crate) moved: u64,
    /// Sessions lost with a node that was said to be gone.
    pub(crate) node_gone: u64,
    /// Sessions lost otherwise.
    pub(crate) disconnects: u64,
    /// Failures of all kinds, lost sessions included.
    pub(crate) errors: u64,
    /// Answers of a node that is not the session's.
    pub(crate) misrouted: u64,
}

impl Led {
    /// Starts one.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, answers }
    }

    /// Asks how they fare.
    pub(crate) async fn look(&mut self) -> Look {
        self.order("look").await
    }

    /// Gives an order, waits until it is in force, and tells how they fare.
    pub(crate) async fn order(&mut self, order: &str) -> Look {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        let answer = within(order, self.answers.next_line()).await.unwrap();
        let answer = answer.unwrap_or_else(|| panic!("the crowd has ended before {order:?}"));
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Lets all of them leave, and waits for their end.
    pub(crate) async fn leave(mut self) {
        drop(self.orders);
        let status = within("the crowd's end", self.child.wait()).await.unwrap();
        assert!(status.success(), "the crowd ended with {status}");
    }
}

impl Look {
    /// Errors of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> u64 {
        self.errors.get(kind).copied().unwrap_or(0)
    }

    /// Clients on a node.
    pub(crate) fn on(&self, node: &str) -> u64 {
        self.nodes.get(node).copied().unwrap_or(0)
    }
}

impl Add for Look {
    type Output = Self;

    /// Two crowds as one.
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

impl Sub<&Self> for Look {
    type Output = Self;

    /// What has happened since an earlier look; who is connected stays as it is.
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

//! Clients and nodes of one make, with a pool of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::node::{Make, Node};
use crate::support::{
    TIMEOUT,
    controlled::{ClientStatus, ControlledClients},
};

/// From one look at the clients to the next, while something is waited for.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// What a change may take: a drain, the clients' own delays, a machine with much else to do.
pub(super) const CHANGE: Duration = Duration::from_secs(60);

/// A crowd and its fleet.
pub(super) struct Party {
    /// Who they are, for the table.
    pub(super) title: &'static str,
    /// Their pool.
    pub(super) pool: &'static str,
    /// Those that the list names, in its order.
    pub(super) nodes: Vec<Node>,
    make: Make,
    /// First letter of the nodes' names.
    letter: char,
    started: usize,
    list: PathBuf,
    runs: Vec<ControlledClients>,
    count: u64,
}

impl Party {
    /// Starts so many nodes and writes the list of the pool into `directory`.
    pub(super) fn new(make: Make, nodes: usize, directory: &Path) -> Self {
        let (title, letter, pool) = match make {
            Make::Harness => ("300 of `moorline-load`", 'h', "harness"),
            Make::Npm => ("30 of npm", 'n', "npm"),
        };
        let mut party = Self {
            title,
            pool,
            nodes: Vec::new(),
            make,
            letter,
            started: 0,
            list: directory.join(format!("{pool}.txt")),
            runs: Vec::new(),
            count: 0,
        };
        (0..nodes).for_each(|_| party.add());
        party.list();
        party
    }

    /// Lets the clients come: a third each poll, upgrade, and use WebSocket only; without cookies.
    pub(super) async fn arrive(&mut self, port: u16, authority: &Path) {
        let each = self.each();
        for kind in ["polling", "polling-upgrade", "websocket"] {
            let mut command = self.make.clients(kind, each, port, authority);
            self.runs.push(ControlledClients::start(&mut command));
        }
        self.count = 3 * each;
        let all = self.count;
        self.until("all have come", move |look| look.connected == all).await;
    }

    /// Starts one more node. The list does not name it yet.
    pub(super) fn add(&mut self) {
        self.started += 1;
        let name = format!("{}{}", self.letter, self.started);
        self.nodes.push(Node::start(self.make, &name));
    }

    /// Writes the list, all at once.
    pub(super) fn list(&self) {
        let lines: String = self.nodes.iter().map(|node| format!("{}\n", node.address)).collect();
        let fresh = self.list.with_extension("new");
        fs::write(&fresh, lines).unwrap();
        fs::rename(fresh, &self.list).unwrap();
    }

    /// How the clients fare.
    pub(super) async fn look(&mut self) -> ClientStatus {
        self.order("status").await
    }

    /// Gives all of them an order.
    pub(super) async fn order(&mut self, order: &str) -> ClientStatus {
        let mut sum = ClientStatus::default();
        for run in &mut self.runs {
            sum = sum + run.command(order).await;
        }
        sum
    }

    /// Waits until the clients fare like that.
    pub(super) async fn until(
        &mut self,
        what: &str,
        is: impl Fn(&ClientStatus) -> bool,
    ) -> ClientStatus {
        let deadline = Instant::now() + CHANGE + TIMEOUT;
        loop {
            let look = self.look().await;
            if is(&look) {
                return look;
            }
            assert!(Instant::now() < deadline, "never happened: {what}: {}: {look:?}", self.title);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until everybody is connected and has been answered about twice more: what a change breaks
    /// has shown by then.
    pub(super) async fn settled(&mut self) -> ClientStatus {
        let all = self.count;
        let goal = self.look().await.totals.answered + 2 * all;
        self.until("everybody is there and answered", move |look| {
            look.connected == all && look.totals.answered >= goal
        })
        .await
    }

    /// Waits until everybody is connected, and nobody to this node.
    pub(super) async fn left(&mut self, node: &str) -> ClientStatus {
        let all = self.count;
        let what = format!("everybody has left {node}");
        self.until(&what, |look| look.on(node) == 0 && look.connected == all).await
    }

    /// How many of each kind there are.
    fn each(&self) -> u64 {
        match self.make {
            Make::Harness => 100,
            Make::Npm => 10,
        }
    }

    /// How many clients that poll are on a node.
    pub(super) async fn polling_on(&mut self, node: &str) -> u64 {
        self.runs[0].status().await.on(node)
    }

    /// How many of the clients end up on a WebSocket.
    pub(super) fn sockets(&self) -> u64 {
        self.count / 3 * 2
    }

    /// How many clients there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Lets everybody leave.
    pub(super) async fn leave(&mut self) {
        for run in self.runs.drain(..) {
            run.stop().await;
        }
    }
}

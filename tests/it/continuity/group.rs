//! Clients and nodes of one implementation, with their own pool.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::node::{Implementation, Node};
use crate::support::{
    TIMEOUT,
    controlled::{ClientStatus, ControlledClients},
};

/// Interval at which a condition is checked.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time of a change: a drain and the clients' reconnect delays, on a busy machine.
pub(super) const MAX_CHANGE: Duration = Duration::from_secs(60);

/// Clients and their nodes.
pub(super) struct Group {
    /// Description of the clients for the table.
    pub(super) title: &'static str,
    /// Name of the pool.
    pub(super) pool: &'static str,
    /// Nodes in the order of the backend list.
    pub(super) nodes: Vec<Node>,
    implementation: Implementation,
    /// First letter of the nodes' names.
    letter: char,
    started: usize,
    list: PathBuf,
    runs: Vec<ControlledClients>,
    count: u64,
}

impl Group {
    /// Starts `nodes` nodes and writes the backend list of the pool into `directory`.
    pub(super) fn new(implementation: Implementation, nodes: usize, directory: &Path) -> Self {
        let (title, letter, pool) = match implementation {
            Implementation::Harness => ("300 of `moorline-load`", 'h', "harness"),
            Implementation::Npm => ("30 of npm", 'n', "npm"),
        };
        let mut group = Self {
            title,
            pool,
            nodes: Vec::new(),
            implementation,
            letter,
            started: 0,
            list: directory.join(format!("{pool}.txt")),
            runs: Vec::new(),
            count: 0,
        };
        (0..nodes).for_each(|_| group.add());
        group.write_list();
        group
    }

    /// Starts the clients, without cookies: a third polls, a third upgrades, a third uses WebSocket only.
    pub(super) async fn connect_clients(&mut self, port: u16, authority: &Path) {
        let per_kind = self.per_kind();
        for kind in ["polling", "polling-upgrade", "websocket"] {
            let mut command = self.implementation.clients(kind, per_kind, port, authority);
            self.runs.push(ControlledClients::start(&mut command));
        }
        self.count = 3 * per_kind;
        let all = self.count;
        self.wait_until("all clients are connected", move |status| status.connected == all).await;
    }

    /// Starts another node without writing the list.
    pub(super) fn add(&mut self) {
        self.started += 1;
        let name = format!("{}{}", self.letter, self.started);
        self.nodes.push(Node::start(self.implementation, &name));
    }

    /// Replaces the backend list atomically.
    pub(super) fn write_list(&self) {
        let lines: String = self.nodes.iter().map(|node| format!("{}\n", node.address)).collect();
        let fresh = self.list.with_extension("new");
        fs::write(&fresh, lines).unwrap();
        fs::rename(fresh, &self.list).unwrap();
    }

    /// Current state of the clients.
    pub(super) async fn status(&mut self) -> ClientStatus {
        self.command("status").await
    }

    /// Sends a command to all clients and returns their state.
    pub(super) async fn command(&mut self, command: &str) -> ClientStatus {
        let mut sum = ClientStatus::default();
        for run in &mut self.runs {
            sum = sum + run.command(command).await;
        }
        sum
    }

    /// Waits until `is` holds for the state of the clients.
    pub(super) async fn wait_until(
        &mut self,
        what: &str,
        is: impl Fn(&ClientStatus) -> bool,
    ) -> ClientStatus {
        let deadline = Instant::now() + MAX_CHANGE + TIMEOUT;
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "never happened: {what}: {}: {status:?}",
                self.title
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until every client is connected and has got about two more answers. By then, failures caused by a
    /// change are visible.
    pub(super) async fn wait_until_settled(&mut self) -> ClientStatus {
        let all = self.count;
        let goal = self.status().await.totals.answered + 2 * all;
        self.wait_until("every client is connected and gets answers", move |status| {
            status.connected == all && status.totals.answered >= goal
        })
        .await
    }

    /// Waits until every client is connected, and none to this node.
    pub(super) async fn wait_until_node_is_empty(&mut self, node: &str) -> ClientStatus {
        let all = self.count;
        let what = format!("no client is on {node}");
        self.wait_until(&what, |status| status.on(node) == 0 && status.connected == all).await
    }

    /// Number of clients of each kind.
    fn per_kind(&self) -> u64 {
        match self.implementation {
            Implementation::Harness => 100,
            Implementation::Npm => 10,
        }
    }

    /// Number of polling clients on a node.
    pub(super) async fn polling_on(&mut self, node: &str) -> u64 {
        self.runs[0].status().await.on(node)
    }

    /// Number of clients that use a WebSocket after the upgrade.
    pub(super) fn websockets(&self) -> u64 {
        self.count / 3 * 2
    }

    /// Number of clients.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Disconnects all clients.
    pub(super) async fn disconnect_clients(&mut self) {
        for run in self.runs.drain(..) {
            run.stop().await;
        }
    }
}

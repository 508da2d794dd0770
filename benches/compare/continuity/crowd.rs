//! Clients whose state is read while their proxy changes, and the nodes that serve them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::harness::harness;

/// Clients of each kind.
pub(super) const EACH: u64 = 50;
/// Loopback addresses of the clients, for proxies that identify a client by its address.
const SOURCES: u64 = 40;
/// Limit of a wait: clients reconnect after a second, sometimes after five.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// A Socket.IO node in a separate process, killed on drop.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: String,
    child: Child,
    /// The node ends when this closes.
    _stdin: ChildStdin,
}

/// Polling clients, clients that upgrade, and clients that use WebSocket only.
pub(super) struct Crowd {
    runs: [Run; 3],
}

/// The effect of a change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// WebSockets disconnected, other than by a Close with 1012.
    pub(super) sockets: u64,
    /// Polling sessions ended.
    pub(super) polling: u64,
    /// WebSockets closed with 1012.
    pub(super) moved: u64,
    /// Further errors of clients.
    pub(super) errors: u64,
}

struct Run {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The parts of a run's state that are used here.
#[derive(Clone, Debug, Deserialize)]
struct Look {
    connected: u64,
    totals: Totals,
    errors: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Totals {
    answered: u64,
    disconnects: u64,
    moved: u64,
    errors: u64,
}

impl Node {
    /// Starts a node on a free port.
    pub(super) fn start(name: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(harness());
        command.args(["node", "--nodes", "1", "--until-eof", "--listen", "127.0.0.1:0"]);
        command.args(["--name", name, "--ping-interval", "5s"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let _stdin = child.stdin.take().context("standard input")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output")?).read_line(&mut line)?;
        let address = line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(address.contains(':'), "{name} does not listen: {line:?}");
        Ok(Self { name: name.to_owned(), address, child, _stdin })
    }

    /// Kills the node, which closes nothing properly.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Crowd {
    /// Starts all clients and waits until they exchange messages.
    pub(super) fn arrive(target: SocketAddr) -> anyhow::Result<Self> {
        let kinds = ["polling", "polling-upgrade", "websocket"];
        let [polling, upgrade, websocket] = kinds.map(|kind| Run::start(kind, target));
        let mut crowd = Self { runs: [polling?, upgrade?, websocket?] };
        crowd.settled()?;
        let met: Vec<_> = crowd.looks()?.into_iter().filter(|l| l.totals.errors > 0).collect();
        ensure!(met.is_empty(), "clients have errors before any change: {met:?}");
        Ok(crowd)
    }

    /// From now on the loss of this node is not counted.
    pub(super) fn gone(&mut self, node: &Node) -> anyhow::Result<()> {
        for run in &mut self.runs {
            run.order(&format!("down {}", node.name))?;
        }
        Ok(())
    }

    /// Waits until all clients are connected and have got about three more answers.
    pub(super) fn settled(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for run in &mut self.runs {
            let goal = run.order("status")?.totals.answered + 3 * EACH;
            loop {
                let look = run.order("status")?;
                if look.connected == EACH && look.totals.answered >= goal {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("clients are not connected again after {PATIENCE:?}: {look:?}");
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Losses since the arrival.
    pub(super) fn losses(&mut self) -> anyhow::Result<Losses> {
        let [polling, upgrade, websocket] = self.looks()?;
        for met in [&polling, &upgrade, &websocket].map(|look| &look.errors) {
            if !met.is_empty() {
                eprintln!("  errors of clients: {met:?}");
            }
        }
        let all = [&polling, &upgrade, &websocket].map(|look| look.totals);
        let disconnects: u64 = all.iter().map(|totals| totals.disconnects).sum();
        let errors: u64 = all.iter().map(|totals| totals.errors).sum();
        Ok(Losses {
            sockets: upgrade.totals.disconnects + websocket.totals.disconnects,
            polling: polling.totals.disconnects,
            moved: all.iter().map(|totals| totals.moved).sum(),
            errors: errors - disconnects,
        })
    }

    fn looks(&mut self) -> anyhow::Result<[Look; 3]> {
        let [polling, upgrade, websocket] = &mut self.runs;
        Ok([polling.order("status")?, upgrade.order("status")?, websocket.order("status")?])
    }
}

impl Run {
    fn start(kind: &str, target: SocketAddr) -> anyhow::Result<Self> {
        let mut command = Command::new(harness());
        command.arg("controlled").arg(format!("https://{target}")).args([
            "--client",
            kind,
            "--insecure",
        ]);
        command.args(["--clients", &EACH.to_string(), "--ramp", "1s", "--every", "1s", "--quiet"]);
        command.args(["--sources", &SOURCES.to_string(), "--threads", "1"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("standard input")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?);
        Ok(Self { child, orders, answers })
    }

    fn order(&mut self, order: &str) -> anyhow::Result<Look> {
        writeln!(self.orders, "{order}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("an answer to {order}: {line:?}"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The clients need not leave properly: nothing is measured any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

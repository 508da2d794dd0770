//! The effect of a proxy's changes on its clients, for this proxy and its peers, case by case.
//!
//! Each case starts a new proxy with three Socket.IO nodes behind it, and clients over TLS, without
//! cookies, from many addresses: some poll, some upgrade, some use WebSocket only. The case counts
//! sessions that ended although their node was running, further errors, and processes of an older
//! generation that stay for their connections.

mod crowd;
mod stand;

use std::{fs, path::Path};

use anyhow::Context as _;

use self::{
    crowd::{Crowd, EACH, Losses, Node},
    stand::{Left, Stand},
};
use crate::{
    ASIDE, only,
    peer::{Family, Peer},
};

/// Nodes at the beginning.
const NODES: usize = 3;

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Reload,
    Certificate,
    Added,
    Removed,
    Upgrade,
    Killed,
}

impl Case {
    const ALL: [Self; 6] =
        [Self::Reload, Self::Certificate, Self::Added, Self::Removed, Self::Upgrade, Self::Killed];

    fn title(self) -> &'static str {
        match self {
            Self::Reload => "A reload without a change",
            Self::Certificate => "A certificate renewed, by reload",
            Self::Added => "A node added, by reload",
            Self::Removed => "A running node removed from the list, by reload",
            Self::Upgrade => "An upgrade of the binary",
            Self::Killed => "A node killed: effect on clients of other nodes",
        }
    }
}

/// Runs all cases for all installed proxies, prints the table and writes it to `target/compare`.
pub(crate) fn stage(only: Option<&str>) -> anyhow::Result<()> {
    let mut peers = Peer::installed(None)?;
    peers.retain(|peer| peer.family != Family::Envoy);
    let wanted = |case: &Case| only::includes(only, "", case.title());
    let titles: Vec<_> = peers.iter().map(|peer| peer.title.as_str()).collect();
    let mut table =
        format!("| | {} |\n|{}\n", titles.join(" | "), " --- |".repeat(1 + peers.len()));
    let file = Path::new(ASIDE).join("continuity.md");
    for case in Case::ALL.into_iter().filter(wanted) {
        let mut cells = vec![case.title().to_owned()];
        for peer in &peers {
            eprintln!("{}: {}", case.title(), peer.title);
            let cell = cell(peer, case).or_else(|error| {
                // A hiccup of the machine must not cost the whole run.
                eprintln!("repeated because of an error: {error:#}");
                cell(peer, case)
            });
            cells.push(cell.with_context(|| format!("{}: {}", case.title(), peer.title))?);
        }
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
        // Keeps the finished cases if a later one fails.
        fs::write(&file, &table)?;
    }
    println!("{table}");
    println!("written: {}", file.display());
    Ok(())
}

fn cell(peer: &Peer, case: Case) -> anyhow::Result<String> {
    let mut nodes: Vec<Node> =
        (0..NODES).map(|n| Node::start(&format!("node-{n}"))).collect::<Result<_, _>>()?;
    let mut stand = Stand::start(peer, &addresses(&nodes))?;
    let mut crowd = Crowd::arrive(stand.tls)?;
    let before = stand.processes()?;
    match case {
        Case::Reload => stand.reload(false)?,
        Case::Certificate => {
            stand.renew()?;
            stand.reload(true)?;
        }
        Case::Added => {
            nodes.push(Node::start("node-3")?);
            stand.list(&addresses(&nodes))?;
            stand.reload(false)?;
        }
        Case::Removed => {
            stand.list(&addresses(&nodes[1..]))?;
            stand.reload(false)?;
        }
        Case::Upgrade => {
            if !stand.upgrade()? {
                return Ok("not supported; a restart ends all connections".to_owned());
            }
        }
        Case::Killed => {
            crowd.gone(&nodes[0])?;
            nodes[0].kill()?;
        }
    }
    crowd.settled()?;
    let left = stand.left(&before, case == Case::Upgrade)?;
    Ok(words(crowd.losses()?, left))
}

fn addresses(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.address.clone()).collect()
}

fn words(losses: Losses, left: Left) -> String {
    let mut words = Vec::new();
    if losses.sockets > 0 {
        words.push(format!("{} of {} WebSockets lost", losses.sockets, 2 * EACH));
    }
    if losses.polling > 0 {
        words.push(format!("{} of {EACH} polling sessions lost", losses.polling));
    }
    if losses.moved > 0 {
        words.push(format!("{} WebSockets moved", losses.moved));
    }
    if losses.errors > 0 {
        words.push(format!("{} further errors", losses.errors));
    }
    if words.is_empty() {
        words.push("nothing".to_owned());
    }
    if left.processes > 0 {
        let (processes, mib) = (left.processes, left.bytes as f64 / f64::from(1 << 20));
        let noun = if processes == 1 { "old process stays" } else { "old processes stay" };
        words.push(format!("{processes} {noun}, {mib:.0} MiB"));
    }
    words.join("; ")
}

//! What clients notice of the changes that a proxy goes through: this one and its peers, case by case.
//!
//! Each case meets a fresh proxy with three Socket.IO nodes behind it, and clients over TLS, without
//! cookies, from many addresses: some poll, some upgrade, some use WebSocket only. What is counted are
//! sessions that ended though their node was there all the time, further errors, and processes of an
//! older generation that stay for those who are on them.

mod crowd;
mod stand;

use std::{fs, path::Path};

use anyhow::Context as _;

use self::{
    crowd::{Crowd, EACH, Losses, Node},
    stand::{Left, Stand},
};
use crate::{ASIDE, peer::Peer};

/// Nodes at the beginning.
const NODES: usize = 3;

/// What happens.
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
            Self::Removed => "A node taken from the list, by reload; it goes on",
            Self::Upgrade => "A new binary in the place of the running one",
            Self::Killed => "A node killed: what others than its clients notice",
        }
    }
}

/// Stages all cases for all that are installed, prints the table and leaves it in `target/compare`.
pub(crate) fn stage(only: Option<&str>) -> anyhow::Result<()> {
    let peers = Peer::installed(None)?;
    let wanted = |case: &Case| only.is_none_or(|word| case.title().contains(word));
    let titles: Vec<_> = peers.iter().map(|peer| peer.title.as_str()).collect();
    let mut table =
        format!("| | {} |\n|{}\n", titles.join(" | "), " --- |".repeat(1 + peers.len()));
    let file = Path::new(ASIDE).join("continuity.md");
    for case in Case::ALL.into_iter().filter(wanted) {
        let mut cells = vec![case.title().to_owned()];
        for peer in &peers {
            eprintln!("{}: {}", case.title(), peer.title);
            let cell = cell(peer, case).or_else(|error| {
                // One stumble of this machine is not to cost the whole run.
                eprintln!("once more, because of this: {error:#}");
                cell(peer, case)
            });
            cells.push(cell.with_context(|| format!("{}: {}", case.title(), peer.title))?);
        }
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
        // What is staged is told, should a later case fail.
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
                return Ok("not staged: it has none, and a restart ends everything".to_owned());
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

//! Nodes that are killed, that hang, that reset their connections: one of each party at a time.

use std::time::{Duration, Instant};

use super::{
    party::Party,
    site::{Site, Text},
};
use crate::support::controlled::ClientStatus;

/// Killed, for good. Time: until the last of its clients is elsewhere.
pub(super) async fn kill(site: &mut Site) -> Duration {
    let start = Instant::now();
    let mut dead = Vec::new();
    for party in &mut site.parties {
        let mut node = party.nodes.remove(0);
        gone(party, &node.name).await;
        node.kill();
        dead.push(node);
    }
    for (party, node) in site.parties.iter_mut().zip(&dead) {
        party.left(&node.name).await;
    }
    let took = start.elapsed();
    // Somebody sees to it, and takes it from the list.
    for party in &site.parties {
        party.list();
    }
    took
}

/// How long a node stands still: less than a session of its lives without being heard.
const HANG: Duration = Duration::from_secs(10);

/// The probes that a hung node answers to, or not: kind and settings, and whether it sees the hang.
pub(super) const PROBES: [(&str, &str, bool); 4] = [
    ("tcp", "\"tcp\"", false),
    ("http", "\"http\", status = \"200-499\"", true),
    ("engine.io", "\"engine.io\"", true),
    ("websocket", "\"websocket\", path = \"/socket.io/?EIO=4&transport=websocket\"", true),
];

/// Stands still for ten seconds while all the others are answered, and goes on with every session that
/// it had, whatever the probes made of it. Time: until it answers again.
pub(super) async fn hang(site: &mut Site, probe: &'static str, sees: bool) -> Duration {
    site.reload(&Text { probe: Some(probe), ..Text::default() }).await;
    for party in &site.parties {
        for node in &party.nodes {
            site.wait_until_up(party.pool, &node.address).await;
        }
    }
    let hung = Instant::now();
    for party in &mut site.parties {
        party.nodes[0].hang();
    }
    for party in site.parties.iter().filter(|_| sees) {
        site.wait_until_down(party.pool, &party.nodes[0].address).await;
    }
    for party in &mut site.parties {
        let others = party.count() - party.look().await.on(&party.nodes[0].name);
        let goal = party.look().await.totals.answered + 2 * others;
        party.until("the others are answered", |look| look.totals.answered >= goal).await;
    }
    tokio::time::sleep(HANG.saturating_sub(hung.elapsed())).await;
    let start = Instant::now();
    for party in &mut site.parties {
        party.nodes[0].resume();
    }
    for party in &mut site.parties {
        party.settled().await;
    }
    let took = start.elapsed();
    for party in &site.parties {
        site.wait_until_up(party.pool, &party.nodes[0].address).await;
    }
    site.reload(&Text::default()).await;
    took
}

/// Resets all its connections, and goes on. Time: until everybody is back.
pub(super) async fn reset(site: &mut Site) -> Duration {
    let start = Instant::now();
    for party in &mut site.parties {
        let name = party.nodes[0].name.clone();
        let before = gone(party, &name).await;
        party.nodes[0].reset();
        let (all, lost) = (party.count(), before.totals.node_gone);
        let came = |look: &ClientStatus| look.totals.node_gone > lost && look.connected == all;
        party.until("its clients are back", came).await;
    }
    let took = start.elapsed();
    for party in &mut site.parties {
        party.settled().await;
        back(party).await;
    }
    took
}

/// From now on, only its own clients may lose the node.
async fn gone(party: &mut Party, name: &str) -> ClientStatus {
    party.order(&format!("down {name}")).await
}

/// From now on, nobody may lose the first node.
async fn back(party: &mut Party) -> ClientStatus {
    let name = party.nodes[0].name.clone();
    party.order(&format!("up {name}")).await
}

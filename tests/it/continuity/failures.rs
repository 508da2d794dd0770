//! Nodes that are killed, hang or reset their connections: one in each group at a time.

use std::time::{Duration, Instant};

use super::{
    group::Group,
    site::{Site, Variation},
};
use crate::support::controlled::ClientStatus;

/// Kills the first nodes. Returns the time until all their clients are on other nodes.
pub(super) async fn kill(site: &mut Site) -> Duration {
    let start = Instant::now();
    let mut dead = Vec::new();
    for group in &mut site.groups {
        let mut node = group.nodes.remove(0);
        expect_losses(group, &node.name).await;
        node.kill();
        dead.push(node);
    }
    for (group, node) in site.groups.iter_mut().zip(&dead) {
        group.wait_until_node_is_empty(&node.name).await;
    }
    let took = start.elapsed();
    // An operator removes the node from the list.
    for group in &site.groups {
        group.write_list();
    }
    took
}

/// Time for which a node hangs: less than the session timeout.
const HANG: Duration = Duration::from_secs(10);

/// Probes: kind, settings, and whether the probe detects a node that hangs.
pub(super) const PROBES: [(&str, &str, bool); 4] = [
    ("tcp", "\"tcp\"", false),
    ("http", "\"http\", status = \"200-499\"", true),
    ("engine.io", "\"engine.io\"", true),
    ("websocket", "\"websocket\", path = \"/socket.io/?EIO=4&transport=websocket\"", true),
];

/// Stops the first nodes for ten seconds while the other nodes answer. All sessions must continue, even if
/// a probe marked the node down. Returns the time from the resumption until all clients get answers.
pub(super) async fn hang(site: &mut Site, probe: &'static str, detects: bool) -> Duration {
    site.reload(&Variation { probe: Some(probe), ..Variation::default() }).await;
    for group in &site.groups {
        for node in &group.nodes {
            site.wait_until_up(group.pool, &node.address).await;
        }
    }
    let hung = Instant::now();
    for group in &mut site.groups {
        group.nodes[0].hang();
    }
    for group in site.groups.iter().filter(|_| detects) {
        site.wait_until_down(group.pool, &group.nodes[0].address).await;
    }
    for group in &mut site.groups {
        let others = group.count() - group.status().await.on(&group.nodes[0].name);
        let goal = group.status().await.totals.answered + 2 * others;
        group
            .wait_until("the other clients get answers", |status| status.totals.answered >= goal)
            .await;
    }
    tokio::time::sleep(HANG.saturating_sub(hung.elapsed())).await;
    let start = Instant::now();
    for group in &mut site.groups {
        group.nodes[0].resume();
    }
    for group in &mut site.groups {
        group.wait_until_settled().await;
    }
    let took = start.elapsed();
    for group in &site.groups {
        site.wait_until_up(group.pool, &group.nodes[0].address).await;
    }
    site.reload(&Variation::default()).await;
    took
}

/// Makes the first nodes reset all connections. Returns the time until every client is connected again.
pub(super) async fn reset(site: &mut Site) -> Duration {
    let start = Instant::now();
    for group in &mut site.groups {
        let name = group.nodes[0].name.clone();
        let before = expect_losses(group, &name).await;
        group.nodes[0].reset();
        let (all, lost) = (group.count(), before.totals.node_gone);
        let reconnected =
            |status: &ClientStatus| status.totals.node_gone > lost && status.connected == all;
        group.wait_until("the clients are back", reconnected).await;
    }
    let took = start.elapsed();
    for group in &mut site.groups {
        group.wait_until_settled().await;
        expect_no_losses(group).await;
    }
    took
}

/// From now on, clients of this node may lose their sessions.
async fn expect_losses(group: &mut Group, name: &str) -> ClientStatus {
    group.command(&format!("down {name}")).await
}

/// From now on, clients of the first node must not lose their sessions.
async fn expect_no_losses(group: &mut Group) -> ClientStatus {
    let name = group.nodes[0].name.clone();
    group.command(&format!("up {name}")).await
}

//! Changes of the number of nodes: a rolling replacement, a scale-out.

use std::time::{Duration, Instant};

use super::site::{Site, Variation};

/// Replaces all nodes one after another: adds a new node to the list, removes an old node, drains it and
/// stops it when it is empty. Returns the longest time from a removal until all clients are on other nodes.
pub(super) async fn rolling_replacement(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..site.groups[0].nodes.len() {
        add_nodes(site, 1).await;
        longest = longest.max(replace_first(site).await);
    }
    longest
}

/// Doubles the nodes of both groups while the pools rebalance. Returns the time until tunnels are balanced.
pub(super) async fn scale_out(site: &mut Site) -> Duration {
    site.reload(&rebalancing()).await;
    let start = Instant::now();
    let more = site.groups[0].nodes.len();
    add_nodes(site, more).await;
    for number in 0..site.groups.len() {
        wait_until_balanced(site, number).await;
    }
    let took = start.elapsed();
    site.reload(&Variation::default()).await;
    took
}

fn rebalancing() -> Variation {
    Variation { pools: "rebalance = { rate = \"50/s\" }".to_owned(), ..Variation::default() }
}

/// Starts `more` nodes in each group and waits until the proxy considers all of them up.
async fn add_nodes(site: &mut Site, more: usize) {
    for group in &mut site.groups {
        (0..more).for_each(|_| group.add());
        group.write_list();
    }
    for group in &site.groups {
        for node in &group.nodes {
            site.wait_until_up(group.pool, &node.address).await;
        }
    }
}

/// Removes the first node of each group from its list. Only its clients may reconnect, once each.
async fn replace_first(site: &mut Site) -> Duration {
    let start = Instant::now();
    let mut leaving = Vec::new();
    for group in &mut site.groups {
        let node = group.nodes.remove(0);
        let before = group.command(&format!("down {}", node.name)).await;
        let polling = group.polling_on(&node.name).await;
        group.write_list();
        leaving.push((node, before, polling));
    }
    for (group, (node, before, polling)) in site.groups.iter_mut().zip(&leaving) {
        let now = group.wait_until_node_is_empty(&node.name).await - before;
        assert_eq!(now.totals.connects, before.on(&node.name), "{}: {now:?}", group.title);
        // Polling sessions were evicted; every WebSocket was closed by a Close, and none was cut.
        assert_eq!(now.totals.node_gone, *polling, "{}: {now:?}", group.title);
    }
    start.elapsed()
}

/// Waits until every client has a tunnel, and no node has more tunnels than its share.
async fn wait_until_balanced(site: &mut Site, number: usize) {
    let group = &site.groups[number];
    let (pool, nodes, all) = (group.pool, group.nodes.len(), group.websockets());
    let share = all.div_ceil(nodes as u64);
    site.wait_until_tunnels(pool, |tunnels| {
        tunnels.len() == nodes
            && tunnels.iter().sum::<u64>() == all
            && tunnels.iter().all(|&many| many <= share + 1)
    })
    .await;
}

//! Fleets that change: a rolling replacement, a scale-out.

use std::time::{Duration, Instant};

use super::site::{Site, Text};

/// All nodes, one after the other: a new one joins the list, an old one leaves it, is emptied, and is ended
/// when it is empty. Time: the longest from a node's removal until the last of its clients is elsewhere.
pub(super) async fn rolling_replacement(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..site.parties[0].nodes.len() {
        join(site, 1).await;
        longest = longest.max(replace_first(site).await);
    }
    longest
}

/// Both fleets doubled while the pools rebalance. Time: until the counts are level.
pub(super) async fn scale_out(site: &mut Site) -> Duration {
    site.reload(&rebalancing()).await;
    let start = Instant::now();
    let more = site.parties[0].nodes.len();
    join(site, more).await;
    for number in 0..site.parties.len() {
        level(site, number).await;
    }
    let took = start.elapsed();
    site.reload(&Text::default()).await;
    took
}

fn rebalancing() -> Text {
    Text { pools: "rebalance = { rate = \"50/s\" }".to_owned(), ..Text::default() }
}

/// Starts so many more nodes of each party, and waits until the proxy knows all of them.
async fn join(site: &mut Site, more: usize) {
    for party in &mut site.parties {
        (0..more).for_each(|_| party.add());
        party.list();
    }
    for party in &site.parties {
        for node in &party.nodes {
            site.wait_until_up(party.pool, &node.address).await;
        }
    }
}

/// Takes the first node of each party from its list. Its clients, and nobody else, come back once each.
async fn replace_first(site: &mut Site) -> Duration {
    let start = Instant::now();
    let mut leaving = Vec::new();
    for party in &mut site.parties {
        let node = party.nodes.remove(0);
        let before = party.order(&format!("down {}", node.name)).await;
        let polling = party.polling_on(&node.name).await;
        party.list();
        leaving.push((node, before, polling));
    }
    for (party, (node, before, polling)) in site.parties.iter_mut().zip(&leaving) {
        let now = party.left(&node.name).await - before;
        assert_eq!(now.totals.connects, before.on(&node.name), "{}: {now:?}", party.title);
        // Those that poll were let go; every WebSocket was closed in good order, and none was cut.
        assert_eq!(now.totals.node_gone, *polling, "{}: {now:?}", party.title);
    }
    start.elapsed()
}

/// Waits until no node has more sockets than its share, and everybody is back.
async fn level(site: &mut Site, number: usize) {
    let party = &site.parties[number];
    let (pool, nodes, all) = (party.pool, party.nodes.len(), party.sockets());
    let share = all.div_ceil(nodes as u64);
    site.until_tunnels(pool, |tunnels| {
        tunnels.len() == nodes
            && tunnels.iter().sum::<u64>() == all
            && tunnels.iter().all(|&many| many <= share + 1)
    })
    .await;
}

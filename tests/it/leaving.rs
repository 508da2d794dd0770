//! Backends that leave the configuration while it has their address elsewhere: their sessions go on, and
//! end by fresh terms once the address leaves too.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    Backend, Peer, Proxy, Raw, eventually,
    proxy::Setup,
    websocket::{self, tunnel},
};

/// What a client says, and a node gets.
const ALIVE: &[u8] = b"\x81\x85\x00\x00\x00\x00alive";

/// The drain of the backend that leaves; shorter than the test waits.
const TERMS: &str = "{ within = \"2s\", spread = \"1500ms\" }";

/// A configuration with these pools, in this order, each with backends; `/` leads to the first.
fn pools(setup: &Setup, pools: &[(&str, &[(&str, SocketAddr)])]) -> String {
    let mut text = setup.settings.clone();
    text.unrouted().backends(&[([127, 0, 0, 1], 9).into()]);
    text.table(&format!("[[routes]]\npath = \"/\"\npool = \"{}\"\n", pools[0].0));
    for (name, backends) in pools {
        let backend = |(name, address): &(&str, SocketAddr)| {
            format!("{{ name = \"{name}\", address = \"{address}\" }}")
        };
        let list: Vec<String> = backends.iter().map(backend).collect();
        text.table(&format!(
            "[pools.{name}]\nbackends = [{}]\nhealth = {{ probe = \"off\" }}\ndrain = {TERMS}\n\
             reuse = {{ idle_timeout = \"1s\" }}\n",
            list.join(", ")
        ));
    }
    text.text()
}

/// Tunnels through the proxy, with both ends.
struct Tunnels(Vec<(Raw, Peer)>);

impl Tunnels {
    async fn open(proxy: &Proxy, backend: &Backend, count: usize) -> Self {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(tunnel(proxy, backend).await);
        }
        Self(all)
    }

    /// Uses them for longer than the drain's terms.
    async fn outlive_the_terms(&mut self) {
        let end = Instant::now() + Duration::from_secs(3);
        let mut rounds = 0;
        while Instant::now() < end {
            rounds += 1;
            for (client, far) in &mut self.0 {
                client.send(ALIVE).await;
                far.wait_for_rest(ALIVE).await;
                assert!(far.skip(ALIVE.len()).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(rounds > 3);
    }

    /// Sees each closed with 1012, one after the other, and not cut.
    async fn are_closed(self) {
        let began = Instant::now();
        let close = websocket::close("draining");
        let tasks = self.0.into_iter().map(|(mut client, far)| {
            let close = close.clone();
            tokio::spawn(async move {
                assert_eq!(client.exact(close.len()).await, close);
                let at = Instant::now();
                client.send(websocket::CLOSE_REPLY).await;
                far.ended().await;
                far.close();
                client.assert_closed().await;
                at
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            // The spread begins half a second after the order.
            assert!(task.await.unwrap() - began >= Duration::from_millis(400));
        }
    }
}

fn names(pools: &Value) -> Vec<&str> {
    pools["pools"].as_array().unwrap().iter().map(|pool| pool["name"].as_str().unwrap()).collect()
}

/// Goes from one configuration to the next, in which the address goes on, and to a third, in which it
/// does not, with tunnels that are opened in the first.
async fn leaves_twice(setup: Setup, node: &Backend, texts: [String; 3], from: &str, to: &str) {
    let [first, second, third] = texts;
    let proxy = setup.text(first).start().await;
    let mut tunnels = Tunnels::open(&proxy, node, 3).await;
    proxy.write(&second);
    let plan = proxy.command(&["plan"]).await.done();
    assert!(plan.contains(&format!("goes on as {to}")), "{plan}");
    assert!(plan.ends_with("no session would be disconnected\n"), "{plan}");
    proxy.command(&["reload", "--max-disconnects", "0"]).await.done();
    tunnels.outlive_the_terms().await;
    let (pool, name) = from.split_once('/').unwrap();
    let all = proxy.api().get("/v1/pools").await;
    let at = names(&all).iter().position(|known| *known == pool).unwrap_or_else(|| panic!("{all}"));
    let backends = all["pools"][at]["backends"].as_array().unwrap();
    let left = backends.iter().find(|known| known["name"] == name).unwrap();
    assert_eq!((&left["state"], &left["goes_on_as"]), (&"leaving".into(), &to.into()), "{left}");
    assert_eq!((&left["tunnels"], &left["drain"]["seconds_left"]), (&3.into(), &Value::Null));
    let listed = proxy.command(&["backends"]).await.done();
    assert!(listed.contains(&format!("goes on as {to}")), "{listed}");
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains("3 sessions (3 tunnels)"), "{status}");
    let sessions = proxy.command(&["sessions", "--json"]).await.json();
    assert_eq!(sessions["total"], 3, "{sessions}");
    // Now the address leaves too: all three are counted.
    proxy.write(&third);
    let plan = proxy.command(&["plan"]).await.done();
    let end = "3 sessions (3 tunnels) would be disconnected, the last within 2s\n";
    assert!(plan.ends_with(end), "{plan}");
    let refused = proxy.command(&["reload", "--max-disconnects", "0"]).await;
    refused.refused("would disconnect 3 sessions (3 with a tunnel)");
    let closed = tokio::spawn(tunnels.are_closed());
    proxy.command(&["reload", "--max-disconnects", "3"]).await.done();
    closed.await.unwrap();
    drop(proxy);
}

#[tokio::test]
async fn a_node_that_leaves_one_pool_and_then_the_other_is_drained_by_fresh_terms() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let (setup, spare) = (Setup::new(), [("spare", other.address)]);
    let ours = [("blue", node.address)];
    let texts = [
        pools(&setup, &[("old", &ours), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &spare)]),
    ];
    leaves_twice(setup, &node, texts.map(unwatched_text), "old/blue", "new/blue").await;
}

#[tokio::test]
async fn a_node_whose_pool_is_removed_is_shown_and_drained_by_fresh_terms() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let (setup, spare) = (Setup::new(), [("spare", other.address)]);
    let ours = [("blue", node.address)];
    let texts = [
        pools(&setup, &[("old", &ours), ("new", &ours)]),
        pools(&setup, &[("new", &ours)]),
        pools(&setup, &[("new", &spare)]),
    ];
    leaves_twice(setup, &node, texts.map(unwatched_text), "old/blue", "new/blue").await;
}

#[tokio::test]
async fn a_renamed_node_is_drained_by_fresh_terms_once_it_leaves() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let setup = Setup::new();
    let texts = [
        pools(&setup, &[("old", &[("blue", node.address)])]),
        pools(&setup, &[("old", &[("green", node.address)])]),
        pools(&setup, &[("old", &[("spare", other.address)])]),
    ];
    leaves_twice(setup, &node, texts.map(unwatched_text), "old/blue", "old/green").await;
}

/// Only an order puts the file in force.
fn unwatched_text(text: String) -> String {
    format!("reload = {{ watch = false }}\n{text}")
}

#[tokio::test]
async fn tunnels_of_an_old_process_are_drained_by_fresh_terms_too() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let (setup, spare) = (Setup::new(), [("spare", other.address)]);
    let ours = [("blue", node.address)];
    let [first, second, third] = [
        pools(&setup, &[("old", &ours), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &spare)]),
    ]
    .map(unwatched_text);
    let mut proxy = setup.text(first).start().await;
    let mut tunnels = Tunnels::open(&proxy, &node, 2).await;
    proxy.write(&second);
    proxy.command(&["reload"]).await.done();
    proxy.upgrade().await;
    tunnels.outlive_the_terms().await;
    proxy.write(&third);
    let deadline = Instant::now() + crate::support::TIMEOUT;
    let told = "2 sessions (2 tunnels) would be disconnected";
    while !proxy.command(&["plan"]).await.done().contains(told) {
        assert!(Instant::now() < deadline, "the old process has not said what it holds");
    }
    let closed = tokio::spawn(tunnels.are_closed());
    proxy.command(&["reload"]).await.done();
    closed.await.unwrap();
    drop((node, other));
    proxy.wait_for_predecessors().await;
}

#[tokio::test]
async fn an_empty_backend_is_gone_from_the_lists_as_soon_as_it_is_removed() {
    let (node, other) = (Backend::replying("a").await, Backend::replying("b").await);
    let mut proxy = Proxy::for_backends(&[node.address, other.address]).await;
    let remaining = [other.address];
    proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    let pool = proxy.api().get("/v1/pools/app").await;
    assert_eq!(pool["backends"].as_array().unwrap().len(), 1, "{pool}");
    let listed = proxy.command(&["backends"]).await.done();
    assert!(!listed.contains(&node.address.to_string()), "{listed}");
    drop((node, other));
    proxy.finish().await;
}

#[tokio::test]
async fn a_removed_backend_is_still_asked_for_sessions_that_are_unknown_here() {
    use crate::support::{Node, node::poll};
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let (first, second) = (a.backend.address, b.backend.address);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[first, second]);
    })
    .await;
    let sid = "a-session-of-another-proxy";
    b.add_session(sid);
    proxy
        .reload(|settings| {
            settings.backends(&[first]);
        })
        .await;
    let mut client = Raw::connect(proxy.web()).await;
    let reply = poll(&mut client, sid, "unknown", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
    // Now it holds a session, and is shown.
    let api = proxy.api();
    let pool = api.get("/v1/pools/app").await;
    assert_eq!(pool["backends"][1]["state"], "leaving", "{pool}");
    eventually("the node was asked", || b.request_count(sid) > 0).await;
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn an_order_drains_a_node_under_every_name_that_it_had() {
    let node = Backend::manual().await;
    let setup = Setup::new();
    let texts = [
        pools(&setup, &[("old", &[("blue", node.address)])]),
        pools(&setup, &[("old", &[("green", node.address)])]),
    ];
    let [first, second] = texts.map(unwatched_text);
    let proxy = setup.text(first).start().await;
    let tunnels = Tunnels::open(&proxy, &node, 2).await;
    proxy.write(&second);
    proxy.command(&["reload"]).await.done();
    let closed = tokio::spawn(tunnels.are_closed());
    let words = ["drain", "old/green", "--within", "2s", "--spread", "1500ms", "--wait"];
    let drained = proxy.command(&words).await;
    closed.await.unwrap();
    assert_eq!(drained.code, 0, "{drained:?}");
    assert!(drained.out.contains("old/blue") && drained.out.contains("old/green"), "{drained:?}");
    drop((proxy, node));
}

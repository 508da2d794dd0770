//! Removed backends whose address is still in the configuration under another name: their sessions continue.
//! When the address is removed too, they are drained with a new deadline.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    Backend, Peer, Proxy, Raw, eventually,
    proxy::Setup,
    websocket::{self, tunnel},
};

/// A masked text frame of a client.
const ALIVE: &[u8] = b"\x81\x85\x00\x00\x00\x00alive";

/// Drain of the removed backend. Shorter than the time that the tests use the tunnels.
const DRAIN: &str = "{ within = \"2s\", spread = \"1500ms\" }";

/// Makes a configuration with these pools in this order, each with its backends. The first pool has the route `/`.
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
            "[pools.{name}]\nbackends = [{}]\nhealth = {{ probe = \"off\" }}\ndrain = {DRAIN}\n\
             reuse = {{ idle_timeout = \"1s\" }}\n",
            list.join(", ")
        ));
    }
    text.text()
}

/// Tunnels through the proxy: client and backend end of each.
struct Tunnels(Vec<(Raw, Peer)>);

impl Tunnels {
    async fn open(proxy: &Proxy, backend: &Backend, count: usize) -> Self {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(tunnel(proxy, backend).await);
        }
        Self(all)
    }

    /// Uses the tunnels for longer than the drain deadline.
    async fn use_past_the_drain_deadline(&mut self) {
        let end = Instant::now() + Duration::from_secs(3);
        let mut rounds = 0;
        while Instant::now() < end {
            rounds += 1;
            for (client, peer) in &mut self.0 {
                client.send(ALIVE).await;
                peer.wait_for_rest(ALIVE).await;
                assert!(peer.skip(ALIVE.len()).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(rounds > 3);
    }

    /// Asserts that each tunnel gets a Close (1012) and is not cut.
    async fn assert_closed_with_1012(self) {
        let began = Instant::now();
        let close = websocket::close("draining");
        let tasks = self.0.into_iter().map(|(mut client, peer)| {
            let close = close.clone();
            tokio::spawn(async move {
                assert_eq!(client.exact(close.len()).await, close);
                let at = Instant::now();
                client.send(websocket::CLOSE_REPLY).await;
                peer.ended().await;
                peer.close();
                client.assert_closed().await;
                at
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            // The first Close is sent half a second after the command.
            assert!(task.await.unwrap() - began >= Duration::from_millis(400));
        }
    }
}

fn names(pools: &Value) -> Vec<&str> {
    pools["pools"].as_array().unwrap().iter().map(|pool| pool["name"].as_str().unwrap()).collect()
}

/// Opens tunnels with the first configuration. The second removes the backend but keeps its address as `to`;
/// the third removes the address.
async fn remove_backend_then_address(
    setup: Setup,
    node: &Backend,
    texts: [String; 3],
    from: &str,
    to: &str,
) {
    let [first, second, third] = texts;
    let proxy = setup.text(first).start().await;
    let mut tunnels = Tunnels::open(&proxy, node, 3).await;
    proxy.write(&second);
    let plan = proxy.command(&["plan"]).await.done();
    assert!(plan.contains(&format!("sessions continue as {to}")), "{plan}");
    assert!(plan.ends_with("no session would be disconnected\n"), "{plan}");
    proxy.command(&["reload", "--max-disconnects", "0"]).await.done();
    tunnels.use_past_the_drain_deadline().await;
    let (pool, name) = from.split_once('/').unwrap();
    let all = proxy.api().get("/v1/pools").await;
    let at = names(&all).iter().position(|known| *known == pool).unwrap_or_else(|| panic!("{all}"));
    let backends = all["pools"][at]["backends"].as_array().unwrap();
    let left = backends.iter().find(|known| known["name"] == name).unwrap();
    assert_eq!((&left["state"], &left["continues_as"]), (&"leaving".into(), &to.into()), "{left}");
    assert_eq!((&left["tunnels"], &left["drain"]["seconds_left"]), (&3.into(), &Value::Null));
    let listed = proxy.command(&["backends"]).await.done();
    assert!(listed.contains(&format!("sessions continue as {to}")), "{listed}");
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains("3 sessions (3 tunnels)"), "{status}");
    let sessions = proxy.command(&["sessions", "--json"]).await.json();
    assert_eq!(sessions["total"], 3, "{sessions}");
    // The third configuration removes the address too: the plan counts all three sessions.
    proxy.write(&third);
    let plan = proxy.command(&["plan"]).await.done();
    let end = "3 sessions (3 tunnels) would be disconnected, the last within 2s\n";
    assert!(plan.ends_with(end), "{plan}");
    let refused = proxy.command(&["reload", "--max-disconnects", "0"]).await;
    refused.refused("would disconnect 3 sessions (3 with a tunnel)");
    let closed = tokio::spawn(tunnels.assert_closed_with_1012());
    proxy.command(&["reload", "--max-disconnects", "3"]).await.done();
    closed.await.unwrap();
    drop(proxy);
}

#[tokio::test]
async fn a_node_removed_from_both_its_pools_is_drained_with_a_new_deadline() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let (setup, spare) = (Setup::new(), [("spare", other.address)]);
    let ours = [("blue", node.address)];
    let texts = [
        pools(&setup, &[("old", &ours), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &ours)]),
        pools(&setup, &[("old", &spare), ("new", &spare)]),
    ];
    remove_backend_then_address(setup, &node, texts.map(unwatched_text), "old/blue", "new/blue")
        .await;
}

#[tokio::test]
async fn a_node_of_a_removed_pool_is_listed_and_drained_with_a_new_deadline() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let (setup, spare) = (Setup::new(), [("spare", other.address)]);
    let ours = [("blue", node.address)];
    let texts = [
        pools(&setup, &[("old", &ours), ("new", &ours)]),
        pools(&setup, &[("new", &ours)]),
        pools(&setup, &[("new", &spare)]),
    ];
    remove_backend_then_address(setup, &node, texts.map(unwatched_text), "old/blue", "new/blue")
        .await;
}

#[tokio::test]
async fn a_renamed_node_is_drained_with_a_new_deadline_when_it_is_removed() {
    let (node, other) = (Backend::manual().await, Backend::replying("ok").await);
    let setup = Setup::new();
    let texts = [
        pools(&setup, &[("old", &[("blue", node.address)])]),
        pools(&setup, &[("old", &[("green", node.address)])]),
        pools(&setup, &[("old", &[("spare", other.address)])]),
    ];
    remove_backend_then_address(setup, &node, texts.map(unwatched_text), "old/blue", "old/green")
        .await;
}

/// Turns off watching, so that the file is applied by commands only.
fn unwatched_text(text: String) -> String {
    format!("reload = {{ watch = false }}\n{text}")
}

#[tokio::test]
async fn tunnels_of_an_old_process_are_drained_with_a_new_deadline() {
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
    tunnels.use_past_the_drain_deadline().await;
    proxy.write(&third);
    let deadline = Instant::now() + crate::support::TIMEOUT;
    let expected = "2 sessions (2 tunnels) would be disconnected";
    while !proxy.command(&["plan"]).await.done().contains(expected) {
        assert!(Instant::now() < deadline, "the old process has not reported its sessions");
    }
    let closed = tokio::spawn(tunnels.assert_closed_with_1012());
    proxy.command(&["reload"]).await.done();
    closed.await.unwrap();
    drop((node, other));
    proxy.wait_for_predecessors().await;
}

#[tokio::test]
async fn a_removed_backend_without_sessions_is_not_listed() {
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
async fn a_removed_backend_is_searched_for_unknown_sessions() {
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
    // The backend has a session now, so it is listed.
    let api = proxy.api();
    let pool = api.get("/v1/pools/app").await;
    assert_eq!(pool["backends"][1]["state"], "leaving", "{pool}");
    eventually("a poll at the node", || b.request_count(sid) > 0).await;
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn a_drain_command_covers_former_names_of_a_node() {
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
    let closed = tokio::spawn(tunnels.assert_closed_with_1012());
    let words = ["drain", "old/green", "--within", "2s", "--spread", "1500ms", "--wait"];
    let drained = proxy.command(&words).await;
    closed.await.unwrap();
    assert_eq!(drained.code, 0, "{drained:?}");
    assert!(drained.out.contains("old/blue") && drained.out.contains("old/green"), "{drained:?}");
    drop((proxy, node));
}

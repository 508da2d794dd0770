//! Admission of a herd of reconnecting clients: some are admitted, some wait, some are refused with Retry-After.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use crate::support::{
    Message, Node, Proxy, Raw, message,
    node::{handshake, handshake_target, poll},
    websocket,
};

const WAITING: &str = "moorline_backend_waiting_sessions";
const ORIGIN: &str = "Origin: http://app.test\r\n";

#[tokio::test]
async fn fault_093_reconnect_storm() {
    let node = Node::start("a").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
        settings.pool("admission", "{ rate = \"1/s\", queue = 8, deadline = \"19s\" }");
    })
    .await;
    let mut admitted = Raw::connect(proxy.web()).await;
    let session = handshake(&mut admitted, "admitted", "").await;
    let web = proxy.web();
    let mut herd: JoinSet<(Raw, Message)> = JoinSet::new();
    for n in 0..80 {
        herd.spawn(async move {
            let mut client = Raw::connect(web).await;
            let request = match n % 2 {
                0 => message::get(&handshake_target(&format!("herd{n}")), ORIGIN),
                _ => websocket::request("/socket.io/?EIO=4&transport=websocket", ORIGIN),
            };
            client.send(request).await;
            let reply = client.head().await;
            (client, reply)
        });
    }
    // Most are refused at once, with CORS fields and with different Retry-After values.
    let mut delays = BTreeSet::new();
    let mut refused = 0;
    while refused < 60 {
        let (_, reply) = herd.join_next().await.unwrap().unwrap();
        if reply.status() != 503 {
            continue;
        }
        refused += 1;
        let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=20).contains(&seconds), "{seconds}");
        delays.insert(seconds);
        assert_eq!(reply.header("access-control-allow-origin"), Some("http://app.test"));
    }
    assert!(delays.len() > 2, "all retry at the same time: {delays:?}");
    // Requests of existing sessions, and requests that open no session, do not wait.
    for n in 0..3 {
        let reply = poll(&mut admitted, &session.sid, &format!("poll{n}"), "").await;
        assert_eq!(reply.status(), 200);
    }
    let upgrade = format!("/socket.io/?EIO=4&transport=websocket&sid={}", session.sid);
    let mut tunnel = Raw::connect(web).await;
    tunnel.send(websocket::request(&upgrade, "")).await;
    assert_eq!(tunnel.response().await.status(), 101);
    let preflight = message::get(&handshake_target("preflight"), ORIGIN);
    let preflight = [b"OPTIONS".as_slice(), &preflight[3..]].concat();
    assert_eq!(Raw::ask(web, preflight).await.status(), 200);
    assert_eq!(Raw::ask(web, message::get("/plain", "")).await.status(), 200);
    assert!(proxy.metric(WAITING).await > 0.0, "no client is waiting any more");
    assert!(proxy.metric("moorline_admission_total{result=\"refused\"}").await >= 60.0);
    let line = proxy.wait_for_log("a refusal", |line| line["status"] == 503).await;
    assert_eq!(line["termination"], "proxy_select_not_admitted");
    // Clients that disconnect leave the queue, with polling and with WebSocket.
    herd.shutdown().await;
    proxy.wait_for_metric("an empty queue", WAITING, |waiting| waiting == 0.0).await;
    drop((admitted, tunnel, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_herd_that_fits_the_queue_is_admitted_at_the_configured_rate() {
    let nodes = [Node::start("a").await, Node::start("b").await];
    let addresses = [nodes[0].backend.address, nodes[1].backend.address];
    let proxy = Proxy::with(|settings| {
        settings.backends(&addresses);
        settings.pool("admission", "{ rate = \"20/s\", queue = 100, deadline = \"15s\" }");
    })
    .await;
    let web = proxy.web();
    let mut herd = JoinSet::new();
    for n in 0..60 {
        herd.spawn(async move {
            let mut client = Raw::connect(web).await;
            handshake(&mut client, &format!("herd{n}"), "").await.node
        });
    }
    let nodes_of_clients = herd.join_all().await;
    // The length of the queue counts: new clients join the shorter queue.
    let to_a = nodes_of_clients.iter().filter(|node| *node == "a").count();
    assert!((25..=35).contains(&to_a), "{to_a} of 60");
    assert!(proxy.metric("moorline_admission_total{result=\"queued\"}").await > 20.0);
    assert_eq!(proxy.metric("moorline_admission_total{result=\"refused\"}").await, 0.0);
    assert_eq!(proxy.metric(WAITING).await, 0.0);
    drop(nodes);
    proxy.finish().await;
}

#[tokio::test]
async fn clients_waiting_for_a_failed_node_go_to_another() {
    let nodes = [Node::start("a").await, Node::start("b").await];
    let addresses = [nodes[0].backend.address, nodes[1].backend.address];
    let proxy = Proxy::with(|settings| {
        settings.backends(&addresses).pool("balance", "\"round-robin\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"100ms\", rise = 1, fall = 1 }");
        settings.pool("admission", "{ rate = \"1/s\", queue = 100, deadline = \"19s\" }");
    })
    .await;
    let web = proxy.web();
    let mut herd = JoinSet::new();
    for n in 0..8 {
        herd.spawn(async move {
            let mut client = Raw::connect(web).await;
            handshake(&mut client, &format!("herd{n}"), "").await.node
        });
    }
    proxy.wait_for_metric("a queue", WAITING, |waiting| waiting >= 4.0).await;
    let [a, b] = nodes;
    drop(a);
    let nodes_of_clients = herd.join_all().await;
    let to_b = nodes_of_clients.iter().filter(|node| *node == "b").count();
    assert!(to_b >= 5, "{nodes_of_clients:?}");
    drop(b);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_one_node_does_not_admit_goes_to_another() {
    let nodes = [Node::start("a").await, Node::start("b").await, Node::start("c").await];
    let addresses = [0, 1, 2].map(|n: usize| nodes[n].backend.address);
    let proxy = Proxy::with(|settings| {
        // Each client has the same first choice every time.
        settings.backends(&addresses).pool("balance", "\"source-hash\"");
        settings.pool("admission", "{ rate = \"1/m\", queue = 100, deadline = \"1s\" }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let mut nodes_of_clients = BTreeSet::new();
    for t in ["one", "two", "three"] {
        nodes_of_clients.insert(handshake(&mut client, t, "").await.node);
    }
    assert_eq!(nodes_of_clients.len(), 3, "{nodes_of_clients:?}");
    client.send(message::get(&handshake_target("late"), "")).await;
    let refused = client.response().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(proxy.metric("moorline_admission_total{result=\"refused\"}").await, 1.0);
    drop((client, nodes));
    proxy.finish().await;
}

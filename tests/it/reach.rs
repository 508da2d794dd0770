//! Sessions and tunnels of backends that are hung, slow, unreachable or dead.

mod idle_connections;

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{
    Backend, Blackhole, Message, Node, Proxy, Raw, eventually, message,
    node::{handshake, poll, poll_target},
    pair::Pair,
    websocket,
};

/// A health check that detects a hung node at once.
const HTTP_PROBE: &str =
    "{ probe = \"http\", interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 1 }";

const RETRIES: &str = "moorline_retries_total";

/// `moorline_backend_up` of one node.
fn up(node: &Node) -> String {
    format!("moorline_backend_up{{pool=\"app\",backend=\"{}\"}}", node.backend.address)
}

fn assert_code_1(reply: &Message) {
    assert_eq!(reply.status(), 400, "{}", reply.text());
    assert!(reply.text().contains("\"code\":1"), "{}", reply.text());
    assert!(reply.header("access-control-allow-origin").is_some(), "a browser cannot read it");
}

fn post(sid: &str, t: &str) -> Vec<u8> {
    message::post(&poll_target(sid, t), "Origin: http://app.test\r\n", "42[\"emit\"]")
}

#[tokio::test]
async fn known_sessions_wait_for_a_hung_node_that_is_down() {
    let pair = Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE);
    })
    .await;
    let (polls, upgrades) = (pair.session_on("a").await, pair.session_on("a").await);
    let other = pair.session_on("b").await;
    pair.a.hang();
    pair.proxy.wait_for_metric("the hung node is down", &up(&pair.a), |up| up == 0.0).await;
    // A poll, a POST and an upgrade, each on a new connection.
    let mut waiting = [pair.client().await, pair.client().await, pair.client().await];
    let upgrade = format!("/socket.io/?EIO=4&transport=websocket&sid={}", upgrades.sid);
    waiting[0].send(message::get(&poll_target(&polls.sid, "poll"), "")).await;
    waiting[1].send(post(&polls.sid, "post")).await;
    waiting[2].send(websocket::request(&upgrade, "")).await;
    let arrived =
        || pair.a.request_count(&polls.sid) == 2 && pair.a.request_count(&upgrades.sid) == 1;
    eventually("all of them are at the hung node", arrived).await;
    // The other node is not affected, and gets the new sessions.
    let mut client = pair.client().await;
    assert_eq!(poll(&mut client, &other.sid, "other", "").await.status(), 200);
    for session in pair.spread("new", "").await {
        assert_eq!(session.node, "b");
    }
    pair.a.wake();
    for (client, status) in waiting.iter_mut().zip([200, 200, 101]) {
        let reply = client.response().await;
        assert_eq!(reply.status(), status, "{}", reply.text());
    }
    assert_eq!(
        (pair.a.request_count(&polls.sid), pair.a.request_count(&upgrades.sid)),
        (2, 1),
        "sent once each"
    );
    drop((client, waiting));
    pair.finish().await;
}

#[tokio::test]
async fn a_known_session_is_served_by_a_node_with_failing_health_checks() {
    // The health endpoint returns 503, but the sessions work.
    let node = Backend::answering(|request| match request.target() {
        "/healthz" => message::reply("503 Service Unavailable", "", ""),
        target if target.contains("sid=") => message::ok("6"),
        _ => message::ok("0{\"sid\":\"well\",\"pingInterval\":25000,\"pingTimeout\":20000}"),
    })
    .await;
    let health = HTTP_PROBE.replace("\"http\"", "\"http\", path = \"/healthz\"");
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[node.address]).pool("health", "{ probe = \"off\" }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    proxy
        .reload(|settings| {
            settings.pool("health", &health);
        })
        .await;
    proxy.wait_for_metric("the node is down", "moorline_backend_up", |up| up == 0.0).await;
    for n in 0..3 {
        let reply = poll(&mut client, &session.sid, &format!("poll{n}"), "").await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_of_a_dead_node_are_ended_at_once() {
    for probe in ["{ probe = \"off\" }", HTTP_PROBE] {
        let pair = Pair::with(|settings| {
            // A kept connection that the node closes as it dies would fail the request on it.
            settings.pool("health", probe).pool("reuse", "{ max_idle = 0 }");
        })
        .await;
        let (first, second) = (pair.session_on("a").await, pair.session_on("a").await);
        let Pair { a, b, proxy } = pair;
        let is_up = up(&a);
        drop(a);
        let mut client = Raw::connect(proxy.web()).await;
        // Within the client's timeout, far below the session's lifetime of 45 s.
        let origin = "Origin: http://app.test\r\n";
        assert_code_1(&poll(&mut client, &first.sid, "first", origin).await);
        if probe == HTTP_PROBE {
            proxy.wait_for_metric("the dead node is down", &is_up, |up| up == 0.0).await;
        }
        client.send(post(&second.sid, "second")).await;
        assert_code_1(&client.response().await);
        drop((client, b));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn sessions_of_an_unreachable_node_wait_until_it_is_back() {
    let pair = Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE).timeouts("connect = \"200ms\"");
    })
    .await;
    let sessions = [pair.session_on("a").await, pair.session_on("a").await];
    let Pair { a, b, proxy } = pair;
    let (is_up, node_sessions, address) = (up(&a), a.sessions(), a.backend.address);
    drop(a);
    let hole = Blackhole::at(address).await;
    proxy.wait_for_metric("the node is down", &is_up, |up| up == 0.0).await;
    let mut waiting = [Raw::connect(proxy.web()).await, Raw::connect(proxy.web()).await];
    waiting[0].send(message::get(&poll_target(&sessions[0].sid, "poll"), "")).await;
    waiting[1].send(post(&sessions[1].sid, "post")).await;
    // Longer than the connect timeout, so that each request has to connect again.
    proxy.wait_for_metric("connects are tried again", RETRIES, |retries| retries >= 4.0).await;
    let a = Node::restart(&node_sessions, hole.accept_again());
    for client in &mut waiting {
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("a")), "{}", reply.text());
    }
    assert_eq!(
        (a.request_count(&sessions[0].sid), a.request_count(&sessions[1].sid)),
        (1, 1),
        "sent once each"
    );
    drop((waiting, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_ends_when_its_node_is_silent_for_longer_than_its_lifetime() {
    let lifetime = Duration::from_millis(900);
    let a = Node::with_ping("a", (500, 400), "").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[a.backend.address]).timeouts("connect = \"200ms\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    let address = a.backend.address;
    drop(a);
    let hole = Blackhole::at(address).await;
    let started = Instant::now();
    let origin = "Origin: http://app.test\r\n";
    assert_code_1(&poll(&mut client, &session.sid, "poll", origin).await);
    assert!(started.elapsed() >= lifetime, "given up after {:?}", started.elapsed());
    drop((client, hole));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_wait_for_an_unreachable_node() {
    let a = Node::start("a").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[a.backend.address]).timeouts("connect = \"200ms\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    let (node_sessions, address) = (a.sessions(), a.backend.address);
    drop(a);
    let hole = Blackhole::at(address).await;
    let mut leaving = Raw::connect(proxy.web()).await;
    leaving.send(post(&session.sid, "leaves")).await;
    proxy.wait_for_metric("a connect is tried again", RETRIES, |retries| retries >= 1.0).await;
    leaving.finish().await;
    let left = |line: &Value| line["path"].as_str().is_some_and(|path| path.contains("t=leaves"));
    let line = proxy.wait_for_log("the line of the client that left", left).await;
    assert!(line["termination"].as_str().unwrap().starts_with("client_"), "{line}");
    let a = Node::restart(&node_sessions, hole.accept_again());
    assert_eq!(poll(&mut client, &session.sid, "stays", "").await.status(), 200);
    assert_eq!(a.request_count(&session.sid), 1, "the POST of the client that left was sent");
    drop((client, leaving, a));
    proxy.finish().await;
}

#[tokio::test]
async fn connects_that_time_out_together_count_once() {
    let live = Backend::replying("ok").await;
    let address = live.address;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[address]).timeouts("connect = \"400ms\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 3 }");
    })
    .await;
    eventually("the first probe", || live.connections() > 0).await;
    drop(live);
    let hole = Blackhole::at(address).await;
    let web = proxy.web();
    let mut together = JoinSet::new();
    (0..20).for_each(|_| drop(together.spawn(Raw::ask(web, message::get("/", "")))));
    while let Some(reply) = together.join_next().await {
        assert_eq!(reply.unwrap().status(), 504);
    }
    assert_eq!(proxy.metric("moorline_backend_up").await, 1.0, "20 at once took it down");
    for _ in 0..2 {
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 504);
    }
    proxy.wait_for_metric("the third failure", "moorline_backend_up", |up| up == 0.0).await;
    drop(hole);
    proxy.finish().await;
}

/// Opens a session on the node of this name by polling, and upgrades it.
async fn tunnel_on(pair: &Pair, node: &str) -> Raw {
    let session = pair.session_on(node).await;
    let mut client = pair.client().await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", session.sid);
    client.send(websocket::request(&target, "")).await;
    assert_eq!(client.response().await.status(), 101);
    client
}

/// Two nodes, `on_down` set to this value, and a health check that a hung node fails.
async fn pair_with_on_down(on_down: &str) -> Pair {
    Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE).pool("on_down", on_down);
    })
    .await
}

#[tokio::test]
async fn tunnels_of_a_node_that_is_down_are_closed_with_on_down_close() {
    let pair = pair_with_on_down("{ close = \"400ms\" }").await;
    let session = pair.session_on("a").await;
    let (mut hung, mut other) = (Vec::new(), tunnel_on(&pair, "b").await);
    for _ in 0..4 {
        hung.push(tunnel_on(&pair, "a").await);
    }
    pair.a.hang();
    let close = websocket::close("backend down");
    for client in &mut hung {
        assert_eq!(client.exact(close.len()).await, close);
        client.send(websocket::CLOSE_REPLY).await;
        client.assert_closed().await;
    }
    let down = |line: &Value| line["termination"] == "backend_down";
    pair.proxy.wait_for_log("a closed tunnel's line", down).await;
    // The other node's tunnel stays, and so does the hung node's polling session.
    other.send("still").await;
    eventually("the tunnel's bytes at the node", || pair.b.backend.saw("still")).await;
    let mut client = pair.client().await;
    client.send(message::get(&poll_target(&session.sid, "poll"), "")).await;
    eventually("the poll is at the hung node", || pair.a.request_count(&session.sid) == 1).await;
    pair.a.wake();
    assert_eq!(client.response().await.status(), 200);
    drop((client, hung, other));
    pair.finish().await;
}

#[tokio::test]
async fn closing_the_tunnels_of_a_node_stops_when_the_node_is_up_again() {
    let pair = pair_with_on_down("{ close = \"20s\" }").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(tunnel_on(&pair, "a").await);
    }
    pair.a.hang();
    let down = |line: &str| line.contains("closing its tunnels");
    pair.proxy.wait_for_stderr("closes begin", down).await;
    pair.proxy.wait_for_metric("the node is down", &up(&pair.a), |up| up == 0.0).await;
    pair.a.wake();
    pair.proxy.wait_for_metric("the node is up", &up(&pair.a), |up| up == 1.0).await;
    // Most of the tunnels are not closed yet, and still work.
    for (n, client) in clients.iter_mut().enumerate() {
        client.try_send(format!("still-{n:02}")).await;
    }
    let used = |n: &usize| pair.a.backend.saw(format!("still-{n:02}"));
    eventually("half of the tunnels are still used", || (0..40).filter(used).count() > 20).await;
    drop(clients);
    pair.finish().await;
}

#[tokio::test]
async fn tunnels_of_a_node_that_is_down_are_kept_by_default() {
    let pair = pair_with_on_down("\"keep\"").await;
    let mut client = tunnel_on(&pair, "a").await;
    pair.a.hang();
    pair.proxy.wait_for_metric("the node is down", &up(&pair.a), |up| up == 0.0).await;
    client.send("during").await;
    pair.a.wake();
    pair.proxy.wait_for_metric("the node is up", &up(&pair.a), |up| up == 1.0).await;
    client.send("after").await;
    eventually("the tunnel's bytes at the node", || pair.a.backend.saw("duringafter")).await;
    drop(client);
    pair.finish().await;
}

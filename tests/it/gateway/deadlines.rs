//! Time limits of routes.

use crate::support::{
    Backend, Node, Peer, Proxy, Raw, message,
    node::{handshake, poll_target},
    proxy::Setup,
    websocket,
};

/// A proxy with a pool and these routes, whose limits are `limits` of the pool and `own` of the route `/own`.
async fn start(backend: &Backend, limits: &str, own: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings
            .backends(&[backend.address])
            .timeouts(limits)
            .pool("long_polls", "[\"/own/held\"]");
        let health = "{ probe = \"tcp\", interval = \"1h\", rise = 1, fall = 1 }";
        settings.pool("health", health).pool("outlier", "{ consecutive = 1 }");
        settings.table(&format!(
            "[[routes]]\npath = \"/own\"\npool = \"app\"\ntimeouts = {{ {own} }}\n"
        ));
    });
    setup.start().await
}

async fn peer_with_request(backend: &Backend, target: &str) -> Peer {
    let peer = backend.peer_for(target).await;
    peer.request().await.unwrap();
    peer
}

/// Waits until the limits of the route have passed for requests that start now.
async fn wait_past_limits(proxy: &Proxy, backend: &Backend) {
    let target = format!("/own/body/{}", backend.connections());
    assert_eq!(Raw::ask(proxy.web(), message::get("/own/plain", "")).await.status(), 504);
    wait_for_cut_body(proxy, backend, &target).await;
}

/// Waits until a response ends within its body.
async fn wait_for_cut_body(proxy: &Proxy, backend: &Backend, target: &str) {
    let mut body = Raw::connect(proxy.web()).await;
    body.send(message::get(target, "")).await;
    let peer = peer_with_request(backend, target).await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    body.head().await;
    body.rest().await;
}

#[tokio::test]
async fn a_route_has_a_shorter_limit_than_its_pool() {
    let backend = Backend::manual().await;
    let proxy = start(&backend, "", "response_header = \"200ms\", body_idle = \"200ms\"").await;
    let mut other = Raw::connect(proxy.web()).await;
    other.send(message::get("/other", "")).await;
    let peer = peer_with_request(&backend, "/other").await;
    wait_past_limits(&proxy, &backend).await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla").await;
    assert_eq!(other.head().await.status(), 200);
    wait_past_limits(&proxy, &backend).await;
    peer.send("te").await;
    assert_eq!(other.exact(4).await, b"late");
    // The backend is not slow for its pool.
    let log = proxy.stderr_text();
    assert!(!log.contains("failed under traffic") && !log.contains("ejected"), "{log}");
    drop((other, backend, peer));
    proxy.finish().await;
}

#[tokio::test]
async fn a_route_has_a_longer_limit_than_its_pool() {
    let backend = Backend::manual().await;
    let short = "response_header = \"200ms\", body_idle = \"200ms\"";
    let proxy = start(&backend, short, "response_header = \"1m\", body_idle = \"1m\"").await;
    let mut own = Raw::connect(proxy.web()).await;
    own.send(message::get("/own/slow", "")).await;
    let peer = peer_with_request(&backend, "/own/slow").await;
    wait_for_cut_body(&proxy, &backend, "/other/1").await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla").await;
    assert_eq!(own.head().await.status(), 200);
    wait_for_cut_body(&proxy, &backend, "/other/2").await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/other", "")).await.status(), 504);
    peer.send("te").await;
    assert_eq!(own.exact(4).await, b"late");
    assert!(proxy.stderr_text().contains("failed under traffic"));
    drop((own, backend, peer));
    proxy.finish().await;
}

#[tokio::test]
async fn held_requests_and_tunnels_have_no_limit_of_plain_requests() {
    let backend = Backend::manual().await;
    let proxy = start(&backend, "", "response_header = \"200ms\", body_idle = \"200ms\"").await;
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request("/own/socket", "")).await;
    let socket = backend.peer_for("/own/socket").await;
    socket.send(websocket::switching(&socket.request().await.unwrap())).await;
    assert_eq!(tunnel.head().await.status(), 101);
    let mut events = Raw::connect(proxy.web()).await;
    events.send(message::get("/own/events", "")).await;
    let source = peer_with_request(&backend, "/own/events").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5\r\n\r\n";
    source.send(head).await;
    assert_eq!(events.head().await.status(), 200);
    let mut held = Raw::connect(proxy.web()).await;
    held.send(message::get("/own/held", "")).await;
    let holder = peer_with_request(&backend, "/own/held").await;
    wait_past_limits(&proxy, &backend).await;
    socket.send(b"\x81\x02ok").await;
    assert_eq!(tunnel.exact(4).await, b"\x81\x02ok");
    source.send("event").await;
    assert_eq!(events.exact(5).await, b"event");
    holder.send(message::ok("late")).await;
    assert_eq!(held.response().await.text(), "late");
    drop((tunnel, events, held, backend, socket, source, holder));
    proxy.finish().await;
}

#[tokio::test]
async fn polls_of_engine_io_follow_their_session() {
    let node = Node::start("node").await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[node.backend.address]);
        settings.table("[[routes]]\npool = \"app\"\ntimeouts = { response_header = \"200ms\" }\n");
    });
    let proxy = setup.start().await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t", "").await;
    node.hang();
    client.send(message::get(&poll_target(&session.sid, "held"), "")).await;
    node.backend.peer_for(&poll_target(&session.sid, "held")).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/plain", "")).await.status(), 504);
    node.wake();
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("node")));
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_route_limits_silent_streams_and_tunnels() {
    let backend = Backend::manual().await;
    let proxy = start(&backend, "", "stream_idle = \"200ms\", tunnel_idle = \"200ms\"").await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/own/held", "")).await.status(), 504);
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request("/own/socket", "")).await;
    let socket = backend.peer_for("/own/socket").await;
    socket.send(websocket::switching(&socket.request().await.unwrap())).await;
    assert_eq!(tunnel.head().await.status(), 101);
    let line = proxy.wait_for_log("the tunnel", |line| line["path"] == "/own/socket").await;
    assert_eq!(line["termination"], "idle");
    drop((tunnel, backend, socket));
    proxy.finish().await;
}

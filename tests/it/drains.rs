//! Drains of backends and shutdown of the process, as clients see them.

use std::time::{Duration, Instant};

use crate::support::{
    Backend, End, Node, Proxy, Raw, eventually,
    node::{handshake, poll},
    websocket::{self, tunnel},
    within,
};

/// Payload length of a frame that takes a while to send.
const LARGE: usize = 200_000;

/// Starts a proxy with one backend and this `drain` setting.
async fn proxy_with_drain(backend: &Backend, drain: &str) -> Proxy {
    Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("drain", drain);
    })
    .await
}

#[tokio::test]
async fn tunnels_of_a_removed_backend_are_closed_between_frames_before_the_deadline() {
    let (backend, other) = (Backend::manual().await, Backend::replying("other").await);
    let mut proxy = proxy_with_drain(&backend, "{ within = \"3s\", spread = \"1500ms\" }").await;
    let (mut idle, idle_peer) = tunnel(&proxy, &backend).await;
    let (mut mute, mute_peer) = tunnel(&proxy, &backend).await;
    let (mut busy, busy_peer) = tunnel(&proxy, &backend).await;
    let sending = tokio::spawn({
        let peer = busy_peer.clone();
        async move {
            let frame = websocket::large_frame(LARGE);
            while !peer.is_ended() {
                for piece in frame.chunks(10_000) {
                    peer.send(piece).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
    let remaining = [other.address];
    proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    // No tunnel is closed yet.
    idle.send(b"\x81\x82\x00\x00\x00\x00up").await;
    idle_peer.wait_for_rest(b"\x81\x82\x00\x00\x00\x00up").await;
    let close = websocket::close("draining");
    let conversation = async {
        assert_eq!(idle.exact(close.len()).await, close);
        idle.send(websocket::CLOSE_REPLY).await;
        assert_eq!(idle_peer.ended().await, End::Fin);
        assert!(idle_peer.rest().ends_with(websocket::CLOSE_REPLY), "the client's own Close");
        idle_peer.close();
        assert_eq!(idle.assert_closed().await, End::Fin);
    };
    let interrupted = async {
        let frame = websocket::large_frame(LARGE);
        loop {
            let start = busy.exact(close.len()).await;
            if start == close {
                break;
            }
            let rest = busy.exact(frame.len() - start.len()).await;
            assert!([start, rest].concat() == frame, "a frame was broken");
        }
        busy.send(websocket::CLOSE_REPLY).await;
        assert_eq!(busy.assert_closed().await, End::Fin);
    };
    // A tunnel whose client does not answer the Close is cut at the deadline.
    let cut = async {
        assert_eq!(mute.exact(close.len()).await, close);
        mute.assert_closed().await;
        mute_peer.ended().await;
    };
    tokio::join!(conversation, interrupted, cut);
    sending.await.unwrap();
    let drained =
        || proxy.log_lines().iter().filter(|line| line["termination"] == "drained").count() == 3;
    eventually("three lines", drained).await;
    drop((idle, mute, busy, mute_peer, busy_peer, backend, other));
    proxy.finish().await;
}

/// Answers a Close and returns when it arrived.
async fn closed_at(mut client: Raw) -> Instant {
    let close = websocket::close("draining");
    assert_eq!(client.exact(close.len()).await, close);
    let at = Instant::now();
    client.send(websocket::CLOSE_REPLY).await;
    client.assert_closed().await;
    at
}

/// Waits for the Close of each client and asserts that they were spread over this time.
async fn assert_staggered(clients: Vec<Raw>, spread: Duration) {
    let count = clients.len();
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(closed_at(client))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.push(within("a close", task).await.unwrap());
    }
    times.sort();
    assert!(times[count - 1] - times[0] >= spread / 3, "all at once");
    let largest = times
        .iter()
        .map(|&from| times.iter().filter(|&&at| at >= from && at < from + spread / 10).count());
    let largest = largest.max().unwrap();
    assert!(largest < count / 2, "{largest} of {count} at once");
}

async fn open(proxy: &Proxy, count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request("/chat", "")).await;
        assert_eq!(client.response().await.status(), 101);
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn fault_093_staggered_drain() {
    let backend = Backend::start(websocket::silent()).await;
    let other = Backend::replying("other").await;
    let mut proxy = proxy_with_drain(&backend, "{ within = \"4s\", spread = \"3s\" }").await;
    let clients = open(&proxy, 60).await;
    let remaining = [other.address];
    proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    assert_staggered(clients, Duration::from_secs(3)).await;
    drop((backend, other));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_093_staggered_stop() {
    let backend = Backend::start(websocket::silent()).await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.top("drain", "{ within = \"4s\", spread = \"3s\" }");
    })
    .await;
    let clients = open(&proxy, 60).await;
    proxy.terminate();
    assert_staggered(clients, Duration::from_secs(3)).await;
    assert_eq!(proxy.exited().await.code(), Some(0), "{}", proxy.stderr_text());
    let lines = proxy.log_lines();
    assert_eq!(lines.iter().filter(|line| line["termination"] == "drained").count(), 60);
    assert!(!proxy.stderr_text().contains("cutting"), "{}", proxy.stderr_text());
}

#[tokio::test]
async fn fault_096_drained_backend_keeps_polling_sessions_until_they_are_evicted() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let (first, second) = (a.backend.address, b.backend.address);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[first, second]).pool("balance", "\"round-robin\"");
        settings.pool("drain", "{ within = \"3s\", spread = \"2s\" }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let mut sessions = Vec::new();
    while sessions.len() < 5 {
        let session = handshake(&mut client, "seek", "").await;
        if session.node == "b" {
            sessions.push(session.sid);
        }
    }
    proxy
        .reload(|settings| {
            settings.backends(&[first]);
        })
        .await;
    for sid in &sessions {
        let reply = poll(&mut client, sid, "kept", "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
    }
    // Each session polls until it is evicted. No session is moved to or looked up on another backend.
    for sid in &sessions {
        let deadline = Instant::now() + crate::support::TIMEOUT;
        let last = loop {
            let reply = poll(&mut client, sid, "on", "Origin: http://app.test\r\n").await;
            if reply.status() != 200 {
                break reply;
            }
            assert_eq!(reply.header("x-node"), Some("b"));
            assert!(Instant::now() < deadline, "the session is never evicted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(last.status(), 400);
        assert!(last.text().contains("\"code\":1"), "{}", last.text());
        assert!(last.header("access-control-allow-origin").is_some());
    }
    assert!(
        sessions.iter().all(|sid| a.request_count(sid) == 0),
        "a session was looked up on another backend"
    );
    assert_eq!(handshake(&mut client, "again", "").await.node, "a");
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn a_tunnel_is_closed_at_its_maximum_age() {
    let backend = Backend::start(websocket::silent()).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("max_connection_age", "\"1s\"");
    })
    .await;
    let started = Instant::now();
    let mut client = open(&proxy, 1).await.remove(0);
    let close = websocket::close("connection aged");
    assert_eq!(client.exact(close.len()).await, close);
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    client.send(websocket::CLOSE_REPLY).await;
    assert_eq!(client.assert_closed().await, End::Fin);
    proxy.wait_for_log("the tunnel's line", |line| line["termination"] == "aged").await;
    drop((client, backend));
    proxy.finish().await;
}

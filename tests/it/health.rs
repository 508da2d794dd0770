//! Health probes of servers that work and of servers that only seem to work.

use std::time::Duration;

use crate::support::{
    Backend, Message, Peer, Proxy, Raw, backend, eventually, message, proxy::Setup, websocket,
};

/// Starts a proxy with this probe and a timeout of 500 ms.
async fn probing(node: &Backend, probe: &str) -> Proxy {
    let health = format!(
        "{{ probe = {probe}, interval = \"500ms\", timeout = \"500ms\", rise = 1, fall = 1 }}"
    );
    Setup::new()
        .with(|settings| {
            settings.backends(&[node.address]).pool("health", &health);
        })
        .start()
        .await
}

/// Waits for the log line that the backend is down and returns it.
async fn down_line(proxy: &Proxy) -> String {
    proxy.wait_for_stderr("the backend is down", |line| line.contains("backend is down")).await
}

async fn assert_up(proxy: &Proxy, node: &Backend, probes: usize) {
    eventually("some probes", || node.connections() >= probes).await;
    let lines = proxy.stderr();
    let down: Vec<_> = lines.iter().filter(|line| line.contains("backend is down")).collect();
    assert!(down.is_empty(), "{down:?}");
}

#[tokio::test]
async fn fault_091_health_endpoint_that_redirects() {
    let node =
        Backend::answering(|_| message::reply("302 Found", "Location: /login\r\n", "")).await;
    let proxy = probing(&node, "\"http\", path = \"/healthz\"").await;
    let line = down_line(&proxy).await;
    assert!(line.contains("expected 2xx, got 302"), "{line}");
    assert!(node.requests().iter().all(|request| request.target() == "/healthz"), "followed");
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 503);
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_091_health_endpoint_that_is_huge() {
    let node = Backend::start(backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            while !peer.is_ended() {
                peer.send(websocket::pattern(0, 65536)).await;
            }
        }
    }))
    .await;
    let proxy = probing(&node, "\"http\"").await;
    let line = down_line(&proxy).await;
    assert!(line.contains("body") || line.contains("no answer within"), "{line}");
    node.ended(0).await;
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_091_health_endpoint_that_dribbles() {
    for head in ["HTTP/1.1 200 OK\r\nX-Long: ", "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"] {
        let node = Backend::start(backend::script(move |peer| async move {
            if peer.request().await.is_some() {
                peer.send(head).await;
                dribble(&peer).await;
            }
        }))
        .await;
        let proxy = probing(&node, "\"http\"").await;
        let line = down_line(&proxy).await;
        assert!(line.contains("no answer within"), "{line}");
        node.ended(0).await;
        drop(node);
        proxy.finish().await;
    }
}

async fn dribble(peer: &Peer) {
    while !peer.is_ended() {
        peer.send("a").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server's Close frame with status 1000.
const CLOSE: &[u8] = &[0x88, 2, 0x03, 0xe8];

/// Parses short frames of a client into opcodes and payloads.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, a, b, c, d, rest @ ..] = bytes {
        assert!(second & 0x80 != 0, "a client masks");
        let (payload, after) = rest.split_at(usize::from(second & 0x7f));
        let mask = [a, b, c, d];
        let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ **mask);
        frames.push((first & 0x0f, unmasked.collect()));
        bytes = after;
    }
    frames
}

#[tokio::test]
async fn a_websocket_probe_does_a_handshake_and_closes() {
    let node = Backend::start(backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        assert_eq!(request.target(), "/cable");
        peer.send(websocket::switching(&request)).await;
        // Some servers send a greeting first.
        peer.send(b"\x81\x05hello").await;
        if peer.skip(8).await {
            peer.send(CLOSE).await;
        }
    }))
    .await;
    let proxy = probing(&node, "\"websocket\", path = \"/cable\"").await;
    assert_up(&proxy, &node, 3).await;
    let bytes = node.bytes(0);
    let (head, taken) = Message::head(&bytes).unwrap();
    assert_eq!(head.header("sec-websocket-version"), Some("13"));
    assert_eq!(frames(&bytes[taken..]), [(8, vec![0x03, 0xe8])]);
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn a_websocket_probe_detects_invalid_handshakes() {
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (answer, why) in
        [(wrong, "Sec-WebSocket-Accept"), (plain, "expected 101 to a WebSocket handshake, got 200")]
    {
        let node = Backend::start(backend::script(move |peer| async move {
            if peer.head().await.is_some() {
                peer.send(answer).await;
                peer.ended().await;
            }
        }))
        .await;
        let proxy = probing(&node, "\"websocket\"").await;
        let line = down_line(&proxy).await;
        assert!(line.contains(why), "{line}");
        drop(node);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_websocket_probe_limits_the_bytes_that_it_reads() {
    let node = Backend::start(backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        peer.send(websocket::switching(&request)).await;
        // Endless short messages without a Close.
        while !peer.is_ended() {
            peer.send(b"\x81\x7dxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").await;
        }
    }))
    .await;
    let proxy = probing(&node, "\"websocket\"").await;
    let line = down_line(&proxy).await;
    assert!(line.contains("more than 64 KiB"), "{line}");
    drop(node);
    proxy.finish().await;
}

/// The answer of an Engine.IO node with this protocol version. `None`: the request is an upgrade.
fn engine(request: &Message, protocol: u8) -> Option<Vec<u8>> {
    if request.header("upgrade").is_some() {
        return None;
    }
    if request.method() == "POST" {
        return Some(message::ok("ok"));
    }
    if !request.target().contains(&format!("EIO={protocol}")) {
        let refusal = "{\"code\":5,\"message\":\"Unsupported protocol version\"}";
        return Some(message::reply("400 Bad Request", "", refusal));
    }
    let open = "0{\"sid\":\"a b\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000}";
    Some(message::ok(&if protocol == 3 {
        format!("{}:{open}", open.len())
    } else {
        open.to_owned()
    }))
}

#[tokio::test]
async fn an_engine_io_probe_opens_upgrades_and_closes_a_session() {
    for protocol in [4, 3] {
        let node = Backend::start(backend::script(move |peer| async move {
            loop {
                let Some(request) = peer.request().await else { return };
                let Some(answer) = engine(&request, protocol) else {
                    peer.send(websocket::switching(&request)).await;
                    break;
                };
                peer.send(answer).await;
            }
            // A masked `2probe`, then a `5`, then a Close.
            peer.skip(6 + 6).await;
            peer.send(b"\x81\x063probe").await;
            peer.skip(6 + 1).await;
            peer.send(b"\x81\x016").await;
            peer.skip(6 + 2).await;
            peer.send(CLOSE).await;
        }))
        .await;
        let proxy = probing(&node, "\"engine.io\", host = \"chat.test\"").await;
        assert_up(&proxy, &node, 4).await;
        let requests = node.requests();
        let upgrade = requests.iter().find(|request| request.header("upgrade").is_some()).unwrap();
        let target = format!("/socket.io/?EIO={protocol}&sid=a%20b&transport=websocket");
        assert_eq!(upgrade.target(), target);
        assert!(requests.iter().all(|request| request.header("host") == Some("chat.test")));
        assert!(
            requests.iter().all(|request| request.method() == "GET"),
            "no close packet is needed"
        );
        let bytes = node.bytes(1);
        let (_, taken) = Message::head(&bytes).unwrap();
        let received = frames(&bytes[taken..]);
        assert_eq!(received, [(1, b"2probe".to_vec()), (1, b"5".to_vec()), (8, vec![0x03, 0xe8])]);
        drop(node);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_engine_io_probe_detects_a_node_that_hangs_after_the_upgrade() {
    let node = Backend::start(backend::script(|peer| async move {
        while let Some(request) = peer.request().await {
            match engine(&request, 4) {
                Some(answer) => peer.send(answer).await,
                // Answers the upgrade and nothing else.
                None => {
                    peer.send(websocket::switching(&request)).await;
                    peer.ended().await;
                    return;
                }
            }
        }
    }))
    .await;
    let proxy = probing(&node, "\"engine.io\"").await;
    let line = down_line(&proxy).await;
    assert!(line.contains("no answer within"), "{line}");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_engine_io_probe_closes_its_session_if_there_is_no_upgrade() {
    let node = Backend::answering(|request| {
        if request.method() == "POST" {
            return message::ok("ok");
        }
        message::ok(
            "0{\"sid\":\"polls\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}",
        )
    })
    .await;
    let proxy = probing(&node, "\"engine.io\"").await;
    assert_up(&proxy, &node, 3).await;
    let requests = node.requests();
    let close = requests.iter().find(|request| request.method() == "POST").unwrap();
    assert_eq!(close.text(), "1");
    assert_eq!(close.target(), "/socket.io/?EIO=4&sid=polls&transport=polling");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_engine_io_probe_rejects_other_servers() {
    for (answer, why) in [
        (message::reply("404 Not Found", "", ""), "expected 200 to a handshake, got 404"),
        (message::ok("<html>"), "no Engine.IO open packet"),
        (message::reply("400 Bad Request", "", "{\"code\":5}"), "neither protocol"),
    ] {
        let node = Backend::answering(move |_| answer.clone()).await;
        let proxy = probing(&node, "\"engine.io\"").await;
        let line = down_line(&proxy).await;
        assert!(line.contains(why), "{line}");
        drop(node);
        proxy.finish().await;
    }
}

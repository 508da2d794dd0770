//! Open tunnels: ends, resets, stalls and sizes, in both directions.

use std::time::Duration;

use crate::support::{
    Backend, End, Peer, Proxy, Raw, backend, message, process,
    tls::Certificate,
    websocket::{self, tunnel},
};

/// Maximum bytes in kernel buffers between a writer and a stalled reader, over two hops.
const IN_FLIGHT: usize = 96 << 20;

/// Maximum bytes that one tunnel may add to the proxy's memory.
const MAX_GROWTH: usize = 8 << 20;

/// Longest silence that counts as backpressure.
const QUIET: Duration = Duration::from_millis(500);

/// One plain tunnel and one over TLS.
async fn tunnels(proxy: &Proxy, certificate: &Certificate, backend: &Backend) -> [(Raw, Peer); 2] {
    let plain = tunnel(proxy, backend).await;
    let secure = Raw::tls(proxy.listener("secure"), certificate).await;
    [plain, websocket::tunnel_over(secure, backend).await]
}

#[tokio::test]
async fn fault_071_fin_from_the_client() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        client.send("last words").await;
        client.finish().await;
        assert_eq!(peer.ended().await, End::Fin);
        assert_eq!(peer.rest(), b"last words");
        // The other direction continues until its own end.
        peer.send("still").await;
        assert_eq!(client.exact(5).await, b"still");
        peer.send(vec![b'x'; 1 << 20]).await;
        assert_eq!(client.exact(1 << 20).await.len(), 1 << 20);
        peer.close();
        assert_eq!(client.assert_closed().await, End::Fin);
    }
    let closed = |line: &serde_json::Value| line["termination"] == "client_closed";
    let line = proxy.wait_for_log("the tunnel's line", closed).await;
    assert_eq!((&line["status"], &line["kind"]), (&101.into(), &"tunnel".into()));
    assert_eq!(line["bytes_in"], 10);
    assert_eq!(line["bytes_out"], 5 + (1 << 20));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_071_fin_from_the_backend() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        peer.send("last words").await;
        peer.finish();
        assert_eq!(client.exact(10).await, b"last words");
        assert_eq!(client.assert_closed().await, End::Fin);
        client.send("still").await;
        peer.wait_for_rest(b"still").await;
        client.finish().await;
        assert_eq!(peer.ended().await, End::Fin);
        peer.close();
    }
    let closed = |line: &serde_json::Value| line["termination"] == "backend_closed";
    proxy.wait_for_log("the tunnel's line", closed).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_072_reset_from_the_client() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        client.send("before").await;
        peer.wait_for_rest(b"before").await;
        client.reset();
        assert_eq!(peer.ended().await, End::Reset);
        drop(peer);
    }
    let reset = |line: &serde_json::Value| line["termination"] == "client_tunnel_reset";
    proxy.wait_for_log("the tunnel's line", reset).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_072_reset_from_the_backend() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        peer.send("before").await;
        assert_eq!(client.exact(6).await, b"before");
        peer.reset();
        assert_eq!(client.assert_closed().await, End::Reset);
    }
    let reset = |line: &serde_json::Value| line["termination"] == "backend_tunnel_reset";
    proxy.wait_for_log("the tunnel's line", reset).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_073_stalled_backend() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        peer.stall();
        peer.check_pattern();
        process::reset_peak(proxy.pid());
        let before = process::resident(proxy.pid());
        let sent = client.fill(1 << 30, QUIET).await;
        assert!(sent < IN_FLIGHT, "{sent} bytes without a reader");
        let grown = process::peak(proxy.pid()).saturating_sub(before);
        assert!(grown < MAX_GROWTH, "memory grew by {grown}");
        // The other direction is not blocked.
        peer.send("meanwhile").await;
        assert_eq!(client.exact(9).await, b"meanwhile");
        peer.resume();
        client.finish().await;
        assert_eq!(peer.ended().await, End::Fin);
        assert_eq!(peer.checked(), sent, "lost or repeated");
        peer.close();
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_073_stalled_client() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for (mut client, peer) in tunnels(&proxy, &certificate, &backend).await {
        process::reset_peak(proxy.pid());
        let before = process::resident(proxy.pid());
        let sent = peer.fill(1 << 30, QUIET).await;
        assert!(sent < IN_FLIGHT, "{sent} bytes without a reader");
        let grown = process::peak(proxy.pid()).saturating_sub(before);
        assert!(grown < MAX_GROWTH, "memory grew by {grown}");
        client.send("meanwhile").await;
        peer.wait_for_rest(b"meanwhile").await;
        peer.close();
        assert_eq!(client.check_pattern().await, (sent, End::Fin), "lost or repeated");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_074_client_gone_while_the_backend_sends() {
    let backend = Backend::start(backend::script(|peer| async move {
        let Some(upgrade) = peer.head().await else { return };
        peer.send(websocket::switching(&upgrade)).await;
        while !peer.is_ended() {
            peer.send([b'x'; 16384]).await;
        }
    }))
    .await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    for round in 0..20 {
        let mut client = match round % 2 {
            0 => Raw::connect(proxy.web()).await,
            _ => Raw::tls(proxy.listener("secure"), &certificate).await,
        };
        client.send(websocket::request("/flood", "")).await;
        client.head().await;
        client.exact(100_000).await;
        // By RST, or by a close with unread bytes, which sends RST, too.
        if round % 4 < 2 {
            client.reset();
        } else {
            drop(client);
        }
        backend.ended(round).await;
    }
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/flood", "")).await;
    assert_eq!(client.head().await.status(), 101);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_075_frame_of_a_gigabyte() {
    const GIB: usize = 1 << 30;
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let (mut client, peer) = tunnel(&proxy, &backend).await;
    // The first bytes allocate the buffers, so that the measurement does not include them.
    client.send("warm").await;
    peer.wait_for_rest(b"warm").await;
    process::reset_peak(proxy.pid());
    let before = process::resident(proxy.pid());
    let header = [&b"\x82\xff"[..], &(GIB as u64).to_be_bytes(), &[0; 4]].concat();
    client.send(&header).await;
    peer.wait_for_rest(&[b"warm", &header[..]].concat()).await;
    peer.check_pattern();
    assert_eq!(client.fill(GIB, crate::support::TIMEOUT).await, GIB);
    client.finish().await;
    assert_eq!(peer.ended().await, End::Fin);
    assert_eq!(peer.checked(), GIB);
    let grown = process::peak(proxy.pid()).saturating_sub(before);
    assert!(grown < MAX_GROWTH, "memory grew by {grown}");
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_076_keepalive_finds_dead_peers() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let (client, peer) = tunnel(&proxy, &backend).await;
    let (web, target) = (proxy.web().port(), backend.address.port());
    let ours = format!("sport = :{web}");
    let theirs = format!("dport = :{target}");
    for (side, filter) in [("client", ours), ("backend", theirs)] {
        let lines = process::sockets(&format!("( {filter} )")).await;
        assert_eq!(lines.len(), 1, "{side}: {lines:?}");
        let timer = lines[0].split("timer:(keepalive,").nth(1);
        let timer = timer.unwrap_or_else(|| panic!("no keepalive towards the {side}: {lines:?}"));
        // `59sec` or `1min`: time until the first keepalive probe.
        let left = timer.split(',').next().unwrap();
        let seconds: Option<u32> = left.strip_suffix("sec").map(|s| s.parse().unwrap());
        assert!(left == "1min" || seconds.is_some_and(|s| s <= 60), "{side}: {left}");
    }
    drop((client, peer, backend));
    proxy.finish().await;
}

/// Detecting a dead peer takes a minute and a half and needs a network namespace.
#[tokio::test]
#[ignore = "takes two minutes and root"]
async fn fault_076_tunnel_to_a_dead_peer_is_closed() {
    let namespace = process::Namespace::new();
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.listener("bind", &format!("\"{}:0\"", namespace.outside()));
    })
    .await;
    let request = String::from_utf8(websocket::request("/chat", "")).unwrap();
    let mut client = namespace.connect(proxy.web(), &request);
    let peer = backend.peer(0).await;
    let upgrade = peer.head().await.unwrap();
    peer.send(websocket::switching(&upgrade)).await;
    proxy.wait_for_metric("an open tunnel", crate::support::proxy::TUNNELS, |n| n == 1.0).await;
    namespace.cut();
    peer.send("into the void").await;
    let gone = tokio::time::timeout(Duration::from_secs(150), peer.ended()).await;
    assert!(gone.is_ok(), "the tunnel outlives its client");
    let line = proxy.wait_for_log("the tunnel's line", |line| line["kind"] == "tunnel").await;
    assert!(line["termination"].as_str().unwrap().starts_with("client_tunnel_"), "{line}");
    assert_eq!(Raw::ask(proxy.admin(), message::get("/live", "")).await.status(), 200);
    client.kill().unwrap();
    client.wait().unwrap();
}

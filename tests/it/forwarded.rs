//! Fields that tell the backend who the client is, and who may set them.

use crate::support::{Backend, Message, Proxy, Raw, message};

const SPOOF: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n\
    X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 666\r\nX-Forwarded-Prefix: /evil\r\n\
    Forwarded: for=6.6.6.6;host=evil.test;proto=gopher\r\nX-Real-IP: 6.6.6.6\r\n\
    X-Request-Id: forged\r\n";

async fn seen_through(proxy: &Proxy, backend: &Backend, headers: &str) -> Message {
    let reply = Raw::ask(proxy.web(), message::get("/", headers)).await;
    assert_eq!(reply.status(), 200);
    backend.requests().last().unwrap().clone()
}

#[tokio::test]
async fn fault_125_spoofed_forwarding_headers() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::before(&[backend.address]).await;
    let twice = format!("{SPOOF}x-forwarded-for: 7.7.7.7\r\n");
    let seen = seen_through(&proxy, &backend, &twice).await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
    assert_eq!(seen.all("forwarded").len(), 1);
    assert!(seen.header("forwarded").unwrap().contains("for=127.0.0.1"));
    let id = seen.header("x-request-id").unwrap();
    assert!(!id.is_empty() && id != "forged");
    for claim in ["6.6.6.6", "7.7.7.7", "evil", "gopher", "666", "forged"] {
        assert!(!backend.saw(claim), "{claim} reached the backend");
    }
    let line = proxy.wait_for_log("the request", |line| line["id"] == id).await;
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1"), "{line}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_spoofed_forwarding_headers_on_an_upgrade() {
    let backend = Backend::manual().await;
    let proxy = Proxy::before(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(crate::support::websocket::request("/chat", SPOOF)).await;
    let peer = backend.peer(0).await;
    let seen = peer.head().await.unwrap();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
    assert!(!backend.saw("evil") && !backend.saw("6.6.6.6") && !backend.saw("forged"));
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_a_trusted_peer_is_believed() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("trusted_proxies", "[\"127.0.0.0/8\"]");
    })
    .await;
    let seen = seen_through(&proxy, &backend, SPOOF).await;
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("gopher"));
    assert_eq!(seen.header("x-forwarded-host"), Some("evil.test"));
    assert_eq!(seen.header("x-request-id"), Some("forged"));
    let forwarded = seen.header("forwarded").unwrap();
    assert!(forwarded.contains("6.6.6.6") && forwarded.contains("for=127.0.0.1"), "{forwarded}");
    // Underscores are no way around, whoever sends them.
    let seen = seen_through(&proxy, &backend, "X_Forwarded_For: 5.5.5.5\r\n").await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert!(!backend.saw("5.5.5.5"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_another_address_is_not_trusted() {
    let backend = Backend::replying("ok").await;
    for (trusted, expected) in
        [("127.0.0.1/32", "6.6.6.6, 127.0.0.1"), ("127.0.0.2/32", "127.0.0.1")]
    {
        assert_eq!(seen_trusting(trusted, &backend).await, expected, "trusting {trusted}");
    }
}

#[tokio::test]
async fn fault_125_a_mapped_address_is_an_ipv4_address() {
    let backend = Backend::replying("ok").await;
    for (trusted, expected) in
        [("::ffff:127.0.0.1/128", "6.6.6.6, 127.0.0.1"), ("::ffff:127.0.0.2/128", "127.0.0.1")]
    {
        assert_eq!(seen_trusting(trusted, &backend).await, expected, "trusting {trusted}");
    }
}

/// `X-Forwarded-For` as the backend gets it from a peer that claims an address of its own.
async fn seen_trusting(trusted: &str, backend: &Backend) -> String {
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.top("trusted_proxies", &format!("[\"{trusted}\"]"));
    })
    .await;
    let headers = "X-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n";
    let seen = seen_through(&proxy, backend, headers).await;
    proxy.finish().await;
    seen.all("x-forwarded-for").join(" and ")
}

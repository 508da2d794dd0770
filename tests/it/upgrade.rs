//! Invalid upgrades from either side never open a tunnel.

use crate::{
    response::assert_bad_responses,
    support::{
        Backend, Message, Proxy, Raw, message,
        websocket::{self, ACCEPT, EARLY, KEY, UPGRADE},
        within,
    },
};

#[tokio::test]
async fn fault_030_bad_upgrade_request() {
    let backend = Backend::start(websocket::echo()).await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let cases = [
        (message::get("/", &format!("{upgrade}{key}Sec-WebSocket-Version: 8\r\n")), 426),
        (message::get("/", &format!("{upgrade}{key}Sec-WebSocket-Version: 25\r\n")), 426),
        (message::get("/", &format!("{upgrade}{key}")), 426),
        (message::get("/", &format!("{upgrade}{version}")), 400),
        (message::get("/", &format!("{upgrade}{version}Sec-WebSocket-Key:\r\n")), 400),
        (message::get("/", &format!("{upgrade}{version}Sec-WebSocket-Key: short\r\n")), 400),
        (message::get("/", &format!("{upgrade}{version}{key}{key}")), 400),
        (message::post("/", UPGRADE, ""), 400),
        (format!("PUT / HTTP/1.1\r\nHost: app.test\r\n{UPGRADE}\r\n").into_bytes(), 400),
    ];
    for (request, status) in cases {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(&request).await;
        let reply = client.response().await;
        let shown = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(reply.status(), status, "{shown}");
        if status == 426 {
            assert_eq!(reply.header("sec-websocket-version"), Some("13"));
        }
        // No tunnel: frames reach no backend.
        client.try_send(EARLY).await;
        client.finish().await;
        let (rest, _) = client.rest().await;
        assert!(message::find(&rest, EARLY).is_none(), "{shown} was echoed to");
    }
    backend.assert_untouched();
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/marker", "")).await;
    assert_eq!(client.response().await.status(), 101);
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_031_backend_declines_the_upgrade() {
    let backend = Backend::answering(|request| match request.target() {
        "/plain" => message::ok("plain"),
        "/version" => message::reply("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n", "v"),
        "/forbidden" => message::reply("403 Forbidden", "", "f"),
        "/pretends" => {
            let fields = format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"
            );
            message::reply("200 OK", &fields, "p")
        }
        _ => message::ok("other"),
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (target, status, body) in [
        ("/plain", 200, "plain"),
        ("/version", 426, "v"),
        ("/forbidden", 403, "f"),
        ("/pretends", 200, "p"),
    ] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request(target, "")).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (status, body));
        // A tunnel would pass these bytes to the backend; a server reads them as an invalid request.
        client.try_send(EARLY).await;
        client.finish().await;
        let (rest, _) = client.rest().await;
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");
    }
    // The connection of a declined upgrade may serve further requests, each of them checked.
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/forbidden", "")).await;
    if client.response().await.header("connection") != Some("close") {
        client.send(message::get("/next", "X-Forwarded-For: 6.6.6.6\r\n")).await;
        assert_eq!(client.response().await.text(), "other");
        let next = backend.request("/next").await;
        assert_eq!(next.header("x-forwarded-for"), Some("127.0.0.1"));
    }
    assert_eq!(Raw::ask(proxy.web(), message::get("/marker", "")).await.text(), "other");
    assert!(!backend.saw("early") && !backend.saw("6.6.6.6"));
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_032_bytes_before_the_101() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send([&websocket::request("/chat", "")[..], EARLY].concat()).await;
    let peer = backend.peer(0).await;
    let upgrade = peer.head().await.unwrap();
    // More bytes after the request has reached the backend.
    client.send(b"later").await;
    // A complete exchange on another connection, during which no byte may have passed.
    let mut other = Raw::connect(proxy.web()).await;
    other.send(message::get("/marker", "")).await;
    let beside = backend.peer(1).await;
    beside.request().await.unwrap();
    beside.send(message::ok("ok")).await;
    assert_eq!(other.response().await.status(), 200);
    assert_eq!(peer.rest(), b"", "early bytes must wait for the 101");
    peer.send([&websocket::switching(&upgrade)[..], b"\x81\x05hello"].concat()).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.header("sec-websocket-accept")), (101, Some(ACCEPT)));
    assert_eq!(client.exact(7).await, b"\x81\x05hello", "bytes that came with the 101");
    peer.wait_for_rest(&[EARLY, b"later"].concat()).await;
    drop((client, other, peer, beside, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_032_bytes_before_a_declined_upgrade() {
    let backend = Backend::answering(|request| match request.target() {
        "/chat" => message::reply("403 Forbidden", "", "no"),
        _ => message::ok("other"),
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    for early in [EARLY, smuggled.as_bytes()] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send([&websocket::request("/chat", "")[..], early].concat()).await;
        assert_eq!(client.response().await.status(), 403);
        client.finish().await;
        client.rest().await;
    }
    assert_eq!(Raw::ask(proxy.web(), message::get("/marker", "")).await.text(), "other");
    // Bytes that look like a request may become a request, but only through all checks.
    assert!(!backend.saw("early") && !backend.saw("6.6.6.6"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_033_unsolicited_101() {
    let full = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\nsecret"
    );
    let bare = "HTTP/1.1 101 Switching Protocols\r\n\r\nsecret".to_owned();
    assert_bad_responses([
        (message::get("/", ""), full.clone()),
        (message::post("/", "", "body"), full),
        (message::get("/", ""), bare),
    ])
    .await;
}

#[tokio::test]
async fn fault_034_wrong_accept() {
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let fields = [
        upgrade.to_owned(),
        format!("{upgrade}Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        format!("{upgrade}Sec-WebSocket-Accept: {}\r\n", ACCEPT.to_lowercase()),
        format!("{upgrade}Sec-WebSocket-Accept:\r\n"),
        format!("{upgrade}{accept}{accept}"),
        format!("Connection: Upgrade\r\n{accept}"),
        format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{accept}"),
        format!("Upgrade: websocket\r\n{accept}"),
    ];
    let answer = |fields| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nsecret");
    let request = || websocket::request("/chat", "");
    assert_bad_responses(fields.map(|fields| (request(), answer(fields)))).await;
}

async fn seen_plain(headers: &str) -> Message {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let reply = Raw::ask(proxy.web(), message::get("/", headers)).await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    assert_eq!(backend.requests().len(), 1);
    let seen = backend.requests().remove(0);
    drop(backend);
    proxy.finish().await;
    seen
}

#[tokio::test]
async fn fault_035_h2c_upgrade() {
    for headers in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        "HTTP2-Settings: AAMAAABkAAQ\r\n",
    ] {
        let seen = seen_plain(headers).await;
        assert_eq!(seen.header("upgrade"), None);
        assert_eq!(seen.header("http2-settings"), None);
        let connection = seen.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert!(!connection.contains("upgrade") && !connection.contains("http2"), "{connection}");
    }
    // A backend that still switches to h2c sends an unexpected 101.
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n";
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nsecret";
    assert_bad_responses([(message::get("/", h2c), answer.to_owned())]).await;
}

#[tokio::test]
async fn fault_036_upgrade_with_a_body() {
    let backend = Backend::start(websocket::echo()).await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let fixed = format!("{UPGRADE}Content-Length: 5\r\n");
    let chunked = format!("{UPGRADE}Transfer-Encoding: chunked\r\n");
    for (headers, body) in [(fixed, "early"), (chunked, "5\r\nearly\r\n0\r\n\r\n")] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send([&message::get("/", &headers)[..], body.as_bytes()].concat()).await;
        assert_eq!(client.response().await.status(), 400);
        client.assert_closed().await;
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_036_unknown_upgrade_token() {
    for headers in [
        "Connection: Upgrade\r\nUpgrade: foo\r\n",
        "Connection: Upgrade\r\nUpgrade: foo/2, bar\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.0\r\n",
        // Without `Connection: Upgrade`, the field is ignored.
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        let seen = seen_plain(headers).await;
        assert_eq!(seen.header("upgrade"), None, "{headers}");
        let connection = seen.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert!(!connection.contains("upgrade"), "{connection}");
    }
}

#[tokio::test]
async fn fault_037_upgrade_never_answered() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"300ms\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/chat", "")).await;
    let reply = within("the deadline of 300 ms", client.response()).await;
    assert_eq!(reply.status(), 504);
    backend.ended(0).await;
    assert_eq!(backend.connections(), 1, "an upgrade that may have begun is not retried");
    // A response in time succeeds: the deadline was the reason.
    drop(client);
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/chat", "")).await;
    let peer = backend.peer(1).await;
    let upgrade = peer.head().await.unwrap();
    peer.send(websocket::switching(&upgrade)).await;
    assert_eq!(client.response().await.status(), 101);
    // The deadline does not apply to the open tunnel: the tunnel outlives another upgrade that times out.
    let mut other = Raw::connect(proxy.web()).await;
    other.send(websocket::request("/chat", "")).await;
    assert_eq!(other.response().await.status(), 504);
    client.send("still").await;
    peer.wait_for_rest(b"still").await;
    drop(other);
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn the_reply_to_an_http_1_0_upgrade_names_the_nginx_setting() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let request = String::from_utf8(websocket::request("/", "")).unwrap();
    let reply = Raw::ask(proxy.web(), request.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert_eq!(reply.status(), 400);
    assert!(reply.text().contains("`proxy_http_version 1.1`"), "{}", reply.text());
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

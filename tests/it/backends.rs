//! Backends that accept connections and then hang, close within a response or send garbage.

use std::time::Duration;

use crate::{
    response::assert_bad_responses,
    support::{
        Backend, End, Message, Node, Proxy, Raw, backend, message,
        node::{handshake, poll_target},
    },
};

#[tokio::test]
async fn fault_081_accept_then_hang() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"300ms\"");
    })
    .await;
    for (index, request) in
        [message::get("/", ""), message::post("/", "", "body")].into_iter().enumerate()
    {
        assert_eq!(Raw::ask(proxy.web(), request).await.status(), 504);
        backend.ended(index).await;
    }
    assert_eq!(backend.connections(), 2, "a request that was sent is not retried");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_081_header_that_dribbles() {
    let backend = Backend::start(backend::script(|peer| async move {
        if peer.head().await.is_none() {
            return;
        }
        peer.send("HTTP/1.1 200 OK\r\nX-Long: ").await;
        while !peer.is_ended() {
            peer.send("a").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }))
    .await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"300ms\"");
    })
    .await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 504);
    backend.ended(0).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_081_hanging_counts_against_health() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"200ms\"");
        // No probe runs in this test: only failed requests count.
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", rise = 2, fall = 2 }");
    })
    .await;
    for _ in 0..2 {
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 504);
    }
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 503);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_082_reset_within_the_header() {
    let broken = Backend::start(backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-").await;
            peer.reset();
        }
    }))
    .await;
    let live = Backend::replying("live").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[broken.address, live.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    // Round robin: each backend gets at least two of four requests first.
    for _ in 0..4 {
        let reply = Raw::ask(proxy.web(), message::get("/", "")).await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "live"));
    }
    assert!(broken.requests().len() >= 2, "{}", broken.requests().len());
    let before = broken.requests().len();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(Raw::ask(proxy.web(), message::post("/", "", "body")).await.status());
    }
    let failed = statuses.iter().filter(|status| **status == 502).count();
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((failed + served, failed >= 2), (4, true), "{statuses:?}");
    assert_eq!(failed, broken.requests().len() - before);
    let posts = live.requests().iter().filter(|request| request.method() == "POST").count();
    assert_eq!(posts, served, "a request that is not idempotent is not sent twice");
    drop((broken, live));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_082_poll_is_never_sent_twice() {
    let open =
        "0{\"sid\":\"the-session\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}";
    let broken = Backend::start(backend::script(move |peer| async move {
        while let Some(request) = peer.request().await {
            if !request.target().contains("sid=") {
                peer.send(message::ok(open)).await;
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-").await;
            return peer.reset();
        }
    }))
    .await;
    let other = Node::start("other").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[broken.address, other.backend.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    while handshake(&mut client, "open", "").await.sid != "the-session" {}
    for method in ["GET", "POST"] {
        let before = broken.requests().len();
        let target = poll_target("the-session", method);
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!(reply.status(), 502, "{}", reply.text());
        assert_eq!(broken.requests().len(), before + 1, "{method}");
        assert_eq!(other.request_count("the-session"), 0, "{method}");
    }
    drop((client, broken, other));
    proxy.finish().await;
}

const FIXED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
const TORN: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello";
const ENDLESS: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";

/// Cuts a response within its body. Returns the head and body that a client of this HTTP version receives,
/// and how its connection ends.
async fn relayed_before_cut(version: &str, answer: &str, resets: bool) -> (Message, Vec<u8>, End) {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(format!("GET / HTTP/{version}\r\nHost: app.test\r\n\r\n")).await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    peer.send(answer).await;
    let head = client.head().await;
    assert_eq!(head.status(), 200);
    let mut body = Vec::new();
    while message::find(&body, b"hello").is_none() {
        body.extend(client.exact(1).await);
    }
    if resets {
        peer.reset();
    } else {
        peer.close();
    }
    let (rest, end) = client.rest().await;
    body.extend(rest);
    assert_eq!(backend.connections(), 1, "no retry after bytes were relayed");
    drop((client, backend));
    proxy.finish().await;
    (head, body, end)
}

#[tokio::test]
async fn fault_083_reset_within_the_body() {
    for (answer, resets) in [
        (FIXED, true),
        (FIXED, false),
        (CHUNKED, true),
        (CHUNKED, false),
        (TORN, true),
        (TORN, false),
        (ENDLESS, true),
    ] {
        let (head, body, _) = relayed_before_cut("1.1", answer, resets).await;
        // With each framing, the client must notice that the body is incomplete.
        match head.framing() {
            message::Framing::Length(length) => assert!(body.len() < length),
            message::Framing::Chunked => assert!(!body.ends_with(b"0\r\n\r\n"), "clean end"),
            message::Framing::Close => panic!("no framing for HTTP/1.1: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn fault_083_reset_within_the_body_for_an_old_client() {
    for (answer, resets) in
        [(FIXED, true), (CHUNKED, true), (CHUNKED, false), (TORN, false), (ENDLESS, true)]
    {
        let (head, body, end) = relayed_before_cut("1.0", answer, resets).await;
        match head.framing() {
            message::Framing::Length(length) => assert!(body.len() < length),
            message::Framing::Chunked => panic!("HTTP/1.0 has no chunked coding: {answer:?}"),
            // The body ends with the connection: only a reset shows that it is incomplete.
            message::Framing::Close => assert_eq!(end, End::Reset, "clean end: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn fault_084_garbage() {
    let answers = [
        "\0\u{1}\u{2}garbage\r\n\r\nsecret",
        "220 mail.test ESMTP secret\r\n\r\n",
        "SSH-2.0-secret\r\n\r\n",
        "HTTP/9.9 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 20 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 099 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "GET / HTTP/1.1\r\nHost: secret\r\n\r\n",
        "secret\r\n\r\n\r\n\r\n",
        "<html>secret</html>",
        "ICY 200 OK\r\n\r\nsecret",
        "HTTP/2.0 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/0.9 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 2000 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1  200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "http/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
    ];
    let requests = [message::get("/", ""), message::post("/", "", "body")];
    let cases = answers.map(|answer| requests.clone().map(|request| (request, answer.to_owned())));
    assert_bad_responses(cases.into_iter().flatten()).await;
}

#[tokio::test]
async fn fault_084_oversize_header() {
    let many: String = (0..5000).map(|n| format!("X-{n}: secret\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "secret".repeat(200_000));
    let answer = |fields| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 6\r\n\r\nsecret");
    assert_bad_responses([many, long].map(|fields| (message::get("/", ""), answer(fields)))).await;
}

/// Answers the first request of a connection; resets the connection at the second request.
async fn resets_at_second_request() -> Backend {
    Backend::start(backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send(message::ok("first")).await;
            peer.request().await;
            peer.reset();
        }
    }))
    .await
}

#[tokio::test]
async fn fault_085_stale_pooled_connection() {
    let backend = resets_at_second_request().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/one", "")).await;
    assert_eq!(client.response().await.text(), "first");
    // An idempotent request is retried on a new connection.
    client.send(message::get("/two", "")).await;
    assert_eq!(client.response().await.text(), "first");
    let targets: Vec<_> = backend.requests().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(targets, ["/one", "/two", "/two"]);
    // The backend may have acted on this request: no retry.
    client.send(message::post("/three", "", "body")).await;
    assert_eq!(client.response().await.status(), 502);
    assert_eq!(backend.requests().iter().filter(|r| r.target() == "/three").count(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_085_connection_closed_while_idle() {
    let backend = Backend::answering(|_| message::ok("ok")).await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    for round in 0..10 {
        client.send(message::post("/", "", "body")).await;
        assert_eq!(client.response().await.text(), "ok");
        // The FIN arrives before the next request is sent: no request may be lost.
        backend.peer(round).await.finish();
        backend.ended(round).await;
    }
    assert_eq!(backend.requests().len(), 10);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_085_every_connection_is_stale() {
    let backend = Backend::start(backend::script(|peer| async move {
        peer.request().await;
        peer.reset();
    }))
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "")).await;
    assert_eq!(reply.status(), 502);
    assert!(backend.connections() <= 2, "{} tries", backend.connections());
    drop(backend);
    proxy.finish().await;
}

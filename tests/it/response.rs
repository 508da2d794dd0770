//! Invalid responses: 502 if nothing has been relayed yet, and never two messages in one.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    Backend, Proxy, Raw, backend, message,
    websocket::{self, EARLY},
    within,
};

/// For each request and its answer: the client gets 502 and none of the backend's bytes, and the backend's connection
/// is discarded. Afterwards, a request goes through on a new connection.
pub(crate) async fn assert_bad_responses(cases: impl IntoIterator<Item = (Vec<u8>, String)>) {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (request, answer) in cases {
        let index = backend.connections();
        let mut client = Raw::connect(proxy.web()).await;
        client.send(&request).await;
        let peer = backend.peer(index).await;
        peer.head().await.unwrap();
        peer.send(&answer).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 502, "{answer:?}");
        assert!(!reply.text().contains("secret"), "{}", reply.text());
        backend.ended(index).await;
        client.try_send(EARLY).await;
        client.finish().await;
        let (rest, _) = client.rest().await;
        assert!(message::find(&rest, b"secret").is_none(), "{}", String::from_utf8_lossy(&rest));
        assert_eq!(backend.connections(), index + 1, "{answer:?}: the request was repeated");
    }
    let index = backend.connections();
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/next", "")).await;
    let peer = backend.peer(index).await;
    peer.request().await.unwrap();
    peer.send(message::ok("next")).await;
    assert_eq!(client.response().await.text(), "next");
    assert!(!backend.saw("early"));
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_038_endless_interim_responses() {
    for interim in [
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
    ] {
        let backend = Backend::start(backend::script(move |peer| async move {
            if peer.head().await.is_some() {
                while !peer.is_ended() {
                    peer.send(interim).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }))
        .await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]).timeouts("response_header = \"300ms\"");
        })
        .await;
        for request in [message::get("/", ""), websocket::request("/", "")] {
            let before = backend.connections();
            let mut client = Raw::connect(proxy.web()).await;
            client.send(request).await;
            let reply = within("the deadline of 300 ms", async {
                loop {
                    let reply = client.response().await;
                    if reply.status() >= 200 {
                        return reply;
                    }
                }
            })
            .await;
            assert_eq!(reply.status(), 504);
            backend.ended(before).await;
            assert_eq!(backend.connections(), before + 1);
        }
        drop(backend);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn fault_039_control_characters_in_a_response_header() {
    let fields = [
        "X-A: b\rX-Evil: secret",
        "X-A: b\r X-Evil: secret",
        "X-A: b\0secret",
        "X-A: b\r\n X-Evil: secret",
        "X-A\r: secret",
        "X A: secret",
        "X-A : secret",
        ": secret",
        "no colon, secret",
    ];
    assert_bad_responses(fields.map(with_field)).await;
}

/// A request, and a response with this field and a length.
fn with_field(field: &str) -> (Vec<u8>, String) {
    let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 6\r\n\r\nsecret");
    (message::get("/", ""), answer)
}

#[tokio::test]
async fn fault_040_length_and_chunked_in_a_response() {
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n");
        let backend = Backend::answering(move |_| answer.clone().into_bytes()).await;
        let proxy = Proxy::for_backends(&[backend.address]).await;
        let mut client = Raw::connect(proxy.web()).await;
        for index in 0..3 {
            client.send(message::get("/", "")).await;
            let reply = client.response().await;
            assert_eq!((reply.status(), reply.text().as_str()), (200, "hello"));
            assert_eq!(reply.header("content-length"), None);
            backend.ended(index).await;
        }
        assert_eq!(backend.connections(), 3, "a connection with ambiguous framing was reused");
        drop((client, backend));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn fault_040_bad_length_in_a_response() {
    let lengths = [
        "+6",
        "-6",
        "0x6",
        "6 6",
        "6, 7",
        "six",
        "",
        "6\r\nContent-Length: 7",
        "99999999999999999999999",
    ];
    let answer = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nsecret");
    assert_bad_responses(lengths.map(|length| (message::get("/", ""), answer(length)))).await;
}

/// Bytes after a complete response are neither part of it nor another response.
async fn assert_discarded(request: &str, answer: &'static str, status: u16, body: &str) {
    let backend = Backend::start(backend::script(move |peer| async move {
        while let Some(request) = peer.request().await {
            match request.target() {
                "/next" => peer.send(message::ok("next")).await,
                _ => peer.send(answer).await,
            }
        }
    }))
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for round in 0..10 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(format!("{request} HTTP/1.1\r\nHost: app.test\r\n\r\n")).await;
        let reply = client.head().await;
        assert_eq!(reply.status(), status, "{answer:?}");
        assert_eq!(client.exact(body.len()).await, body.as_bytes());
        // At once: the proxy may not have read the extra bytes yet.
        client.send(message::get("/next", "")).await;
        let next = client.response().await;
        assert_eq!((next.status(), next.text().as_str()), (200, "next"), "after {answer:?}");
        assert_eq!(backend.bytes(2 * round).windows(4).filter(|w| w == b"\r\n\r\n").count(), 1);
        backend.ended(2 * round).await;
        client.finish().await;
        client.assert_closed().await;
        // The next round must not use this connection.
        backend.peer(2 * round + 1).await.close();
        within("the idle connection's end", async {
            while proxy.metric("moorline_backend_idle_connections").await > 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_041_body_in_a_response_without_a_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    assert_discarded("HEAD /", head, 200, "").await;
    assert_discarded("GET /", "HTTP/1.1 204 No Content\r\n\r\nsecret", 204, "").await;
    let not_modified = "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nsecret";
    assert_discarded("GET /", not_modified, 304, "").await;
}

#[tokio::test]
async fn fault_041_unsolicited_second_response() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst\
               HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    assert_discarded("GET /", two, 200, "first").await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                   HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    assert_discarded("GET /", chunked, 200, "0\r\n\r\n").await;
}

#[tokio::test]
async fn fault_041_unsolicited_response_while_idle() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/first", "")).await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    peer.send(message::ok("first")).await;
    assert_eq!(client.response().await.text(), "first");
    peer.send(message::ok("secret")).await;
    backend.ended(0).await;
    client.send(message::get("/next", "")).await;
    let peer = backend.peer(1).await;
    peer.request().await.unwrap();
    peer.send(message::ok("next")).await;
    assert_eq!(client.response().await.text(), "next");
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_042_connection_removes_named_fields() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let names = "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Forwarded, X-Request-Id, \
         Host, Authorization, Cookie, Content-Length, Transfer-Encoding, X-Hop";
    let fields = format!(
        "Connection: {names}\r\nX-Forwarded-For: 6.6.6.6\r\nAuthorization: Basic abc\r\n\
         Cookie: a=b\r\nX-Hop: secret\r\nKeep-Alive: timeout=9\r\nProxy-Connection: close\r\n"
    );
    let fixed = message::post("/fixed", &fields, "body");
    let chunked = format!(
        "POST /chunked HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n{fields}\r\n\
         4\r\nbody\r\n0\r\n\r\n"
    );
    for (target, request) in [("/fixed", fixed), ("/chunked", chunked.into_bytes())] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(request).await;
        assert_eq!(client.response().await.status(), 200);
        let seen = backend.request(target).await;
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
        assert_eq!(seen.all("host"), ["app.test"]);
        assert_eq!(seen.all("authorization"), ["Basic abc"]);
        assert_eq!(seen.all("cookie"), ["a=b"]);
        assert!(seen.header("x-real-ip").is_some() && seen.header("x-request-id").is_some());
        assert_eq!(seen.body, b"body");
        for hop in ["x-hop", "keep-alive", "proxy-connection"] {
            assert_eq!(seen.header(hop), None);
        }
        let connection = seen.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert!(!connection.contains("x-"), "{connection}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_042_connection_of_a_response_removes_named_fields() {
    let backend = Backend::answering(|_| {
        let fields = "Connection: X-Hop, Content-Length, keep-alive\r\nX-Hop: secret\r\n\
             Keep-Alive: timeout=9\r\nX-Stays: yes\r\n";
        message::reply("200 OK", fields, "whole")
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "")).await;
    assert_eq!((reply.text().as_str(), reply.header("x-stays")), ("whole", Some("yes")));
    assert_eq!((reply.header("x-hop"), reply.header("keep-alive")), (None, None));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_137_ambiguous_lengths_and_codings_of_a_response() {
    let fields = [
        "Transfer-Encoding: identity\r\nContent-Length: 6",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Content-Length: 6, 6",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 9007199254740993",
    ];
    let answer = |fields| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nsecret");
    assert_bad_responses(fields.map(|fields| (message::get("/", ""), answer(fields)))).await;
}

/// Creates a response with a number of fields of a given size.
fn large_header(fields: usize, bytes: usize) -> Vec<u8> {
    let value = "v".repeat(bytes);
    let fields: String = (0..fields).map(|n| format!("X-{n}: {value}\r\n")).collect();
    message::reply("200 OK", &fields, "whole")
}

#[tokio::test]
async fn fault_138_many_fields_and_100_kb_of_header_are_relayed() {
    let backend = Backend::answering(|request| match request.target() {
        "/many" => large_header(400, 10),
        "/large" => large_header(100, 1024),
        "/one" => large_header(1, 100 << 10),
        "/too-many" => large_header(600, 1),
        _ => large_header(1, 140 << 10),
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (target, fields) in [("/many", 400), ("/large", 100), ("/one", 1)] {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "whole"), "{target}");
        let relayed = reply.headers.iter().filter(|(name, _)| name.starts_with("X-")).count();
        assert!(relayed >= fields, "{target}: {relayed}");
    }
    for target in ["/too-many", "/too-large"] {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        assert_eq!(reply.status(), 502, "{target}");
        assert!(reply.text().contains("too large or has too many fields"), "{}", reply.text());
        let named = "backend_response_header_header_too_large";
        proxy.wait_for_log(target, |line| line["termination"] == named).await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_138_header_limits_of_responses_are_settable() {
    let backend = Backend::answering(|request| match request.target() {
        "/many" => large_header(600, 1),
        "/large" => large_header(1, 300 << 10),
        _ => large_header(1, 9 << 10),
    })
    .await;
    let with = |limits: &'static str| {
        let address = backend.address;
        Proxy::with(move |settings| {
            settings.backends(&[address]).pool("limits", limits);
        })
    };
    let proxy = with("{ header_size = \"512KiB\", header_fields = 1000 }").await;
    for target in ["/many", "/large"] {
        assert_eq!(Raw::ask(proxy.web(), message::get(target, "")).await.status(), 200);
    }
    proxy.finish().await;
    let proxy = with("{ header_size = \"8KiB\" }").await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 502);
    drop(backend);
    proxy.finish().await;
}

/// A server that reads the header of a request, answers 413 and closes without reading the body. The close is
/// a reset because bytes are unread.
async fn answers_413_and_resets() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut byte = [0; 1];
                while !head.ends_with(b"\r\n\r\n") {
                    if socket.read(&mut byte).await.unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let answer = message::reply("413 Content Too Large", "Connection: close\r\n", "no");
                let _ = socket.write_all(&answer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn fault_140_an_early_413_is_relayed_and_never_a_502() {
    let address = answers_413_and_resets().await;
    let proxy = Proxy::for_backends(&[address]).await;
    let body = "x".repeat(600_000);
    let chunked = format!(
        "POST /chunked HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let upload = [message::post("/", "", &body), chunked.into_bytes()];
    for round in 0..200 {
        let mut client = Raw::connect(proxy.web()).await;
        client.try_send(&upload[round % 2]).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (413, "no"), "round {round}");
        client.finish().await;
        client.assert_closed().await;
    }
    proxy.finish().await;
}

//! Compression of responses, as clients of each coding see it.

use std::{io::Read as _, time::Duration};

use super::{get, routed};
use crate::support::{
    Backend, End, Message, Proxy, Raw, message,
    node::{handshake_target, poll_target},
    proxy::Setup,
    websocket,
};

const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// Decodes as much as is there: a stream that was flushed has no end yet.
pub(super) fn decoded(coding: &str, bytes: &[u8]) -> String {
    let mut reader: Box<dyn std::io::Read> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        _ => Box::new(bytes),
    };
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = reader.read(&mut piece) {
        text.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(text).unwrap()
}

fn accept(coding: &str) -> String {
    format!("Accept-Encoding: {coding}\r\n")
}

fn text() -> String {
    (0..2000).map(|line| format!("line {line} of the text\n")).collect()
}

#[tokio::test]
async fn every_coding_gives_the_same_text_on_one_connection() {
    let backend = Backend::answering(|_| {
        let fields = "Content-Type: text/html\r\nETag: \"1\"\r\nAccept-Ranges: bytes\r\n";
        message::reply("200 OK", fields, &text())
    })
    .await;
    let proxy = routed(&backend, "compress = true\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    for coding in CODINGS.into_iter().chain(["identity"]) {
        client.send(message::get(&format!("/{coding}"), &accept(coding))).await;
        let reply = client.response().await;
        assert_eq!(decoded(coding, &reply.body), text(), "{coding}");
        assert_eq!(reply.all("vary"), ["Accept-Encoding"]);
        let line =
            proxy.wait_for_log("the line", |line| line["path"] == format!("/{coding}")).await;
        assert_eq!(line["bytes_out"], reply.body.len(), "{coding}");
        assert_eq!(line["termination"], "complete");
        if coding == "identity" {
            assert_eq!(
                (reply.header("content-encoding"), reply.header("etag")),
                (None, Some("\"1\""))
            );
            continue;
        }
        assert_eq!(reply.header("content-encoding"), Some(coding));
        assert_eq!(reply.header("etag"), Some("W/\"1\""));
        assert_eq!((reply.header("content-length"), reply.header("accept-ranges")), (None, None));
        assert!(reply.body.len() < text().len() / 4, "{coding}");
    }
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

/// Sends a GET request, and returns its client and the backend's connection.
async fn held(proxy: &Proxy, backend: &Backend, coding: &str) -> (Raw, crate::support::Peer) {
    let target = format!("/{coding}");
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get(&target, &accept(coding))).await;
    let peer = backend.peer_for(&target).await;
    (client, peer)
}

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_piece_reaches_the_client_without_the_next_one() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "compress = true\n").await;
    for coding in CODINGS {
        let (mut client, peer) = held(&proxy, &backend, coding).await;
        peer.send(CHUNKED).await;
        let head = client.head().await;
        assert_eq!(head.header("content-encoding"), Some(coding));
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        let (mut encoded, mut expected) = (Vec::new(), String::new());
        for piece in ["first", "second", "third"] {
            peer.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
            expected.push_str(piece);
            while decoded(coding, &encoded) != expected {
                encoded.extend(chunk(&mut client).await.expect("a piece"));
            }
        }
        peer.send("0\r\nX-Sum: 7\r\nContent-Digest: x\r\n\r\n").await;
        while let Some(piece) = chunk(&mut client).await {
            encoded.extend(piece);
        }
        let rest = client.exact("X-Sum: 7\r\n\r\n".len()).await;
        assert_eq!(String::from_utf8(rest).unwrap(), "X-Sum: 7\r\n\r\n");
        assert_eq!(decoded(coding, &encoded), expected);
        peer.close();
    }
    drop(backend);
    proxy.finish().await;
}

/// Reads one chunk; `None`: it is the last one, without its trailers.
async fn chunk(client: &mut Raw) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.exact(1).await);
    }
    let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
    if size == 0 {
        return None;
    }
    let mut bytes = client.exact(size + 2).await;
    bytes.truncate(size);
    Some(bytes)
}

#[tokio::test]
async fn a_body_that_the_backend_breaks_off_stays_broken_off() {
    let backend = Backend::manual().await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]).timeouts("body_idle = \"300ms\"");
        settings.table("[[routes]]\npool = \"app\"\ncompress = true\n");
    });
    let proxy = setup.start().await;
    let counted = CHUNKED.replace("Transfer-Encoding: chunked", "Content-Length: 5000");
    for (at, (head, body, ends, expected)) in [
        (CHUNKED, "5\r\nfirst\r\n", true, "incomplete"),
        (&*counted, "first", true, "incomplete"),
        (CHUNKED, "5\r\nfirst\r\nzz\r\n", false, "malformed"),
        (CHUNKED, "5\r\nfirst\r\n", false, "timed_out"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Raw::connect(proxy.web()).await;
        let target = format!("/{at}");
        client.send(message::get(&target, &accept("gzip"))).await;
        let peer = backend.peer_for(&target).await;
        peer.send(format!("{head}{body}")).await;
        if ends {
            client.head().await;
            peer.close();
        }
        let (rest, end) = client.rest().await;
        assert_eq!(end, End::Reset, "{target}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{target}");
        let line = proxy.wait_for_log("the line", |line| line["path"] == target.as_str()).await;
        assert_eq!(line["termination"], format!("backend_response_body_{expected}"));
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_backend() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "compress = true\n").await;
    let (mut client, peer) = held(&proxy, &backend, "gzip").await;
    peer.send(CHUNKED).await;
    client.head().await;
    client.reset();
    peer.ended().await;
    let line = proxy.wait_for_log("the line", |line| line["path"] == "/gzip").await;
    assert_eq!(line["termination"], "client_response_body_incomplete");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "compress = { level = 1, encodings = [\"gzip\"] }\n").await;
    let (client, peer) = held(&proxy, &backend, "gzip").await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n").await;
    // Random bytes cannot be compressed.
    let bytes: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let limit = 64 << 20;
    let mut sent = 0;
    while sent < limit {
        match tokio::time::timeout(Duration::from_millis(500), peer.write(&bytes)).await {
            Ok(count) => sent += count.unwrap(),
            Err(_) => break,
        }
    }
    assert!(sent < limit, "{sent} bytes");
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn old_clients_get_a_body_that_ends_with_the_connection() {
    let backend =
        Backend::answering(|_| message::reply("200 OK", "Content-Type: text/css\r\n", &text()))
            .await;
    let proxy = routed(&backend, "compress = true\n").await;
    let request = "GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nAccept-Encoding: gzip\r\n\r\n";
    let reply = Raw::ask(proxy.web(), request).await;
    assert_eq!(
        (reply.header("connection"), reply.header("transfer-encoding")),
        (Some("close"), None)
    );
    assert_eq!(decoded("gzip", &reply.body), text());
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn head_and_validation_get_the_fields_of_the_compressed_response() {
    let backend = Backend::answering(|request| {
        let fields = "Content-Type: text/html\r\nETag: \"1\"\r\nContent-Length: 50000\r\n";
        match request.method() {
            "HEAD" => format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes(),
            _ => b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec(),
        }
    })
    .await;
    let proxy = routed(&backend, "compress = true\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(
            (head.header("content-encoding"), head.header("etag")),
            (Some("gzip"), Some("W/\"1\""))
        );
        assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None));
    }
    client.send(message::get("/", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"1\"\r\n")).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.header("etag")), (304, Some("W/\"1\"")));
    assert_eq!(reply.header("content-encoding"), None);
    drop((client, backend));
    proxy.finish().await;
}

fn assert_unchanged(reply: &Message, expected: &str) {
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.text(), expected);
}

#[tokio::test]
async fn what_must_not_be_compressed_is_not() {
    let backend = Backend::answering(|request| {
        let fields = match request.target() {
            "/events" => "Content-Type: text/event-stream\r\n",
            "/fixed" => "Content-Type: text/plain\r\nCache-Control: no-transform\r\n",
            "/partial" => "Content-Type: text/plain\r\nContent-Range: bytes 0-9/20\r\n",
            "/image" => "Content-Type: image/png\r\n",
            _ => "Content-Type: text/plain; charset=UTF-8\r\n",
        };
        message::reply("200 OK", fields, &text())
    })
    .await;
    let proxy = routed(&backend, "compress = { min_size = 0 }\n").await;
    let engine = [
        handshake_target("t0"),
        poll_target("unknown", "t1"),
        "/x?EIO=3&transport=polling".to_owned(),
    ];
    for target in
        ["/events", "/fixed", "/partial", "/image"].map(str::to_owned).iter().chain(&engine)
    {
        assert_unchanged(&get(&proxy, target, &accept("gzip, br, zstd")).await, &text());
    }
    // Bytes behind a 101 are those of the tunnel.
    drop(backend);
    let backend = Backend::start(websocket::echo()).await;
    let tunnels = routed(&backend, "compress = { min_size = 0 }\n").await;
    let mut client = Raw::connect(tunnels.web()).await;
    client.send(websocket::request("/", &accept("gzip"))).await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.header("content-encoding"), head.header("vary")),
        (101, None, None)
    );
    drop((client, backend));
    tunnels.finish().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_fixed_response_is_compressed_too() {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        let body = "a fixed response ".repeat(100);
        settings
            .table(&format!("[[routes]]\nrespond = {{ body = \"{body}\" }}\ncompress = true\n"));
    });
    let proxy = setup.start().await;
    let reply = get(&proxy, "/", &accept("br;q=0.9, gzip;q=0.8")).await;
    assert_eq!(reply.header("content-encoding"), Some("br"));
    assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
    assert_eq!(decoded("br", &reply.body), "a fixed response ".repeat(100));
    proxy.finish().await;
}

//! Framing and syntax of requests: a backend gets no byte of a request that two implementations could read differently.

mod bodies;
mod clients;
mod relaying;
mod responses;

use std::time::Duration;

use crate::{
    request::{assert_only_a_valid_request_passes, assert_refused},
    support::{Backend, Message, Proxy, Raw, eventually, message},
};

/// A request that must not appear at the backend.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// The start of a POST request whose further fields follow.
const POST: &str = "POST / HTTP/1.1\r\nHost: app.test\r\n";

/// Sends each request on a new connection, and expects the status and a close. The backend may see no byte of them.
/// Returns the backend and the proxy for further cases.
async fn assert_all_refused(requests: &[(Vec<u8>, u16)]) -> (Backend, Proxy) {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (request, status) in requests {
        assert_refused(&proxy, request, &[*status]).await;
    }
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    (backend, proxy)
}

/// Like [`assert_all_refused`] for POST requests with these fields, followed by an empty chunked body and a request.
async fn assert_fields_refused(fields: &[(&str, u16)]) -> (Backend, Proxy) {
    let request = |fields: &str| format!("{POST}{fields}\r\n0\r\n\r\n{SMUGGLED}").into_bytes();
    let requests: Vec<_> =
        fields.iter().map(|(fields, status)| (request(fields), *status)).collect();
    assert_all_refused(&requests).await
}

async fn finish((backend, proxy): (Backend, Proxy)) {
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_001_length_before_chunked() {
    let parts = assert_fields_refused(&[
        ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Content-Length: 0\r\nX-Between: a\r\nTransfer-Encoding: chunked\r\n", 400),
        ("content-length: 5\r\nTRANSFER-ENCODING: Chunked\r\n", 400),
        ("Content-Length: 6\r\nTransfer-Encoding:\r\n", 400),
    ]);
    finish(parts.await).await;
}

#[tokio::test]
async fn fault_002_chunked_before_length() {
    let parts = assert_fields_refused(&[
        ("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", 400),
        ("Transfer-Encoding: chunked\r\nX-Between: a\r\nContent-Length: 500\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", 400),
    ]);
    finish(parts.await).await;
}

#[tokio::test]
async fn fault_003_other_codings_than_one_chunked() {
    let parts = assert_fields_refused(&[
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Transfer-Encoding: chunkedx\r\n", 400),
        ("Transfer-Encoding: \"chunked\"\r\n", 400),
        ("Transfer-Encoding: chunked;q=1\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("Transfer-Encoding: chunked,\r\n", 400),
        ("Transfer-Encoding: ,chunked\r\n", 400),
        ("Transfer-Encoding: \x0bchunked\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
        ("Transfer-Encoding\t: chunked\r\n", 400),
        (" Transfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding:\r\n chunked\r\n", 400),
    ])
    .await;
    // A tab before the value is whitespace, and the case of the coding does not matter.
    let valid = format!("{POST}Transfer-Encoding:\t Chunked \r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(Raw::ask(parts.1.web(), valid).await.status(), 200);
    let seen = parts.0.requests().pop().unwrap();
    assert_eq!((seen.all("transfer-encoding"), &seen.body[..]), (vec!["chunked"], &b"hi"[..]));
    finish(parts).await;
}

#[tokio::test]
async fn fault_004_chunked_in_http_1_0() {
    let old = "POST / HTTP/1.0\r\nHost: app.test\r\n";
    let request = |fields: &str| format!("{old}{fields}\r\n0\r\n\r\n{SMUGGLED}").into_bytes();
    let fields = [
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
    ];
    let requests: Vec<_> = fields.into_iter().map(|fields| (request(fields), 400)).collect();
    finish(assert_all_refused(&requests).await).await;
}

#[tokio::test]
async fn fault_005_different_lengths() {
    let parts = assert_fields_refused(&[
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: 5\r\nX-Between: a\r\nContent-Length: 0\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: 5, 6\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: x\r\n", 400),
    ]);
    finish(parts.await).await;
}

#[tokio::test]
async fn fault_006_equal_lengths() {
    let parts = assert_fields_refused(&[
        ("Content-Length: 5, 5\r\n", 400),
        ("Content-Length: 5,5\r\n", 400),
        ("Content-Length: 5,\r\n", 400),
    ])
    .await;
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 005\r\n",
    ] {
        let reply = Raw::ask(parts.1.web(), format!("{POST}{fields}\r\nhello")).await;
        assert_eq!(reply.status(), 200);
        let seen = parts.0.requests().pop().unwrap();
        assert_eq!((seen.all("content-length"), seen.text().as_str()), (vec!["5"], "hello"));
    }
    finish(parts).await;
}

#[tokio::test]
async fn fault_007_invalid_lengths() {
    let lengths = [
        "+5",
        "-5",
        "0x5",
        "",
        "5 5",
        "5;",
        "5.0",
        "1e1",
        "\u{665}",
        "five",
        "_5",
        "5_0",
        // 2^53 + 1, 2^63, 2^64 + 5.
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551621",
        "99999999999999999999999999999999999999999",
    ];
    let requests: Vec<_> = lengths
        .iter()
        .map(|length| {
            (format!("{POST}Content-Length: {length}\r\n\r\n{SMUGGLED}").into_bytes(), 400)
        })
        .collect();
    finish(assert_all_refused(&requests).await).await;
}

#[tokio::test]
async fn fault_011_bare_lf_in_a_head() {
    let requests = [
        "GET / HTTP/1.1\nHost: app.test\n\n",
        "GET / HTTP/1.1\nHost: app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\nX-A: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\nX-A: b\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\n\n",
        "GET / HTTP/1.1\r\nHost: app.test\n\n",
        "\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET / HTTP/1.1\r\n\nHost: app.test\r\n\r\n",
    ];
    let requests = requests.map(|request| (format!("{request}{SMUGGLED}").into_bytes(), 400));
    finish(assert_all_refused(&requests).await).await;
}

#[tokio::test]
async fn fault_012_folded_fields() {
    let parts = assert_fields_refused(&[
        ("X-A: b\r\n c\r\n", 400),
        ("X-A: b\r\n\tc\r\n", 400),
        ("X-A: b\r\n \r\n", 400),
        ("X-A:\r\n b\r\n", 400),
        ("X-A: b\r\n Content-Length: 5\r\n", 400),
    ])
    .await;
    assert_refused(&parts.1, "GET / HTTP/1.1\r\n Host: app.test\r\n\r\n", &[400]).await;
    finish(parts).await;
}

#[tokio::test]
async fn fault_013_invalid_names() {
    let parts = assert_fields_refused(&[
        ("Content-Length : 5\r\n", 400),
        ("Content-Length\t: 5\r\n", 400),
        ("Host : app.test\r\n", 400),
        (": a\r\n", 400),
        ("no colon\r\n", 400),
        ("X A: b\r\n", 400),
        ("X(A): b\r\n", 400),
        ("X\u{e9}: b\r\n", 400),
        ("X\0: b\r\n", 400),
        ("X\r: b\r\n", 400),
        ("\"X\": b\r\n", 400),
    ]);
    finish(parts.await).await;
}

#[tokio::test]
async fn fault_014_control_characters_in_values() {
    let parts = assert_fields_refused(&[
        ("X-A: b\0c\r\n", 400),
        ("X-A: b\rc\r\n", 400),
        ("X-A: b\rTransfer-Encoding: chunked\r\n", 400),
        ("X-A: b\r\r\n", 400),
        ("X-A: \x1b[31m\r\n", 400),
        ("X-A: b\x7f\r\n", 400),
        ("X-A: \x08\r\n", 400),
    ])
    .await;
    // Tabs and bytes above ASCII are valid.
    let valid = message::get("/valid", "X-A: b\tc \u{e9}\r\n");
    assert_eq!(Raw::ask(parts.1.web(), valid).await.status(), 200);
    assert!(parts.0.saw("X-A: b\tc \u{e9}\r\n"));
    finish(parts).await;
}

#[tokio::test]
async fn fault_022_a_body_of_get_or_head_is_framed() {
    let backend = Backend::answering(|request| match request.method() {
        "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec(),
        _ => message::ok(request.target()),
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let length = SMUGGLED.len();
        for (target, fields, body) in [
            ("/fixed", format!("Content-Length: {length}\r\n"), SMUGGLED.to_owned()),
            (
                "/chunked",
                "Transfer-Encoding: chunked\r\n".to_owned(),
                format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
            ),
        ] {
            let before = backend.requests().len();
            let head = format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
            let next = message::get("/next", "Connection: close\r\n");
            let mut client = Raw::connect(proxy.web()).await;
            client.send([head.as_bytes(), body.as_bytes(), &next].concat()).await;
            assert_eq!(client.head().await.status(), 200);
            if method != "HEAD" {
                client.exact(target.len()).await;
            }
            // The connection closes behind a body that no such request should have, else it is in sync.
            let (rest, _) = client.rest().await;
            assert_eq!(rest.is_empty(), matches!(method, "GET" | "HEAD"), "{method}");
            if let Some((reply, taken)) = Message::read(&rest) {
                assert_eq!((reply.text().as_str(), taken), ("/next", rest.len()), "{method}");
            }
            let seen = backend.requests().split_off(before);
            assert_eq!((seen[0].method(), seen[0].target()), (method, target));
            assert_eq!(seen[0].text(), SMUGGLED, "the backend gets the body as a body");
            assert!(seen.iter().all(|request| request.target() != "/smuggled"), "{seen:?}");
        }
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_027_pipelined_requests_are_answered_in_order() {
    let backend = Backend::answering(|request| {
        message::ok(&format!("{} {} {}", request.method(), request.target(), request.text()))
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let target = format!("/{n}");
        match n {
            3 => requests.extend(message::post(&target, "", "fixed")),
            6 => requests.extend(
                format!(
                    "POST {target} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nchu\r\n3\r\nnks\r\n0\r\n\r\n"
                )
                .into_bytes(),
            ),
            _ => requests.extend(message::get(&target, "")),
        }
        expected.push(match n {
            3 => "POST /3 fixed".to_owned(),
            6 => "POST /6 chunks".to_owned(),
            _ => format!("GET {target} "),
        });
    }
    client.send(requests).await;
    for expected in expected {
        assert_eq!(client.response().await.text(), expected);
    }
    let targets: Vec<_> = backend.requests().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(targets, (0..10).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_027_pipelined_requests_wait_and_are_bounded() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send([message::get("/first", ""), message::get("/second", "")].concat()).await;
    let peer = backend.peer(0).await;
    assert_eq!(peer.request().await.unwrap().target(), "/first");
    // Bytes that the proxy does not read stay with the client.
    let limit = 64 << 20;
    let sent = client.fill(limit, Duration::from_millis(200)).await;
    assert!(sent < limit, "the proxy reads ahead without a limit");
    assert!(!backend.saw("/second"), "a request overtook the response before it");
    peer.send(message::ok("first")).await;
    assert_eq!(client.response().await.text(), "first");
    eventually("the second request", || backend.saw("/second")).await;
    assert!(peer.request().await.is_some());
    peer.send(message::ok("second")).await;
    assert_eq!(client.response().await.text(), "second");
    // The bytes after it are not a request.
    assert_eq!(client.response().await.status(), 400);
    drop((client, peer));
    assert_eq!(backend.requests().len(), 2);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_028_other_protocols() {
    let requests: [(&[u8], u16); 17] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 505),
        (b"PROXY TCP4 6.6.6.6 127.0.0.1 1234 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
        (b"\x00\x00\x00\x01", 400),
        (b"\xff\xfb\x01", 400),
        (b"GET /\r\n", 505),
        (b"GET /\n", 505),
        (b"GET / HTTP/0.9\r\nHost: app.test\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: app.test\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: app.test\r\n\r\n", 505),
        (b"GET / HTTP/11\r\nHost: app.test\r\n\r\n", 505),
        (b"GET / http/1.1\r\nHost: app.test\r\n\r\n", 505),
        (b"GET / HTTP/1.1 \r\nHost: app.test\r\n\r\n", 505),
        (b"GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", 400),
    ];
    let requests = requests.map(|(request, status)| (request.to_vec(), status));
    finish(assert_all_refused(&requests).await).await;
}

#[tokio::test]
async fn fault_137_ambiguous_lengths_and_codings_of_a_request() {
    let parts = assert_fields_refused(&[
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Content-Length: 9007199254740993\r\n", 400),
    ])
    .await;
    for status in [501, 400] {
        parts.1.wait_for_log("a line", |line| line["status"] == status).await;
    }
    finish(parts).await;
}

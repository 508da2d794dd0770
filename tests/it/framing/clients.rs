//! The framing that a client gets, by its version and method, and whether its connection is kept.

use crate::support::{Backend, End, Message, Proxy, Raw, backend, message};

/// Answers with a length, with chunks, or until the close.
async fn answers_in_each_form() -> Backend {
    Backend::start(backend::script(|peer| async move {
        while let Some(request) = peer.request().await {
            match request.target() {
                "/chunks" => {
                    let chunks = "3;a=b\r\nchu\r\n3\r\nnks\r\n0\r\nX-Sum: 1\r\n\r\n";
                    peer.send(format!(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
                    ))
                    .await;
                }
                "/close" => {
                    peer.send("HTTP/1.1 200 OK\r\nX-Form: close\r\n\r\nuntil ").await;
                    peer.send("the close").await;
                    return;
                }
                "/old" => {
                    peer.send("HTTP/1.0 200 OK\r\n\r\nold").await;
                    return;
                }
                "/204" => peer.send("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n").await,
                "/304" => {
                    peer.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n").await;
                }
                "/head" => {
                    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                }
                _ if request.method() == "HEAD" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
                }
                _ => peer.send(message::ok("length")).await,
            }
        }
    }))
    .await
}

fn old(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.0\r\nHost: app.test\r\n{fields}\r\n")
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let backend = answers_in_each_form().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let keep = "Connection: keep-alive\r\n";
    for fields in ["", keep] {
        for (target, body) in
            [("/chunks", "chunks"), ("/close", "until the close"), ("/old", "old")]
        {
            let mut client = Raw::connect(proxy.web()).await;
            client.send(old(target, fields)).await;
            let head = client.head().await;
            assert_eq!(head.start, "HTTP/1.0 200 OK");
            assert_eq!(
                (head.header("transfer-encoding"), head.header("content-length")),
                (None, None)
            );
            assert_eq!(head.header("connection"), Some("close"), "{target}");
            let (rest, end) = client.rest().await;
            assert_eq!((String::from_utf8_lossy(&rest).as_ref(), end), (body, End::Fin));
        }
    }
    // With a length, the connection is kept if the client asks for it.
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..3 {
        client.send(old("/", keep)).await;
        let reply = client.response().await;
        assert_eq!(
            (reply.text().as_str(), reply.header("connection")),
            ("length", Some("keep-alive"))
        );
    }
    client.send(old("/", "")).await;
    let reply = client.response().await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("length", Some("close")));
    client.assert_closed().await;
    // An error of the proxy follows the same rules.
    let mut client = Raw::connect(proxy.web()).await;
    client.send(old("/", "Host: other.test\r\n")).await;
    let reply = client.response().await;
    assert_eq!(
        (reply.start.as_str(), reply.header("connection")),
        ("HTTP/1.0 400 Bad Request", Some("close"))
    );
    client.assert_closed().await;
    // The proxy still reads until the client closes.
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_without_a_length_becomes_chunked_and_the_connection_is_kept() {
    let backend = answers_in_each_form().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    for (target, body) in
        [("/close", "until the close"), ("/chunks", "chunks"), ("/old", "old"), ("/", "length")]
    {
        client.send(message::get(target, "")).await;
        let reply = client.response().await;
        assert_eq!((reply.start.as_str(), reply.text().as_str()), ("HTTP/1.1 200 OK", body));
        let chunked = (target != "/").then_some("chunked");
        assert_eq!(
            (reply.header("transfer-encoding"), reply.header("connection")),
            (chunked, None)
        );
    }
    client.send(message::get("/close", "Connection: close\r\n")).await;
    let reply = client.response().await;
    assert_eq!(
        (reply.text().as_str(), reply.header("connection")),
        ("until the close", Some("close"))
    );
    client.assert_closed().await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn responses_without_a_body_keep_both_connections() {
    let backend = answers_in_each_form().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let head =
        |target: &str| format!("HEAD {target} HTTP/1.1\r\nHost: app.test\r\n\r\n").into_bytes();
    let length = |reply: &Message| reply.header("content-length").map(str::to_owned);
    for (request, status, expected) in [
        (head("/"), 200, Some("6")),
        (head("/head"), 200, None),
        (message::get("/204", ""), 204, None),
        (message::get("/304", ""), 304, Some("6")),
        (head("/204"), 204, None),
        (head("/304"), 304, Some("6")),
    ] {
        client.send(request).await;
        let reply = client.head().await;
        assert_eq!((reply.status(), length(&reply).as_deref()), (status, expected));
        // The next response follows at once: no byte of a body, nor of a chunk.
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.text(), "length");
    }
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_070_a_held_poll_ends_at_once_when_its_client_leaves() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    let poll = message::get("/socket.io/?EIO=4&transport=polling&sid=held", "");
    // A client over TLS may close with and without close_notify.
    for (index, (tls, says_so)) in
        [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
    {
        let mut client = match tls {
            false => Raw::connect(proxy.web()).await,
            true => Raw::tls(proxy.listener("secure"), &certificate).await,
        };
        client.send(&poll).await;
        let peer = backend.peer(index).await;
        peer.request().await.unwrap();
        if says_so {
            client.finish().await;
        }
        drop(client);
        peer.ended().await;
    }
    drop(backend);
    proxy.finish().await;
}

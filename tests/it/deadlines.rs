//! Deadlines of requests: requests without a deadline, and the start of a deadline.

use crate::support::{
    Backend, Peer, Proxy, Raw, eventually, message,
    websocket::{self, tunnel},
};

/// Starts a proxy with short deadlines.
async fn proxy_with_short_deadlines(backend: &Backend, more: &str) -> Proxy {
    Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.timeouts(&format!("response_header = \"300ms\", body_idle = \"300ms\"{more}"));
        settings.pool("long_polls", "[\"/held\"]");
    })
    .await
}

/// Waits until both deadlines have passed for requests that start now.
async fn wait_past_deadlines(proxy: &Proxy, backend: &Backend) {
    let target = format!("/body/{}", backend.connections());
    let mut plain = Raw::connect(proxy.web()).await;
    plain.send(message::get("/plain", "")).await;
    assert_eq!(plain.response().await.status(), 504);
    let mut body = Raw::connect(proxy.web()).await;
    body.send(message::get(&target, "")).await;
    let peer = peer_with_request(backend, &target).await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    body.head().await;
    body.rest().await;
}

async fn peer_with_request(backend: &Backend, target: &str) -> Peer {
    let peer = backend.peer_for(target).await;
    peer.request().await.unwrap();
    peer
}

#[tokio::test]
async fn a_silent_event_stream_has_no_deadline() {
    let backend = Backend::manual().await;
    let proxy = proxy_with_short_deadlines(&backend, "").await;
    // Recognized by the response's Content-Type, or by the request's Accept.
    for (target, accept, kind) in [
        ("/by-response", "*/*", "Text/Event-Stream; charset=utf-8"),
        ("/by-request", "text/event-stream", "text/event-stream"),
    ] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(message::get(target, &format!("Accept: {accept}\r\n"))).await;
        let peer = peer_with_request(&backend, target).await;
        if accept != "*/*" {
            wait_past_deadlines(&proxy, &backend).await;
        }
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 5\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.status(), 200);
        wait_past_deadlines(&proxy, &backend).await;
        peer.send("event").await;
        assert_eq!(client.exact(5).await, b"event");
        drop(client);
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn recognized_and_configured_long_polls_have_no_deadline() {
    let backend = Backend::manual().await;
    let proxy = proxy_with_short_deadlines(&backend, "").await;
    let polls = [
        message::get("/hub?id=AbCdEfGhIjKlMnOpQrStU_&_=1", ""),
        message::get("/live/longpoll?token=x", ""),
        message::post("/echo/042/k3jd9f/xhr", "", ""),
        message::post("/cometd/connect", "", "[]"),
        message::get("/held/by/name", ""),
    ];
    let mut held = Vec::new();
    for poll in polls {
        let mut client = Raw::connect(proxy.web()).await;
        let target = String::from_utf8_lossy(&poll).split(' ').nth(1).unwrap().to_owned();
        client.send(poll).await;
        let peer = peer_with_request(&backend, &target).await;
        held.push((client, peer));
    }
    wait_past_deadlines(&proxy, &backend).await;
    for (mut client, peer) in held {
        peer.send(message::ok("late")).await;
        assert_eq!(client.response().await.text(), "late");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn stream_idle_limits_long_polls_and_event_streams() {
    let backend = Backend::manual().await;
    let proxy = proxy_with_short_deadlines(&backend, ", stream_idle = \"400ms\"").await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/held", "")).await.status(), 504);
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/events", "Accept: text/event-stream\r\n")).await;
    let peer = peer_with_request(&backend, "/events").await;
    peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    client.head().await;
    client.rest().await;
    let cut = "backend_response_body_timed_out";
    proxy.wait_for_log("the stream's end", |line| line["termination"] == cut).await;
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn the_response_deadline_starts_after_the_last_byte_of_the_request() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"1s\"");
        settings.table(&format!(
            "[[routes]]\nhost = \"soon.test\"\npool = \"soon\"\n[pools.soon]\n\
             backends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n\
             timeouts = {{ response_header = \"300ms\" }}\n",
            backend.address
        ));
    })
    .await;
    for chunked in [false, true] {
        let mut upload = Raw::connect(proxy.web()).await;
        let (length, rest) = match chunked {
            false => ("Content-Length: 8", "abcd"),
            true => ("Transfer-Encoding: chunked", "4\r\nabcd\r\n0\r\n\r\n"),
        };
        let target = format!("/upload/{chunked}");
        let first = if chunked { "4\r\nabcd\r\n" } else { "abcd" };
        upload.send(format!("POST {target} HTTP/1.1\r\nHost: app.test\r\n{length}\r\n\r\n")).await;
        upload.send(first).await;
        let peer = backend.peer_for(&target).await;
        peer.head().await.unwrap();
        upload.send(rest).await;
        // The next request is sent after the last byte of the upload has reached the backend.
        let all = format!("a{chunked}");
        eventually("the whole body", || {
            let received = backend.received();
            received.windows(4).filter(|window| window == b"abcd").count()
                >= if chunked { 4 } else { 2 }
        })
        .await;
        // The next request begins 300 ms later, and so must end later.
        let soon = "GET /soon HTTP/1.1\r\nHost: soon.test\r\n\r\n";
        assert_eq!(Raw::ask(proxy.web(), soon).await.status(), 504);
        let mut after = Raw::connect(proxy.web()).await;
        after.send(message::get(&format!("/after/{all}"), "")).await;
        assert_eq!(after.response().await.status(), 504);
        proxy
            .wait_for_log("the later request", |line| {
                line["path"] == format!("/after/{all}").as_str()
            })
            .await;
        let paths: Vec<String> = proxy
            .log_lines()
            .iter()
            .map(|line| line["path"].as_str().unwrap().to_owned())
            .collect();
        let place = |path: &str| paths.iter().position(|logged| logged == path);
        let (first, second) = (place(&target), place(&format!("/after/{all}")));
        assert!(first.is_some() && first < second, "{paths:?}");
        assert_eq!(upload.response().await.status(), 504);
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_is_logged_at_once_when_its_client_leaves() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("response_header = \"1h\"");
    })
    .await;
    let sid = "/socket.io/?EIO=4&transport=polling";
    for (index, request) in [
        message::post("/plain", "", "body"),
        message::get("/plain", ""),
        message::post(sid, "", "4hello"),
        message::get(sid, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(request).await;
        let peer = backend.peer(index).await;
        peer.request().await.unwrap();
        // Like a killed process or a closed page: FIN, and no reader any more.
        drop(client);
        peer.ended().await;
        eventually("a line", || proxy.log_lines().len() > index).await;
        let line = proxy.log_lines().pop().unwrap();
        assert_eq!(line["termination"], "client_response_header_incomplete", "{line}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_half_closed_tunnel_has_its_own_limit_and_termination() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).timeouts("half_closed = \"200ms\"");
    })
    .await;
    let (mut client, _peer) = tunnel(&proxy, &backend).await;
    client.send(websocket::EARLY).await;
    client.finish().await;
    client.rest().await;
    let line = proxy.wait_for_log("the tunnel's line", |line| line["kind"] == "tunnel").await;
    assert_eq!(line["termination"], "half_closed");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_half_closed_client_is_probed_and_still_gets_its_response() {
    let backend = Backend::manual().await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    let mut clients = Vec::new();
    for tls in [false, true] {
        let mut client = match tls {
            false => Raw::connect(proxy.web()).await,
            true => Raw::tls(proxy.listener("secure"), &certificate).await,
        };
        let target = format!("/tls/{tls}");
        client.send(message::post(&target, "Connection: close\r\n", "body")).await;
        client.finish().await;
        clients.push((client, peer_with_request(&backend, &target).await));
    }
    for (mut client, peer) in clients {
        assert_eq!(client.response().await.status(), 100);
        peer.send(message::ok("at last")).await;
        assert_eq!(client.response().await.text(), "at last");
        client.assert_closed().await;
    }
    drop(backend);
    proxy.finish().await;
}

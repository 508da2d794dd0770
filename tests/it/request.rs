//! Invalid requests: the client gets an error, and no backend sees the request.

use crate::support::{Backend, Message, Proxy, Raw, backend, eventually, message};

/// Sends `request` on a new connection, and expects one of `statuses`, then a close.
pub(crate) async fn assert_refused(proxy: &Proxy, request: impl AsRef<[u8]>, statuses: &[u16]) {
    let mut client = Raw::connect(proxy.web()).await;
    // A large request may be rejected before all of it has been read.
    client.try_send(&request).await;
    let reply = client.response().await;
    let head = String::from_utf8_lossy(request.as_ref());
    let head: String = head.chars().take(200).collect();
    assert!(statuses.contains(&reply.status()), "{head:?} got {}", reply.start);
    client.assert_closed().await;
}

/// Sends a valid request, which must be the only one that the backend has seen.
pub(crate) async fn assert_only_a_valid_request_passes(proxy: &Proxy, backend: &Backend) {
    backend.assert_untouched();
    let reply = Raw::ask(proxy.web(), message::get("/marker", "")).await;
    assert_eq!(reply.status(), 200);
    let targets: Vec<_> = backend.requests().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(targets, ["/marker"]);
}

#[tokio::test]
async fn fault_015_missing_or_double_host() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX-Host: app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\nHost: other.test\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: app.test\r\nHost: other.test\r\n\r\n",
        "GET http://app.test/ HTTP/1.1\r\nHost: app.test\r\nHost: other.test\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        assert_refused(&proxy, request, &[400]).await;
    }
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    // HTTP/1.0 does not require Host.
    let reply = Raw::ask(proxy.web(), "GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_016_invalid_host() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for host in [
        "user@app.test",
        "user:secret@app.test",
        "app.test,other.test",
        "app.test, other.test",
        "app.test/path",
        "app.test?query",
        "app.test#fragment",
        "app.test other.test",
        "app.test\tother.test",
        "http://app.test",
        "app\\.test",
        "app.test:port",
        "app.test:80:80",
        "app.test:99999",
        "[::1",
        "::1",
        "",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_refused(&proxy, request, &[400]).await;
    }
    assert_refused(&proxy, b"GET / HTTP/1.1\r\nHost: app\xff.test\r\n\r\n", &[400]).await;
    let absolute = "GET http://user@app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_refused(&proxy, absolute, &[400]).await;
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_017_absolute_form_beats_host() {
    let (named, other) = (Backend::replying("named").await, Backend::replying("other").await);
    let proxy = Proxy::with(|settings| {
        settings.unrouted().backends(&[other.address]);
        settings.host("named.test", "named", &[named.address]);
        settings.host("other.test", "other", &[other.address]);
    })
    .await;
    let request = "GET http://named.test/x?y=1 HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let reply = Raw::ask(proxy.web(), request).await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "named"));
    let seen = &named.requests()[0];
    assert_eq!(seen.start, "GET /x?y=1 HTTP/1.1");
    assert_eq!(seen.all("host"), ["named.test"]);
    assert_eq!(seen.all("x-forwarded-host"), ["named.test"]);
    assert!(!named.saw("other.test"));
    other.assert_untouched();
    // Counterpart: without an authority, the Host field counts.
    let reply = Raw::ask(proxy.web(), "GET /x HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
    assert_eq!(reply.text(), "other");
    drop((named, other));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_018_fragment_in_target() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut kept = Vec::new();
    for target in ["/a#b", "/a?b#c", "/#", "/a?x=#/admin", "http://app.test/a#b"] {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        if reply.status() == 200 {
            kept.push(target.trim_start_matches("http://app.test").split('#').next().unwrap());
        } else {
            assert_eq!(reply.status(), 400, "{target}");
        }
    }
    // Rejected, or removed before forwarding: a client must not send this field.
    let seen: Vec<_> = backend.requests().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(seen, kept);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_019_underscore_alias() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let spoof = "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\n\
         x_forwarded_proto: gopher\r\nX_Forwarded-Host: evil.test\r\nX_Real_IP: 6.6.6.6\r\n";
    let reply = Raw::ask(proxy.web(), message::get("/", spoof)).await;
    assert_eq!(reply.status(), 200);
    let seen = &backend.requests()[0];
    for (name, value) in &seen.headers {
        let claims = ["6.6.6.6", "gopher", "evil.test"];
        assert!(!claims.iter().any(|claim| value.contains(claim)), "{name}: {value}");
        assert!(!name.contains('_'), "{name}: {value}");
    }
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_020_long_target_and_large_header() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let target = format!("/{}", "a".repeat(100_000));
    assert_refused(&proxy, message::get(&target, ""), &[414, 431]).await;
    let huge = format!("X-Huge: {}\r\n", "a".repeat(1_000_000));
    assert_refused(&proxy, message::get("/", &huge), &[431]).await;
    let many: String = (0..2000).map(|n| format!("X-{n}: a\r\n")).collect();
    assert_refused(&proxy, message::get("/", &many), &[431]).await;
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    // The header sizes that Node.js accepts must pass: 8 KiB of cookies, a long query.
    let large = format!("Cookie: a={}\r\n", "b".repeat(8000));
    let query = format!("/?q={}", "a".repeat(4000));
    assert_eq!(Raw::ask(proxy.web(), message::get(&query, &large)).await.status(), 200);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_021_body_shorter_than_announced() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let head = "POST /upload HTTP/1.1\r\nHost: app.test\r\n";
    let fixed = format!("{head}Content-Length: 100\r\n\r\n0123456789");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n");
    let torn = format!("{head}Transfer-Encoding: chunked\r\n\r\nff\r\n0123456789");
    let mut index = 0;
    for request in [fixed, chunked, torn] {
        for by_reset in [false, true] {
            let mut client = Raw::connect(proxy.web()).await;
            client.send(&request).await;
            let peer = backend.peer(index).await;
            eventually("the body's beginning", || backend.saw("0123456789")).await;
            if by_reset {
                client.reset();
            } else {
                client.finish().await;
                let (bytes, _) = client.rest().await;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(bytes.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
            }
            // The backend must be able to detect that the body is incomplete.
            peer.ended().await;
            let received = backend.bytes(index);
            assert!(
                Message::read(&received).is_none(),
                "the incomplete body was ended as complete"
            );
            index += 1;
        }
    }
    assert_eq!(backend.connections(), index, "the request was retried, or its connection reused");
    drop(backend);
    proxy.finish().await;
}

/// Answers `/upload` before its body arrives and then reads the body; answers all other requests with 200.
async fn answers_early(status: &'static str) -> Backend {
    Backend::start(backend::script(move |peer| async move {
        while let Some(request) = peer.head().await {
            if request.target() != "/upload" {
                peer.send(message::ok("other")).await;
                continue;
            }
            peer.send(message::reply(status, "", "no")).await;
            let length = request.header("content-length").unwrap().parse().unwrap();
            if !peer.skip(length).await {
                return;
            }
        }
    }))
    .await
}

#[tokio::test]
async fn fault_023_early_final_response_to_expect() {
    let backend = answers_early("401 Unauthorized").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let body = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut client = Raw::connect(proxy.web()).await;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.text().as_str()), (401, "no"));
    // These bytes are the announced body: the connection is closed, or still in sync.
    let after = message::get("/after", "Connection: close\r\n");
    client.try_send([body.as_bytes(), &after[..]].concat()).await;
    let (rest, _) = client.rest().await;
    if let Some((reply, taken)) = Message::read(&rest) {
        assert_eq!((reply.text().as_str(), taken), ("other", rest.len()));
    }
    let reply = Raw::ask(proxy.web(), message::get("/beside", "")).await;
    assert_eq!(reply.text(), "other");
    let seen = backend.requests();
    assert!(seen.iter().all(|request| request.target() != "/smuggled"), "{seen:?}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_024_rejected_before_the_body_was_read() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.host("app.test", "other", &[backend.address]);
    })
    .await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let length = smuggled.len();
    for (head, status) in [
        (format!("POST / HTTP/1.1\r\nHost: unknown.test\r\nContent-Length: {length}\r\n\r\n"), 404),
        (format!("TRACE / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n"), 405),
        (format!("POST /../ HTTP/1.1\r\nHost: a@b\r\nContent-Length: {length}\r\n\r\n"), 400),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: unknown.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {length:x}\r\n"
            ),
            404,
        ),
    ] {
        // The body after the reply, then in one piece with the header.
        for late in [true, false] {
            let mut client = Raw::connect(proxy.web()).await;
            client.send(if late { head.clone() } else { format!("{head}{smuggled}") }).await;
            assert_eq!(client.response().await.status(), status, "{head}");
            if late {
                client.try_send(smuggled).await;
            }
            client.assert_closed().await;
        }
    }
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_024_backend_answers_before_the_body_is_there() {
    let backend = answers_early("413 Content Too Large").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut client = Raw::connect(proxy.web()).await;
    let length = smuggled.len();
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n");
    client.send(head).await;
    assert_eq!(client.response().await.status(), 413);
    client.try_send(smuggled).await;
    // Whether the rest is read or the connection closed, the bytes must not become a request.
    client.finish().await;
    client.assert_closed().await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/after", "")).await.text(), "other");
    let targets: Vec<_> = backend.requests().iter().map(|r| r.target().to_owned()).collect();
    assert!(!targets.contains(&"/smuggled".to_owned()), "{targets:?}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_025_connect_and_trace() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let target = backend.address;
    for request in [
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        "CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n".to_owned(),
        "TRACE / HTTP/1.1\r\nHost: app.test\r\nCookie: secret\r\n\r\n".to_owned(),
    ] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(&request).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 405, "{request}");
        assert!(!reply.text().contains("secret"), "{}", reply.text());
        // No tunnel: the following bytes reach no backend.
        client.try_send("PING").await;
        client.finish().await;
        client.rest().await;
    }
    assert_only_a_valid_request_passes(&proxy, &backend).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_026_framing_and_auth_in_trailers() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let trailers = "Content-Length: 99\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\n\
         Authorization: Basic evil\r\nCookie: evil=1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Sum: abc\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, Host, Authorization\r\n\r\n4\r\nbody\r\n0\r\n{trailers}\r\n"
    );
    let mut client = Raw::connect(proxy.web()).await;
    client.send(request).await;
    assert_eq!(client.response().await.status(), 200);
    let seen = &backend.requests()[0];
    assert_eq!(seen.body, b"body");
    for (name, value) in &seen.trailers {
        assert!(name.eq_ignore_ascii_case("x-sum"), "trailer {name}: {value}");
    }
    assert!(!backend.saw("evil") && !backend.saw("6.6.6.6"));
    // The connection is still in sync.
    client.send(message::get("/next", "")).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(backend.requests().len(), 2);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_029_paths_that_normalize_to_other_paths() {
    let (public, admin) = (Backend::replying("public").await, Backend::replying("admin").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[public.address]);
        settings.table(&format!(
            "[[routes]]\npath = \"/admin\"\npool = \"admin\"\n[pools.admin]\n\
             backends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n",
            admin.address
        ));
    })
    .await;
    for path in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/%2E%2E%2Fadmin/x",
        "/./admin/x",
        "/%2e/admin/x",
        "//admin/x",
        "/public/..;/admin/x",
        "/public\\..\\admin/x",
        "/public/..%5cadmin/x",
        "/%61dmin/x",
        "/admin%00/x",
        "/admin%2fx",
        "/ADMIN/x",
    ] {
        let reply = Raw::ask(proxy.web(), message::get(path, "")).await;
        if reply.status() == 400 {
            continue;
        }
        assert_eq!(reply.status(), 200, "{path}");
        // If accepted, the path is forwarded as sent and routed as any backend would read it.
        let backend = if reply.text() == "admin" { &admin } else { &public };
        let target = backend.requests().last().unwrap().target().to_owned();
        assert_eq!(target, path);
        let lower = target.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
        let read = lower.replace("%61", "a").replace("//", "/");
        let inside = read == "/admin" || read.starts_with("/admin/");
        let inside = inside && !target.contains("ADMIN");
        assert_eq!(inside, reply.text() == "admin", "{path} went to {}", reply.text());
        let has_dots = lower.replace("%5c", "/").split('/').any(|s| s == "." || s == "..");
        assert!(!has_dots, "{path} was forwarded");
    }
    assert_eq!(Raw::ask(proxy.web(), message::get("/admin/x", "")).await.text(), "admin");
    assert_eq!(Raw::ask(proxy.web(), message::get("/administrator", "")).await.text(), "public");
    drop((public, admin));
    proxy.finish().await;
}

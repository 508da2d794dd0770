//! Paths, hosts, fields and the size of bodies.

use super::{get, routed, seen};
use crate::{
    client_auth::{ADA, connect, mutual},
    support::{
        Backend, Node, Proxy, Raw, message,
        node::{handshake_target, poll_target},
        proxy::Setup,
        websocket,
    },
};

#[tokio::test]
async fn a_prefix_is_stripped_for_the_backend_only() {
    let backend = Backend::replying("ok").await;
    let keys = "path = \"/app1\"\nrewrite = { strip_prefix = \"/app1\" }\n";
    let proxy = routed(&backend, keys).await;
    for (target, expected) in [
        ("/app1/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling"),
        ("/app1", "/"),
        ("/app1?x", "/?x"),
        ("//app1//x", "/x"),
        ("/%61pp1/%7Euser?a=%20", "/~user?a=%20"),
    ] {
        let request = seen(&proxy, &backend, target, "").await;
        assert_eq!(request.start, format!("GET {expected} HTTP/1.1"), "{target}");
        let line = proxy.wait_for_log("the line", |line| line["path"] == target).await;
        assert_eq!((&line["status"], &line["route"]), (&200.into(), &"/app1".into()));
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_pattern_and_a_host_are_rewritten() {
    let backend = Backend::replying("ok").await;
    let keys = "rewrite = { regex = { pattern = \"/users/([0-9]+)\", with = \"/u/$1\" }, host = \"users.internal\" }\n";
    let proxy = routed(&backend, keys).await;
    let request = seen(&proxy, &backend, "/users/7?x=1", "").await;
    assert_eq!(request.start, "GET /u/7?x=1 HTTP/1.1");
    assert_eq!(request.all("host"), ["users.internal"]);
    assert_eq!(request.all("x-forwarded-host"), ["app.test"]);
    let request = seen(&proxy, &backend, "/users/x", "").await;
    assert_eq!(request.start, "GET /users/x HTTP/1.1");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_path_is_replaced_whole_or_by_prefix() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(
            "[[routes]]\npath = \"/v1\"\npool = \"app\"\nrewrite.replace = { from = \"/v1\", to = \"/api/v2\" }\n",
        );
        settings.table("[[routes]]\npath = \"/health\"\npool = \"app\"\nrewrite.replace = \"/status\"\n");
    });
    let proxy = setup.start().await;
    for (target, expected) in [
        ("/v1/users?x=1", "/api/v2/users?x=1"),
        ("/v1", "/api/v2"),
        ("/health/deep?x=1", "/status?x=1"),
    ] {
        let request = seen(&proxy, &backend, target, "").await;
        assert_eq!(request.start, format!("GET {expected} HTTP/1.1"), "{target}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_rewritten_path_with_a_dot_segment_is_refused_before() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "rewrite = { strip_prefix = \"/app\" }\n").await;
    for target in ["/app/../admin", "/app/%2e%2e/admin", "/app/..;/admin", "/app\\..\\admin"] {
        assert_eq!(get(&proxy, target, "").await.status(), 400, "{target}");
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_stay_on_their_node_behind_a_stripped_prefix() {
    let nodes = [Node::start("a").await, Node::start("b").await];
    let addresses: Vec<_> = nodes.iter().map(|node| node.backend.address).collect();
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&addresses).pool("balance", "\"round-robin\"");
        settings.table(
            "[[routes]]\npath = \"/chat\"\npool = \"app\"\nrewrite = { strip_prefix = \"/chat\" }\n",
        );
    });
    let proxy = setup.start().await;
    let mut nodes_seen = Vec::new();
    for t in ["t0", "t1", "t2", "t3"] {
        let target = format!("/chat{}", handshake_target(t));
        let open = get(&proxy, &target, "").await;
        let text = open.text();
        let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
        for _ in 0..2 {
            let poll = get(&proxy, &format!("/chat{}", poll_target(sid, t)), "").await;
            assert_eq!((poll.status(), poll.header("x-node")), (200, open.header("x-node")));
        }
        nodes_seen.push(open.header("x-node").unwrap().to_owned());
    }
    assert!(nodes_seen.contains(&"a".to_owned()) && nodes_seen.contains(&"b".to_owned()));
    drop(nodes);
    proxy.finish().await;
}

#[tokio::test]
async fn fields_are_edited_in_both_directions() {
    let backend = Backend::answering(|_| {
        let fields = "Server: secret/1.0\r\nX-Powered-By: x\r\nVary: Accept\r\n";
        message::reply("200 OK", fields, "ok")
    })
    .await;
    let keys = r#"
        [routes.headers.request]
        remove = ["X-Debug"]
        set = { X-Client = "{client_ip}", X-Where = "{scheme}://{host}{path}{query}", X-Empty = "{sid_hash}" }
        append = { X-Seen = "moorline" }
        [routes.headers.response]
        remove = ["server", "X-Powered-By"]
        set = { X-Id = "{request_id}" }
        append = { Vary = "Accept-Language" }
    "#;
    let proxy = routed(&backend, keys).await;
    let fields = "X-Debug: 1\r\nX-Client: forged\r\nX-Empty: forged\r\nX-Seen: client\r\n";
    let reply = get(&proxy, "/a?b", fields).await;
    let request = backend.requests().last().unwrap().clone();
    assert!(request.all("x-debug").is_empty() && request.all("x-empty").is_empty());
    assert_eq!(request.all("x-client"), ["127.0.0.1"]);
    assert_eq!(request.all("x-where"), ["http://app.test/a?b"]);
    assert_eq!(request.all("x-seen"), ["client", "moorline"]);
    assert!(reply.header("server").is_none() && reply.header("x-powered-by").is_none());
    assert_eq!(reply.header("x-id"), request.header("x-request-id"));
    assert_eq!(reply.all("vary"), ["Accept", "Accept-Language"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fields_have_the_connection_and_the_session() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"").unrouted();
        settings.table(
            r#"
            [[routes]]
            pool = "app"
            [routes.headers.request.set]
            X-TLS = "{scheme} {tls_version} {tls_server_name}"
            X-Subject = "{certificate_subject}"
            X-Fingerprint = "{certificate_fingerprint}"
            X-Sid = "{sid_hash}"
            "#,
        );
    })
    .await;
    let mut ada = connect(&proxy, "client").await;
    for sid in ["first", "first", "second"] {
        ada.send(message::get(&poll_target(sid, "t"), "X-Subject: CN=eve\r\n")).await;
        ada.response().await;
    }
    let requests = backend.requests();
    let first = &requests[0];
    let tls = first.header("x-tls").unwrap();
    assert!(tls.starts_with("https TLSv1.3"), "{tls}");
    assert_eq!(first.all("x-subject"), [ADA]);
    assert_eq!(first.header("x-fingerprint").map(str::len), Some(64));
    let hashes: Vec<_> = requests.iter().map(|request| request.header("x-sid").unwrap()).collect();
    assert!(
        hashes[0] == hashes[1] && hashes[1] != hashes[2] && hashes[0].len() == 16,
        "{hashes:?}"
    );
    drop((ada, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fields_of_an_upgrade_are_edited_and_the_handshake_stays() {
    let backend = Backend::manual().await;
    let keys = "headers = { request = { set = { X-App = \"chat\" } }, response = { set = { X-Node = \"hidden\" } } }\n";
    let proxy = routed(&backend, keys).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/", "")).await;
    let peer = backend.peer(0).await;
    let request = peer.head().await.unwrap();
    assert_eq!(request.header("x-app"), Some("chat"));
    peer.send(websocket::switching(&request)).await;
    let reply = client.head().await;
    assert_eq!((reply.status(), reply.header("x-node")), (101, Some("hidden")));
    drop((client, peer, backend));
    proxy.finish().await;
}

/// A POST with a body of this length.
fn post(length: usize) -> String {
    let body = "x".repeat(length);
    format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A POST with one chunk of this length.
fn chunked(length: usize) -> String {
    let body = "x".repeat(length);
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{length:x}\r\n{body}\r\n0\r\n\r\n")
}

#[tokio::test]
async fn a_body_beyond_the_limit_gets_a_413() {
    let backend = Backend::replying("ok").await;
    let proxy: Proxy = routed(&backend, "max_body = 1000\n").await;
    for request in [post(1000), chunked(1000), post(0)] {
        assert_eq!(Raw::ask(proxy.web(), request).await.status(), 200);
    }
    let before = backend.requests().len();
    assert_eq!(Raw::ask(proxy.web(), post(1001)).await.status(), 413);
    assert_eq!(backend.requests().len(), before, "the length alone is enough");
    // The length is known only when the bytes arrive.
    assert_eq!(Raw::ask(proxy.web(), chunked(1001)).await.status(), 413);
    // The rest is not waited for.
    let mut endless = Raw::connect(proxy.web()).await;
    let begun = chunked(1001);
    endless.send(&begun[..begun.len() - 7]).await;
    assert_eq!(endless.response().await.status(), 413);
    drop(endless);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_cannot_remove_a_field_that_the_route_sets() {
    let backend = Backend::answering(|_| message::reply("200 OK", "", "")).await;
    let proxy = routed(&backend, "[routes.headers.request]\nset = { X-User = \"route\" }\n").await;
    let request =
        seen(&proxy, &backend, "/", "Connection: keep-alive, X-User\r\nX-User: forged\r\n");
    assert_eq!(request.await.header("x-user"), Some("route"));
    drop(backend);
    proxy.finish().await;
}

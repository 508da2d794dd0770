//! Unreachable backends: refused connections, dropped SYNs, unresolved names, all backends down.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;

use crate::support::{
    Backend, Blackhole, Proxy, Raw, Refusing, backend, eventually, message,
    proxy::Setup,
    websocket::{self, tunnel},
};

/// Probes every 100 ms and acts on the first result.
const QUICK_HEALTH: &str = "{ probe = \"tcp\", interval = \"100ms\", rise = 1, fall = 1 }";

#[tokio::test]
async fn fault_079_refused() {
    let (refusing, live) = (Refusing::new(), Backend::replying("live").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[refusing.address(), live.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    for round in 0..6 {
        let request = match round % 2 {
            0 => message::get("/", ""),
            // No byte was sent, so a request with any method can be retried.
            _ => message::post("/", "", "body"),
        };
        client.send(request).await;
        assert_eq!(client.response().await.text(), "live");
    }
    let bodies = live.requests().iter().filter(|request| request.body == b"body").count();
    assert_eq!((live.requests().len(), bodies), (6, 3));
    drop((client, live));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_079_refused_upgrade() {
    let (refusing, live) = (Refusing::new(), Backend::manual().await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[refusing.address(), live.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    for _ in 0..2 {
        let (mut client, peer) = tunnel(&proxy, &live).await;
        client.send("hello").await;
        peer.wait_for_rest(b"hello").await;
        client.finish().await;
        peer.ended().await;
        peer.close();
    }
    drop(live);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_079_refused_by_all() {
    let refusing: Vec<Refusing> = (0..40).map(|_| Refusing::new()).collect();
    let addresses: Vec<_> = refusing.iter().map(Refusing::address).collect();
    let proxy = Proxy::for_backends(&addresses).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "")).await;
    assert!([502, 503].contains(&reply.status()), "{}", reply.start);
    let retries = proxy.metric("moorline_retries_total").await;
    assert!((1.0..20.0).contains(&retries), "{retries} retries");
    proxy.finish().await;
}

#[tokio::test]
async fn the_only_backend_is_tried_once_without_a_retry() {
    let refusing = Refusing::new();
    let proxy = Proxy::for_backends(&[refusing.address()]).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "")).await;
    assert_eq!(reply.status(), 502);
    assert_eq!(proxy.metric("moorline_retries_total").await, 0.0);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_080_syn_blackhole() {
    let (hole, live) = (Blackhole::new(), Backend::replying("live").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[hole.address(), live.address]);
        settings.pool("balance", "\"round-robin\"").timeouts("connect = \"300ms\"");
        settings.host("hole.test", "hole", &[hole.address()]);
        settings.table("timeouts = { connect = \"300ms\" }\n");
    })
    .await;
    for request in [message::get("/", ""), message::post("/", "", "body")] {
        for _ in 0..2 {
            assert_eq!(Raw::ask(proxy.web(), &request).await.text(), "live");
        }
    }
    let started = Instant::now();
    let request = "GET / HTTP/1.1\r\nHost: hole.test\r\n\r\n";
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 504);
    assert!(started.elapsed() >= Duration::from_millis(300), "the connect was attempted");
    let line = |line: &serde_json::Value| line["status"] == 504;
    let line = proxy.wait_for_log("the blackhole's line", line).await;
    assert_eq!(line["termination"], "backend_connect_timed_out");
    drop(live);
    proxy.finish().await;
}

/// Starts a proxy with a private hosts file. Its only backend is `node.test` on this port.
async fn proxy_with_hosts_file(port: u16) -> (Proxy, PathBuf) {
    let setup = Setup::new();
    let hosts = setup.directory().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost node.test\n").unwrap();
    fs::write(setup.directory().join("nsswitch.conf"), "hosts: files\n").unwrap();
    let directory = setup.directory().display().to_string();
    // The mount is visible to this process only.
    let script = "mount --bind $0/hosts /etc/hosts \
         && { mount --bind $0/nsswitch.conf /etc/nsswitch.conf || true; } && exec \"$@\"";
    let proxy = setup
        .with(|settings| {
            settings.pool("backends", &format!("[\"node.test:{port}\"]"));
        })
        .wrapped_in(&["unshare", "--map-root-user", "--mount", "sh", "-c", script, &directory])
        .start()
        .await;
    (proxy, hosts)
}

#[tokio::test]
async fn fault_087_name_that_no_longer_resolves() {
    // Each request opens a new connection and so needs the address.
    let once =
        |text| backend::answering(move |_| message::reply("200 OK", "Connection: close\r\n", text));
    let backend = Backend::start(once("ok")).await;
    let port = backend.address.port();
    let (mut proxy, hosts) = proxy_with_hosts_file(port).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
    // Written in place: a bind mount shows the inode, not the path.
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let before = proxy.stderr().len();
    proxy
        .reload(|settings| {
            settings.top("drain", "\"11s\"");
        })
        .await;
    eventually("a warning about the name", || {
        proxy.stderr()[before..].iter().any(|line| line.contains("node.test"))
    })
    .await;
    for _ in 0..3 {
        let connections = backend.connections();
        let request = message::get("/", "Connection: close\r\n");
        assert_eq!(Raw::ask(proxy.web(), request).await.text(), "ok", "{}", proxy.stderr_text());
        assert_eq!(backend.connections(), connections + 1);
    }
    // The proxy uses the new address when the name resolves again.
    let elsewhere = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let elsewhere = Backend::on(elsewhere, once("elsewhere"));
    fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.2 node.test\n").unwrap();
    proxy.hangup();
    assert_new_address_is_used(&proxy).await;
    drop((backend, elsewhere));
    proxy.finish().await;
}

/// Waits until the backend that answers `elsewhere` gets requests.
async fn assert_new_address_is_used(proxy: &Proxy) {
    let deadline = Instant::now() + crate::support::TIMEOUT;
    let request = message::get("/", "Connection: close\r\n");
    while Raw::ask(proxy.web(), &request).await.text() != "elsewhere" {
        assert!(Instant::now() < deadline, "the new address is not used");
    }
}

#[tokio::test]
async fn fault_087_kept_connections_follow_the_name() {
    let backend = Backend::replying("ok").await;
    let port = backend.address.port();
    let (proxy, hosts) = proxy_with_hosts_file(port).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
    let elsewhere = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let elsewhere = Backend::on(elsewhere, backend::answering(|_| message::ok("elsewhere")));
    fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.2 node.test\n").unwrap();
    proxy.hangup();
    // Continuous traffic keeps the connection to the old address busy.
    assert_new_address_is_used(&proxy).await;
    drop((backend, elsewhere));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_088_all_down() {
    let refusing = [Refusing::new(), Refusing::new()];
    let proxy = Proxy::with(|settings| {
        settings.backends(&[refusing[0].address(), refusing[1].address()]);
        settings.pool("health", QUICK_HEALTH);
    })
    .await;
    proxy.wait_for_metric("both down", "moorline_backend_up", |up| up == 0.0).await;
    for request in [
        message::get("/", ""),
        message::post("/", "", "body"),
        websocket::request("/", ""),
        message::get("/socket.io/?EIO=4&transport=polling", ""),
    ] {
        let started = Instant::now();
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!(reply.status(), 503);
        let seconds: u32 = reply.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    let [back, _] = refusing;
    let backend = back.revive("back").await;
    proxy.wait_for_metric("one up", "moorline_backend_up", |up| up == 1.0).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "back");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_preflight_while_no_backend_is_up_lets_the_browser_read_the_503() {
    let refusing = Refusing::new();
    let proxy = Proxy::for_backends(&[refusing.address()]).await;
    let target = "/socket.io/?EIO=4&transport=polling";
    let origin = "Origin: https://page.test\r\n";
    let asks = "Access-Control-Request-Method: POST\r\n\
         Access-Control-Request-Headers: x-token,content-type\r\n";
    let preflight =
        |target: &str| format!("OPTIONS {target} HTTP/1.1\r\nHost: app.test\r\n{origin}{asks}\r\n");
    let reply = Raw::ask(proxy.web(), preflight(target)).await;
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://page.test"));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("x-token,content-type"));
    assert_eq!(reply.header("access-control-max-age"), Some("0"));
    let line = proxy.wait_for_log("the preflight's line", |line| line["status"] == 204).await;
    assert_eq!(line["id"].as_str(), reply.header("x-request-id"));
    // The request that the page sends next.
    let reply = Raw::ask(proxy.web(), message::post(target, origin, "4x")).await;
    assert!(matches!(reply.status(), 502 | 503), "{}", reply.start);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://page.test"));
    // Outside of Engine.IO paths, the proxy allows nothing on behalf of the application.
    let reply = Raw::ask(proxy.web(), preflight("/api/orders")).await;
    assert!(matches!(reply.status(), 502 | 503), "{}", reply.start);
    assert_eq!(reply.header("access-control-allow-methods"), None);
    proxy.finish().await;
}

//! Reloads that change listeners and backends during traffic.

use std::net::TcpListener;

use crate::{
    configuration::{assert_serves, drop_ref},
    support::{
        Backend, Node, Proxy, Raw, Refusing, eventually, message,
        node::{handshake, poll},
        process,
        proxy::Setup,
        websocket,
    },
};

#[tokio::test]
async fn fault_115_new_listener_cannot_bind() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let mut proxy = Proxy::for_backends(&[old.address]).await;
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let before = proxy.settings.clone();
    let mut wanted = before.clone();
    wanted.backends(&[new.address]);
    wanted.table(&format!(
        "[listeners.first]\nbind = \"127.0.0.1:0\"\n[listeners.extra]\nbind = \"{taken}\"\n"
    ));
    let descriptors = proxy.descriptors();
    proxy.refuses(&wanted.text(), &[&taken.to_string()]).await;
    assert_serves(&proxy, "old").await;
    assert_eq!(new.connections(), 0, "the rejected configuration was applied in part");
    eventually("the sockets of the rejected configuration are closed", || {
        proxy.descriptors() <= descriptors
    })
    .await;
    // The address is free now, so the same file is accepted.
    drop(holder);
    proxy.reload(|settings| *settings = wanted).await;
    assert_serves(&proxy, "new").await;
    let reply = Raw::ask(taken, message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "new");
    proxy.reload(|settings| *settings = before).await;
    drop((old, new));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_115_address_taken_at_start() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let setup = Setup::new().with(|settings| {
        settings.backends(&[taken]).listener("bind", &format!("\"{taken}\""));
    });
    let ended = setup.fails_to_start().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&taken.to_string()), "{}", ended.stderr);
}

#[tokio::test]
async fn fault_116_removed_listener() {
    let backend = Backend::manual().await;
    let mut before = None;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        before = Some(settings.clone());
        settings.table("[listeners.extra]\nbind = \"127.0.0.1:0\"\n");
    })
    .await;
    let before = before.unwrap();
    let extra = proxy.listener("extra");
    let mut tunnelled = Raw::connect(extra).await;
    tunnelled.send(websocket::request("/chat", "")).await;
    let tunnel_peer = backend.peer(0).await;
    let upgrade = tunnel_peer.head().await.unwrap();
    tunnel_peer.send(websocket::switching(&upgrade)).await;
    assert_eq!(tunnelled.response().await.status(), 101);
    let mut waiting = Raw::connect(extra).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(1).await;
    peer.request().await.unwrap();
    let mut idle = Raw::connect(extra).await;
    idle.send(message::get("/idle", "")).await;
    let third = backend.peer(2).await;
    third.request().await.unwrap();
    third.send(message::ok("ok")).await;
    idle.response().await;
    proxy.reload(|settings| *settings = before).await;
    eventually("the address refuses", || std::net::TcpStream::connect(extra).is_err()).await;
    // Idle connections are closed; requests and tunnels in progress continue.
    idle.assert_closed().await;
    peer.send(message::ok("in time")).await;
    assert_eq!(waiting.response().await.text(), "in time");
    waiting.assert_closed().await;
    tunnelled.send("still").await;
    tunnel_peer.wait_for_rest(b"still").await;
    // The other listener is not affected.
    let mut web = Raw::connect(proxy.web()).await;
    web.send(message::get("/web", "Connection: close\r\n")).await;
    let last = backend.peer_for("/web").await;
    last.send(message::ok("ok")).await;
    assert_eq!(web.response().await.text(), "ok");
    drop((tunnelled, waiting, idle, web, tunnel_peer, peer, third, last, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_117_backend_removed_and_added_again() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let (first, second) = (a.backend.address, b.backend.address);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[first, second]).pool("balance", "\"round-robin\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = loop {
        let session = handshake(&mut client, "seek", "").await;
        if session.node == "b" {
            break session;
        }
    };
    let cookie = crate::support::node::cookie_field(session.cookie.as_ref().unwrap());
    for round in 0..3 {
        proxy.reload(|settings| drop_ref(settings.backends(&[first]))).await;
        let reply = poll(&mut client, &session.sid, &format!("away{round}"), "").await;
        assert_eq!(reply.header("x-node"), Some("b"));
        // At another position of the list.
        proxy.reload(|settings| drop_ref(settings.backends(&[second, first]))).await;
        let reply = poll(&mut client, &session.sid, &format!("back{round}"), "").await;
        assert_eq!(reply.header("x-node"), Some("b"));
        for _ in 0..3 {
            assert_eq!(handshake(&mut client, "cookie", &cookie).await.node, "b");
        }
    }
    assert_eq!(a.request_count(&session.sid), 0, "an owner search was needed");
    assert!(proxy.log_lines().iter().all(|line| line["chosen_by"] != "owner_search"));
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_117_health_is_kept() {
    let (live, extra) = (Backend::replying("live").await, Backend::replying("live").await);
    let refusing = Refusing::new();
    let (first, second) = (live.address, refusing.address());
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[first, second, extra.address]).pool("balance", "\"round-robin\"");
        // Only the first health check runs within this test; after it, requests detect that the backend is down.
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", rise = 1, fall = 1 }");
    })
    .await;
    for _ in 0..4 {
        Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    }
    let down = format!("moorline_backend_up{{pool=\"app\",backend=\"{second}\"}}");
    proxy.wait_for_metric("the backend is down", &down, |up| up == 0.0).await;
    // A change of other settings does not change the state of this backend.
    let backend = refusing.revive("back").await;
    proxy.reload(|settings| drop_ref(settings.backends(&[first, second]))).await;
    assert_eq!(proxy.metric(&down).await, 0.0);
    assert!(proxy.metrics().await.contains(&down));
    for _ in 0..4 {
        assert_serves(&proxy, "live").await;
    }
    assert_eq!(backend.connections(), 0);
    drop((live, extra, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_118_storm_of_hangups() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let setup = Setup::new().with(|settings| drop_ref(settings.backends(&[old.address])));
    let mut proxy = setup.env("RUST_LOG", "moorline=debug").start().await;
    assert_serves(&proxy, "old").await;
    let descriptors = proxy.descriptors();
    for _ in 0..200 {
        proxy.hangup();
    }
    proxy.rewrite(|settings| drop_ref(settings.backends(&[new.address])));
    proxy.hangup();
    let deadline = std::time::Instant::now() + crate::support::TIMEOUT;
    let request = message::get("/", "Connection: close\r\n");
    while Raw::ask(proxy.web(), &request).await.text() != "new" {
        assert!(std::time::Instant::now() < deadline, "the last SIGHUP was lost");
    }
    let reloads = proxy.stderr().iter().filter(|line| line.contains("reloaded")).count();
    assert!((1..50).contains(&reloads), "{reloads} reloads for 201 signals");
    eventually("no descriptor is leaked", || proxy.descriptors() <= descriptors).await;
    drop((old, new));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_119_reload_under_tunnels() {
    let echo = Backend::start(websocket::echo()).await;
    let other = Refusing::new();
    let mut proxy = Proxy::for_backends(&[echo.address]).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request("/chat", "")).await;
        assert_eq!(client.response().await.status(), 101);
        clients.push(client);
    }
    let pid = proxy.pid();
    for round in 0..12 {
        for client in &mut clients {
            client.send("before").await;
        }
        let address = echo.address;
        proxy
            .reload(|settings| match round % 4 {
                0 => drop_ref(
                    settings
                        .timeouts(&format!("connect = \"{}s\", tunnel_idle = \"1h\"", round + 1)),
                ),
                1 => drop_ref(settings.backends(&[other.address(), address])),
                2 => drop_ref(settings.pool(
                    "backends",
                    &format!("[{{ address = \"{address}\", weight = {} }}]", round + 1),
                )),
                _ => drop_ref(settings.backends(&[address])),
            })
            .await;
        for client in &mut clients {
            assert_eq!(client.exact(6).await, b"before", "round {round}");
            client.send("after").await;
            assert_eq!(client.exact(5).await, b"after", "round {round}");
        }
    }
    assert!(proxy.is_running() && proxy.pid() == pid);
    assert_eq!(process::children(pid), Vec::<u32>::new(), "a second process");
    assert_eq!(echo.connections(), 50);
    drop((clients, echo));
    proxy.finish().await;
}

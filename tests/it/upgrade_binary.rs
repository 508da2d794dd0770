//! Upgrades to a new binary: sessions, tunnels and traffic continue.

mod failures;
mod reply;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::support::{
    Backend, Node, Proxy, Raw, eventually, message,
    node::{cookie_field, handshake_target, poll, poll_target},
    pair::Pair,
    process,
    proxy::{Setup, TUNNELS},
    wait_for, websocket,
};

const SESSIONS: &str = "moorline_backend_sessions";

#[tokio::test]
async fn sessions_are_handed_over_and_tunnels_stay() {
    let mut pair = Pair::start().await;
    let polling = pair.session_on("b").await;
    let upgraded = pair.session_on("a").await;
    let mut tunnel = pair.client().await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", upgraded.sid);
    tunnel.send(websocket::request(&target, "")).await;
    assert_eq!(tunnel.response().await.status(), 101);
    let mut kept = pair.client().await;
    assert_eq!(poll(&mut kept, &polling.sid, "before", "").await.header("x-node"), Some("b"));
    let old = pair.proxy.upgrade().await;
    assert_ne!(pair.proxy.pid(), old);
    // The backend of the session answers the next poll, without an owner search.
    let mut client = pair.client().await;
    let reply = poll(&mut client, &polling.sid, "after", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
    assert_eq!(pair.chosen_by("after").await, "sid");
    // The session with a tunnel was handed over too.
    let reply = poll(&mut client, &upgraded.sid, "too", "").await;
    assert_eq!(reply.header("x-node"), Some("a"));
    assert_eq!(pair.chosen_by("too").await, "sid");
    // The old process answers one more request on a keep-alive connection and then closes it.
    let reply = poll(&mut kept, &polling.sid, "kept", "").await;
    assert_eq!((reply.header("x-node"), reply.header("connection")), (Some("b"), Some("close")));
    kept.assert_closed().await;
    // A cookie from before the upgrade selects the same backend.
    let cookie = cookie_field(polling.cookie.as_ref().unwrap());
    for session in pair.spread("cookie", &cookie).await {
        assert_eq!(session.node, "b");
    }
    // The tunnel stays in the old process.
    assert!(process::is_running(old));
    tunnel.send("still").await;
    wait_for("the tunnel's bytes", || pair.a.backend.saw("still").then_some(())).await;
    // The new process has no tunnel.
    assert_eq!(pair.proxy.metric(TUNNELS).await, 0.0);
    drop((client, kept, tunnel));
    pair.proxy.wait_for_predecessors().await;
    pair.finish().await;
}

#[tokio::test]
async fn upgrade_command_reports_the_new_process_and_status_the_old_ones() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let (mut open, far) = websocket::tunnel(&proxy, &backend).await;
    let first = proxy.pid();
    for _ in 0..2 {
        let from = proxy.stderr().len();
        let ran = proxy.command(&["upgrade", env!("CARGO_BIN_EXE_moorline")]).await;
        let output = ran.done();
        proxy.wait_for_successor(from).await;
        assert!(output.contains(&proxy.pid().to_string()), "{output}");
        // The new process has the admin socket, and lists all predecessors.
        let status = proxy.api().get("/v1/status").await;
        assert_eq!(status["pid"], proxy.pid());
        let deadline = std::time::Instant::now() + crate::support::TIMEOUT;
        loop {
            let status = proxy.api().get("/v1/status").await;
            let list = status["predecessors"].as_array().unwrap();
            if list.iter().any(|p| p["pid"] == first && p["drain"]["sockets_left"] == 1) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    proxy.command(&["upgrade", "/no/such/binary"]).await.refused("cannot be started");
    open.send("still").await;
    far.wait_for_rest(b"still").await;
    open.finish().await;
    far.ended().await;
    far.close();
    open.assert_closed().await;
    proxy.wait_for_predecessors().await;
    // The old processes have not removed the socket file.
    assert_eq!(proxy.api().get("/v1/status").await["pid"], proxy.pid());
    drop((open, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn new_process_resumes_tls_sessions() {
    let backend = Backend::replying("ok").await;
    let (mut proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    let secure = proxy.listener("secure");
    let client = certificate.resuming_client();
    let resumed = "moorline_tls_handshakes_total{listener=\"secure\",session=\"resumed\"";
    for round in 0..2 {
        let mut stream = client.connect(secure).await;
        stream.write_all(&message::get("/", "Connection: close\r\n")).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
        if round == 0 {
            proxy.upgrade().await;
        }
    }
    assert_eq!(proxy.metric(resumed).await, 1.0, "{}", proxy.metrics().await);
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn no_connection_or_request_fails_during_five_upgrades() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let (web, over) = (proxy.web(), Arc::new(AtomicBool::new(false)));
    let (fresh, kept) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (done, count) = (Arc::clone(&over), Arc::clone(&fresh));
        clients.spawn(async move {
            while !done.load(SeqCst) {
                let reply = Raw::ask(web, message::get("/", "Connection: close\r\n")).await;
                assert_eq!(reply.text(), "ok");
                count.fetch_add(1, SeqCst);
            }
        });
        let (done, count) = (Arc::clone(&over), Arc::clone(&kept));
        clients.spawn(async move {
            let mut client = Raw::connect(web).await;
            while !done.load(SeqCst) {
                client.send(message::get("/", "")).await;
                let reply = client.response().await;
                assert_eq!(reply.text(), "ok");
                count.fetch_add(1, SeqCst);
                if reply.header("connection") == Some("close") {
                    client = Raw::connect(web).await;
                } else if fastrand::bool() {
                    // The proxy must not close an idle connection while the client sends a request.
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                }
            }
        });
    }
    let mut pids = vec![proxy.pid()];
    for round in 1..=5 {
        let (a, b) = (fresh.load(SeqCst) + 20, kept.load(SeqCst) + 20);
        eventually("traffic", || fresh.load(SeqCst) > a && kept.load(SeqCst) > b).await;
        proxy.upgrade().await;
        pids.push(proxy.pid());
        assert_eq!(pids.len(), round + 1);
        pids.dedup();
    }
    assert_eq!(pids.len(), 6);
    let (a, b) = (fresh.load(SeqCst) + 20, kept.load(SeqCst) + 20);
    eventually("traffic", || fresh.load(SeqCst) > a && kept.load(SeqCst) > b).await;
    over.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    // All old processes end.
    proxy.wait_for_predecessors().await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn session_opened_after_the_transfer_is_sent_to_the_new_process() {
    let (a, b) = (Backend::manual().await, Node::start("other").await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[a.address, b.backend.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    // A handshake in progress in the old process.
    let mut opening = Raw::connect(proxy.web()).await;
    opening.send(message::get(&handshake_target("late"), "")).await;
    let mut first = Raw::connect(proxy.web()).await;
    first.send(message::get(&handshake_target("late"), "")).await;
    let peer = a.peer(0).await;
    peer.request().await.unwrap();
    proxy.upgrade().await;
    let sessions = proxy.metric(SESSIONS).await;
    let sid = "late-session-00000001";
    let open = format!(
        "0{{\"sid\":\"{sid}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}"
    );
    peer.send(message::ok(&open)).await;
    proxy.wait_for_metric("the session is known", SESSIONS, |count| count > sessions).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get(&poll_target(sid, "poll"), "")).await;
    let asked = a.peer_for(&poll_target(sid, "poll")).await;
    asked.send(message::ok("6")).await;
    assert_eq!(client.response().await.text(), "6");
    assert_eq!(b.request_count(sid), 0, "the session was searched for");
    drop((opening, first, client, peer, asked, a, b));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn old_process_answers_a_request_in_progress() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    let old = proxy.upgrade().await;
    assert!(process::is_running(old));
    peer.send(message::ok("in time")).await;
    let reply = waiting.response().await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("in time", Some("close")));
    waiting.assert_closed().await;
    proxy.wait_for_predecessors().await;
    drop((peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn new_process_listens_on_the_addresses_of_the_new_configuration() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.table("[listeners.leaves]\nbind = \"127.0.0.1:0\"\n");
    })
    .await;
    let (web, leaves) = (proxy.web(), proxy.listener("leaves"));
    let mut settings = crate::support::Settings::new(proxy.directory());
    settings.backends(&[backend.address]);
    settings.table("[listeners.comes]\nbind = \"127.0.0.1:0\"\n");
    proxy.write(&settings.text());
    proxy.upgrade().await;
    assert_eq!(proxy.web(), web);
    let reply = Raw::ask(proxy.listener("comes"), message::get("/", "")).await;
    assert_eq!(reply.text(), "ok");
    eventually("the old address refuses connections", || {
        std::net::TcpStream::connect(leaves).is_err()
    })
    .await;
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn draining_backend_keeps_its_sessions_over_an_upgrade() {
    let mut pair = Pair::start().await;
    let session = pair.session_on("b").await;
    let remaining = [pair.a.backend.address];
    pair.proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    pair.proxy.upgrade().await;
    let mut client = pair.client().await;
    let reply = poll(&mut client, &session.sid, "kept", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
    assert_eq!(pair.chosen_by("kept").await, "sid");
    for session in pair.spread("fresh", "").await {
        assert_eq!(session.node, "a");
    }
    drop(client);
    pair.proxy.wait_for_predecessors().await;
    pair.finish().await;
}

#[tokio::test]
async fn backend_stays_down_over_an_upgrade() {
    let live = Backend::replying("ok").await;
    let refusing = crate::support::Refusing::new();
    let second = refusing.address();
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[live.address, second]).pool("balance", "\"round-robin\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", rise = 1, fall = 1 }");
    })
    .await;
    let down = format!("moorline_backend_up{{pool=\"app\",backend=\"{second}\"}}");
    proxy.wait_for_metric("the backend is down", &down, |up| up == 0.0).await;
    let before = refusing.revive("back").await;
    proxy.upgrade().await;
    // The backend is down until the first probe of the new process.
    proxy.wait_for_metric("the backend is up", &down, |up| up == 1.0).await;
    drop((live, before));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn proxy_without_a_file_is_upgraded_with_its_flags() {
    let backend = Backend::replying("ok").await;
    let address = backend.address.to_string();
    let words =
        ["proxy", "--backend", &address, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let mut proxy = Setup::new().arguments(&words).run().await;
    let web = proxy.listener("http");
    proxy.upgrade().await;
    assert_eq!(proxy.listener("http"), web);
    let reply = Raw::ask(web, message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy.wait_for_predecessors().await;
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

#[cfg(feature = "demo")]
#[tokio::test]
async fn demo_cannot_be_upgraded() {
    let words = ["demo", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"];
    let mut proxy = Setup::new().arguments(&words).run().await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("its nodes run in the same process"), "{why}");
    assert!(proxy.is_running());
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

//! Handing over to a new binary, while clients come, poll and talk.

use std::{
    net::SocketAddr,
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
    node::{cookie_field, handshake, handshake_target, poll, poll_target},
    pair::Pair,
    process,
    proxy::{Setup, TUNNELS, is_ready},
    wait_for, websocket,
};

const SESSIONS: &str = "moorline_backend_sessions";

/// A binary that never says anything.
const HANGS: &str = "exec sleep 1000";

/// What a script says to the old process: a message's length, no descriptor, and its text.
fn speaks(text: &str) -> String {
    format!("printf '\\000\\000\\000\\{:03o}\\000%s' '{text}' >&0", text.len())
}

/// A configuration in which a new process has little time and an old one enough.
fn hasty(setup: Setup) -> Setup {
    setup.with(|settings| {
        settings.top("upgrade", "{ ready = \"1s\", drain = \"60s\" }");
    })
}

/// A proxy before these backends that was started by a link, with little time for a new process.
async fn installed(addresses: &[SocketAddr]) -> Proxy {
    let setup = hasty(Setup::new().installed());
    setup
        .with(|settings| {
            settings.backends(addresses).pool("balance", "\"round-robin\"");
        })
        .start()
        .await
}

/// Asserts that the process is the one that it was, has nothing left of a failed upgrade, serves, and
/// can be upgraded still.
async fn assert_unharmed(proxy: &mut Proxy, pid: u32, descriptors: usize) {
    assert_eq!(proxy.pid(), pid);
    assert!(proxy.is_running(), "{}", proxy.stderr_text());
    eventually("no process is left", || process::children(pid).is_empty()).await;
    eventually("no descriptor is left", || proxy.descriptors() <= descriptors).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy.install(None);
    assert_eq!(proxy.upgrade().await, pid);
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy.wait_for_predecessors().await;
}

#[tokio::test]
async fn sessions_cross_and_tunnels_stay() {
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
    // Its next poll is answered by its node, and nobody had to search.
    let mut client = pair.client().await;
    let reply = poll(&mut client, &polling.sid, "after", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
    assert_eq!(pair.chosen_by("after").await, "sid");
    // Both have crossed, the one with a tunnel too.
    let reply = poll(&mut client, &upgraded.sid, "too", "").await;
    assert_eq!(reply.header("x-node"), Some("a"));
    assert_eq!(pair.chosen_by("too").await, "sid");
    // A connection that was kept is answered once more, and then its client is sent over.
    let reply = poll(&mut kept, &polling.sid, "kept", "").await;
    assert_eq!((reply.header("x-node"), reply.header("connection")), (Some("b"), Some("close")));
    kept.assert_closed().await;
    // A cookie of before names the same node.
    let cookie = cookie_field(polling.cookie.as_ref().unwrap());
    for session in pair.spread("cookie", &cookie).await {
        assert_eq!(session.node, "b");
    }
    // The tunnel lives on where it was.
    assert!(process::is_running(old));
    tunnel.send("still").await;
    wait_for("the tunnel's bytes", || pair.a.backend.saw("still").then_some(())).await;
    // New ones are in the new process.
    assert_eq!(pair.proxy.metric(TUNNELS).await, 0.0);
    drop((client, kept, tunnel));
    pair.proxy.wait_for_predecessors().await;
    pair.finish().await;
}

#[tokio::test]
async fn an_operator_orders_it_and_sees_how_far_the_old_one_is() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let (mut open, far) = websocket::tunnel(&proxy, &backend).await;
    let first = proxy.pid();
    for _ in 0..2 {
        let from = proxy.stderr().len();
        let ran = proxy.command(&["upgrade", env!("CARGO_BIN_EXE_moorline")]).await;
        let said = ran.done();
        proxy.wait_for_successor(from).await;
        assert!(said.contains(&proxy.pid().to_string()), "{said}");
        // The new one has the socket now, and says who is before it: all of them.
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
    // The old ones' ends have left the socket where it is.
    assert_eq!(proxy.api().get("/v1/status").await["pid"], proxy.pid());
    drop((open, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn tls_sessions_are_resumed_by_the_new_process() {
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
async fn no_connection_and_no_request_is_refused_over_five_upgrades() {
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
                    // An idle connection must not be closed on a request that is being sent.
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
    // Nobody but the last one is left.
    proxy.wait_for_predecessors().await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_that_is_learned_late_is_told() {
    let (a, b) = (Backend::manual().await, Node::start("other").await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[a.address, b.backend.address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    // A handshake that is under way in the old process.
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
    proxy.wait_for_metric("it is known", SESSIONS, |count| count > sessions).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get(&poll_target(sid, "poll"), "")).await;
    let asked = a.asked(&poll_target(sid, "poll")).await;
    asked.send(message::ok("6")).await;
    assert_eq!(client.response().await.text(), "6");
    assert_eq!(b.request_count(sid), 0, "it had to be searched for");
    drop((opening, first, client, peer, asked, a, b));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_poll_in_flight_is_answered_by_the_old_process() {
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
async fn what_the_new_configuration_asks_for_is_what_is_listened_on() {
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
    eventually("the old address refuses", || std::net::TcpStream::connect(leaves).is_err()).await;
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_on_its_way_out_keeps_its_sessions_over_an_upgrade() {
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
async fn a_backend_that_is_down_is_down_after_an_upgrade() {
    let live = Backend::replying("ok").await;
    let refusing = crate::support::Refusing::new();
    let second = refusing.address();
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[live.address, second]).pool("balance", "\"round-robin\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", rise = 1, fall = 1 }");
    })
    .await;
    let down = format!("moorline_backend_up{{pool=\"app\",backend=\"{second}\"}}");
    proxy.wait_for_metric("it is down", &down, |up| up == 0.0).await;
    let before = refusing.revive("back").await;
    proxy.upgrade().await;
    // The first probe of the new process brings it up, and nothing before that.
    proxy.wait_for_metric("it is up", &down, |up| up == 1.0).await;
    drop((live, before));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_proxy_without_a_file_is_upgraded_by_its_flags() {
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
async fn a_demo_is_not_upgraded() {
    let words = ["demo", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"];
    let mut proxy = Setup::new().arguments(&words).run().await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("the demo's nodes live in this process"), "{why}");
    assert!(proxy.is_running());
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

#[tokio::test]
async fn fault_122_new_process_crashes() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let crashes = [
        ("exit 3", "ended with exit status: 3"),
        ("kill -SEGV $$", "ended with signal: 11"),
        ("exit 0", "ended with exit status: 0"),
        // It dies in the middle of what it is told.
        ("head -c 20 >/dev/null; exit 4", "ended with exit status: 4"),
    ];
    for (script, words) in crashes {
        proxy.install(Some(script));
        let why = proxy.fails_to_upgrade().await;
        assert!(why.contains(words), "{script}: {why}");
    }
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_hangs() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    proxy.install(Some(HANGS));
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("was not ready within 1s, and was killed"), "{why}");
    // One that speaks the protocol to its middle.
    let hello = "{\"Hello\":{\"protocol\":1,\"version\":\"9.9\"}}";
    proxy.install(Some(&format!("{}; {HANGS}", speaks(hello))));
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("was not ready within 1s, and was killed"), "{why}");
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_binary_cannot_be_executed() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let place = proxy.directory().join("moorline");
    std::fs::remove_file(&place).unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: No such file"), "{why}");
    std::fs::write(&place, "no program").unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: Permission denied"), "{why}");
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: "), "{why}");
    std::fs::remove_dir(&place).unwrap();
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_speaks_something_else() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let other = "{\"Hello\":{\"protocol\":7,\"version\":\"9.9\"}}";
    let speaks = |text: &str| format!("{}; {HANGS}", speaks(text));
    let cases = [
        ("echo hello >&0; exec sleep 1000".to_owned(), "this is no message of an upgrade"),
        (speaks(other), "it is moorline 9.9 and speaks version 7 of upgrades"),
        (speaks("\"Ready\""), "it says Ready out of turn"),
        (speaks("{\"Failed\":\"no thanks\"}"), "the new process gave up: no thanks"),
        (speaks("{\"Sing\":1}"), "a message is not understood"),
    ];
    for (script, words) in cases {
        proxy.install(Some(&script));
        let why = proxy.fails_to_upgrade().await;
        assert!(why.contains(words), "{script}: {why}");
    }
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_finds_its_configuration_broken() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let good = proxy.settings.text();
    proxy.refuses("listeners = 7\n", &["listeners"]).await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("the new process gave up: ") && why.contains("moorline.toml:1"), "{why}");
    // One that is right in itself, and cannot be put in force.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    proxy
        .refuses(
            &format!("{good}\n[listeners.x]\nbind = \"{taken}\"\n"),
            &["listener x: cannot listen on"],
        )
        .await;
    let why = proxy.fails_to_upgrade().await;
    assert!(
        why.contains(&format!("the new process gave up: listener x: cannot listen on {taken}")),
        "{why}"
    );
    drop(holder);
    proxy.write(&good);
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_one_upgrade_at_a_time() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    proxy.install(Some(HANGS));
    process::signal(pid, "USR2");
    eventually("it has begun", || !process::children(pid).is_empty()).await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("upgrade refused") && why.contains("an upgrade is under way"), "{why}");
    proxy
        .wait_for_stderr("the first one's end", |line| line.contains("was not ready within"))
        .await;
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_is_told_to_stop() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    proxy.install(Some("kill -TERM $$; exec sleep 1000"));
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("ended with signal: 15"), "{why}");
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_stop_ends_an_upgrade_that_is_under_way() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    proxy.install(Some(HANGS));
    let pid = proxy.pid();
    process::signal(pid, "USR2");
    let child = wait_for("it has begun", || process::children(pid).first().copied()).await;
    process::adopt_orphans();
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0), "{}", proxy.stderr_text());
    eventually("the new process is gone", || {
        let _ = process::orphan_status(child);
        !process::is_running(child)
    })
    .await;
}

#[tokio::test]
async fn an_old_process_that_is_killed_leaves_a_new_one_that_serves() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let proxy = installed(&[a.backend.address, b.backend.address]).await;
    let (pid, web) = (proxy.pid(), proxy.web());
    let mut client = Raw::connect(web).await;
    let session = handshake(&mut client, "open", "").await;
    // It waits before it becomes the real one.
    let (go, real) = (proxy.directory().join("go"), env!("CARGO_BIN_EXE_moorline"));
    let wait = format!("until [ -e {} ]; do sleep 0.02; done; exec {real} \"$@\"", go.display());
    proxy.install(Some(&wait));
    let from = proxy.stderr().len();
    process::signal(pid, "USR2");
    let new = wait_for("it has begun", || process::children(pid).first().copied()).await;
    proxy.wait_for_stderr("the offer", |line| line.contains("sockets are offered")).await;
    process::adopt_orphans();
    let proxy = proxy.with_successor(new);
    process::kill(pid);
    std::fs::write(go, "").unwrap();
    let said = |proxy: &Proxy| proxy.stderr()[from..].join("\n");
    eventually("the new one serves", || said(&proxy).lines().any(is_ready)).await;
    assert!(said(&proxy).contains("died before its sessions were here"), "{}", said(&proxy));
    let mut client = Raw::connect(web).await;
    let reply = poll(&mut client, &session.sid, "orphan", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some(session.node.as_str())));
    drop((client, a, b));
    process::signal(new, "TERM");
    let status = wait_for("its end", || process::orphan_status(new)).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.stderr_text());
}

#[tokio::test]
async fn fault_121_sigkill_and_restart() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let proxy = installed(&[a.backend.address, b.backend.address]).await;
    let web = proxy.web();
    let mut sessions = Vec::new();
    let mut client = Raw::connect(web).await;
    for n in 0..4 {
        sessions.push(handshake(&mut client, &format!("h{n}"), "").await);
    }
    // Connections that are cut, and linger in the kernel.
    let setup = proxy.crash().with(|settings| {
        settings.listener("bind", &format!("\"{web}\""));
    });
    client.rest().await;
    let proxy = setup.start().await;
    assert_eq!(proxy.web(), web);
    let mut client = Raw::connect(web).await;
    for (n, session) in sessions.iter().enumerate() {
        let reply = poll(&mut client, &session.sid, &format!("again{n}"), "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some(session.node.as_str())));
    }
    drop((client, a, b));
    proxy.finish().await;
}

//! Upgrades that fail: the new process crashes, hangs or cannot take over, and the old process continues
//! to serve.

use std::net::SocketAddr;

use crate::support::{
    Backend, Node, Proxy, Raw, eventually, message,
    node::{handshake, poll},
    process,
    proxy::{Setup, is_ready},
    wait_for,
};

/// A new process that sends nothing and does not end.
const HANGS: &str = "exec sleep 1000";

/// A shell command that sends a message to the old process.
fn send(text: &str) -> String {
    format!("printf '\\000\\000\\000\\{:03o}\\000%s' '{text}' >&0", text.len())
}

/// Sets a short time for the new process and a long one for the shutdown of the old process.
fn with_short_timeout(setup: Setup) -> Setup {
    setup.with(|settings| {
        settings.top("upgrade", "{ ready = \"1s\", drain = \"60s\" }");
    })
}

/// Starts a proxy through a link that the tests replace, with a short time for the new process.
async fn installed(addresses: &[SocketAddr]) -> Proxy {
    let setup = with_short_timeout(Setup::new().installed());
    setup
        .with(|settings| {
            settings.backends(addresses).pool("balance", "\"round-robin\"");
        })
        .start()
        .await
}

/// Asserts that the old process still serves, that a failed upgrade has left no child and no descriptor, and
/// that the next upgrade succeeds.
async fn assert_unharmed(proxy: &mut Proxy, pid: u32, descriptors: usize) {
    assert_eq!(proxy.pid(), pid);
    assert!(proxy.is_running(), "{}", proxy.stderr_text());
    eventually("the child is gone", || process::children(pid).is_empty()).await;
    eventually("the descriptors are closed", || proxy.descriptors() <= descriptors).await;
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy.install(None);
    assert_eq!(proxy.upgrade().await, pid);
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy.wait_for_predecessors().await;
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
        // The new process ends while it receives the offer.
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
    // The new process sends Hello and then hangs.
    let hello = "{\"Hello\":{\"protocol\":1,\"version\":\"9.9\"}}";
    proxy.install(Some(&format!("{}; {HANGS}", send(hello))));
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
    let path = proxy.directory().join("moorline");
    std::fs::remove_file(&path).unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: No such file"), "{why}");
    std::fs::write(&path, "no program").unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: Permission denied"), "{why}");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("cannot be started: "), "{why}");
    std::fs::remove_dir(&path).unwrap();
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_sends_invalid_messages() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let other = "{\"Hello\":{\"protocol\":7,\"version\":\"9.9\"}}";
    let send = |text: &str| format!("{}; {HANGS}", send(text));
    let cases = [
        ("echo hello >&0; exec sleep 1000".to_owned(), "not a message of the upgrade protocol"),
        (send(other), "moorline 9.9 uses version 7 of the upgrade protocol"),
        (send("\"Ready\""), "unexpected message Ready"),
        (send("{\"Failed\":\"no thanks\"}"), "the new process failed: no thanks"),
        (send("{\"Sing\":1}"), "invalid message: "),
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
async fn fault_122_configuration_is_invalid_for_the_new_process() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    let good = proxy.settings.text();
    proxy.refuses("listeners = 7\n", &["listeners"]).await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("the new process failed: ") && why.contains("moorline.toml:1"), "{why}");
    // A valid configuration that cannot be applied.
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
        why.contains(&format!("the new process failed: listener x: cannot listen on {taken}")),
        "{why}"
    );
    drop(holder);
    proxy.write(&good);
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_second_upgrade_is_rejected_during_the_first() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    let (pid, descriptors) = (proxy.pid(), proxy.descriptors());
    proxy.install(Some(HANGS));
    process::signal(pid, "USR2");
    eventually("the new process starts", || !process::children(pid).is_empty()).await;
    let why = proxy.fails_to_upgrade().await;
    assert!(why.contains("upgrade rejected") && why.contains("already in progress"), "{why}");
    proxy
        .wait_for_stderr("the end of the first upgrade", |line| {
            line.contains("was not ready within")
        })
        .await;
    assert_unharmed(&mut proxy, pid, descriptors).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_122_new_process_gets_sigterm() {
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
async fn shutdown_cancels_an_upgrade_in_progress() {
    let backend = Backend::replying("ok").await;
    let mut proxy = installed(&[backend.address]).await;
    proxy.install(Some(HANGS));
    let pid = proxy.pid();
    process::signal(pid, "USR2");
    let child =
        wait_for("the new process starts", || process::children(pid).first().copied()).await;
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
async fn new_process_serves_if_the_old_one_is_killed() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let proxy = installed(&[a.backend.address, b.backend.address]).await;
    let (pid, web) = (proxy.pid(), proxy.web());
    let mut client = Raw::connect(web).await;
    let session = handshake(&mut client, "open", "").await;
    // The new process waits for a file before it starts the real binary.
    let (go, real) = (proxy.directory().join("go"), env!("CARGO_BIN_EXE_moorline"));
    let wait = format!("until [ -e {} ]; do sleep 0.02; done; exec {real} \"$@\"", go.display());
    proxy.install(Some(&wait));
    let from = proxy.stderr().len();
    process::signal(pid, "USR2");
    let new = wait_for("the new process starts", || process::children(pid).first().copied()).await;
    proxy.wait_for_stderr("the offer", |line| line.contains("sockets sent")).await;
    process::adopt_orphans();
    let proxy = proxy.with_successor(new);
    process::kill(pid);
    std::fs::write(go, "").unwrap();
    let log = |proxy: &Proxy| proxy.stderr()[from..].join("\n");
    eventually("the new process serves", || log(&proxy).lines().any(is_ready)).await;
    assert!(
        log(&proxy).contains("the old process ended before it had sent its sessions"),
        "{}",
        log(&proxy)
    );
    let mut client = Raw::connect(web).await;
    let reply = poll(&mut client, &session.sid, "orphan", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some(session.node.as_str())));
    drop((client, a, b));
    process::signal(new, "TERM");
    let status = wait_for("the end of the process", || process::orphan_status(new)).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.stderr_text());
}

#[tokio::test]
async fn fault_121_sessions_survive_sigkill_and_restart() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let proxy = installed(&[a.backend.address, b.backend.address]).await;
    let web = proxy.web();
    let mut sessions = Vec::new();
    let mut client = Raw::connect(web).await;
    for n in 0..4 {
        sessions.push(handshake(&mut client, &format!("h{n}"), "").await);
    }
    // The kernel keeps the state of the cut connections for a while.
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

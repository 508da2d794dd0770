//! Signals, shutdown, panics and stuck workers of the process.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tokio::net::UdpSocket;

use crate::{
    configuration::drop_ref,
    support::{
        Backend, Proxy, Raw, eventually, message, process,
        proxy::Setup,
        websocket::{self, tunnel},
        within,
    },
};

async fn ready(proxy: &Proxy) -> u16 {
    Raw::ask(proxy.admin(), message::get("/ready", "Connection: close\r\n")).await.status()
}

#[tokio::test]
async fn fault_120_sigterm_shuts_down_gracefully() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    assert_eq!(ready(&proxy).await, 200);
    let (mut open, far) = tunnel(&proxy, &backend).await;
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(1).await;
    peer.request().await.unwrap();
    let mut idle = Raw::connect(proxy.web()).await;
    idle.send(message::get("/idle", "")).await;
    let third = backend.peer(2).await;
    third.request().await.unwrap();
    third.send(message::ok("ok")).await;
    idle.response().await;
    let web = proxy.web();
    proxy.terminate();
    eventually("the address refuses", || std::net::TcpStream::connect(web).is_err()).await;
    assert_eq!(ready(&proxy).await, 503);
    idle.assert_closed().await;
    assert!(proxy.is_running());
    // Open requests and tunnels are finished.
    open.send("still").await;
    far.wait_for_rest(b"still").await;
    far.send("here").await;
    assert_eq!(open.exact(4).await, b"here");
    peer.send(message::ok("in time")).await;
    assert_eq!(waiting.response().await.text(), "in time");
    waiting.assert_closed().await;
    assert!(proxy.is_running());
    open.finish().await;
    far.ended().await;
    far.close();
    open.assert_closed().await;
    // The process ends without waiting for the deadline of 10 s.
    let started = Instant::now();
    assert_eq!(proxy.exited().await.code(), Some(0), "{}", proxy.stderr_text());
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    // The access log has one line for each stream.
    assert_eq!(proxy.log_lines().len(), 3, "{:?}", proxy.log_lines());
}

#[tokio::test]
async fn fault_120_drain_deadline() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("drain", "\"500ms\"");
    })
    .await;
    let (mut open, far) = tunnel(&proxy, &backend).await;
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(1).await;
    peer.request().await.unwrap();
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0), "{}", proxy.stderr_text());
    // The tunnel gets a Close frame before the deadline, and is cut at the deadline.
    assert_eq!(open.rest().await.0, websocket::close("draining"));
    waiting.rest().await;
    far.ended().await;
    peer.ended().await;
    let lines = proxy.log_lines();
    assert!(lines.iter().any(|line| line["termination"] == "drained"), "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[tokio::test]
async fn fault_120_second_signal() {
    let backend = Backend::manual().await;
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let mut proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]).top("drain", "\"10m\"");
        })
        .await;
        let (mut open, far) = tunnel(&proxy, &backend).await;
        let web = proxy.web();
        crate::support::process::signal(proxy.pid(), first);
        eventually("the address refuses", || std::net::TcpStream::connect(web).is_err()).await;
        assert!(proxy.is_running(), "{}", proxy.stderr_text());
        open.send("still").await;
        far.wait_for_rest(b"still").await;
        crate::support::process::signal(proxy.pid(), second);
        let status = proxy.exited().await;
        assert!(status.code().is_some() || status.signal().is_some());
        open.rest().await;
        far.ended().await;
    }
}

#[tokio::test]
async fn fault_123_panic_in_one_connection() {
    let backend = Backend::manual().await;
    let mut proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[backend.address]);
        })
        .env("MOORLINE_TEST_PANIC", "1")
        .start()
        .await;
    let (mut open, far) = tunnel(&proxy, &backend).await;
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(1).await;
    peer.request().await.unwrap();
    for count in 1..=5 {
        let mut panicking = Raw::connect(proxy.web()).await;
        panicking.send(message::get("/__panic", "")).await;
        // The connection ends, without a reply or with a 500.
        let (bytes, _) = panicking.rest().await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 50"), "{text}");
        let counted = |panics: f64| panics == f64::from(count);
        proxy.wait_for_metric("the panic is counted", "moorline_panics_total", counted).await;
    }
    // Other connections continue.
    open.send("still").await;
    far.wait_for_rest(b"still").await;
    peer.send(message::ok("in time")).await;
    assert_eq!(waiting.response().await.text(), "in time");
    assert!(proxy.is_running());
    let died = |line: &serde_json::Value| line["termination"] == "panicked";
    let five = || proxy.log_lines().iter().filter(|line| died(line)).count() == 5;
    eventually("a line for each panic", five).await;
    assert!(!backend.saw("__panic"));
    drop((open, waiting, far, peer, backend));
    proxy.wait_for_baseline().await;
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

#[tokio::test]
async fn fault_123_no_panic_on_request() {
    // Without the variable, the path is a normal path.
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/__panic", "")).await.text(), "ok");
    drop(backend);
    proxy.finish().await;
}

/// Replaces the configuration by a pipe without a writer, and waits until a reload reads it.
async fn reload_a_pipe(proxy: &Proxy) {
    fs::remove_file(proxy.file()).unwrap();
    assert!(Command::new("mkfifo").arg(proxy.file()).status().unwrap().success());
    proxy.hangup();
    eventually("the reload reads the pipe", || reads(proxy, &proxy.file())).await;
}

/// Whether the process has this file open.
fn reads(proxy: &Proxy, path: &Path) -> bool {
    process::open_files(proxy.pid()).iter().any(|open| Path::new(open) == path)
}

#[tokio::test]
async fn commands_and_sigterm_do_not_wait_for_the_files_of_a_reload() {
    let (backend, other) = (Backend::replying("ok").await, Backend::replying("other").await);
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    reload_a_pipe(&proxy).await;
    proxy.command(&["status"]).await.done();
    let added = other.address.to_string();
    proxy.command(&["backends", "add", "app", &added]).await.done();
    assert!(reads(&proxy, &proxy.file()), "the reload had ended: {}", proxy.stderr_text());
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    // The reload would have failed by itself.
    assert!(!proxy.stderr_text().contains("nothing was written"), "{}", proxy.stderr_text());
    drop((backend, other));
}

#[tokio::test]
async fn sigterm_does_not_wait_for_the_names_of_a_reload() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    // The name server of the process does not answer.
    let server = UdpSocket::bind("127.77.0.1:53").await.unwrap();
    let configuration = setup.directory().join("resolv.conf");
    fs::write(&configuration, "nameserver 127.77.0.1\n").unwrap();
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", configuration.display());
    let setup = setup.wrapped_in(&["unshare", "-rm", "sh", "-c", &mount, "sh"]);
    let address = backend.address;
    let mut proxy = setup.with(|settings| drop_ref(settings.backends(&[address]))).start().await;
    proxy.rewrite(|settings| {
        settings.pool("backends", &format!("[\"{address}\", \"slow.fleet.test:1\"]"));
    });
    proxy.hangup();
    within("a query", server.recv_from(&mut [0; 512])).await.unwrap();
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert!(!proxy.stderr_text().contains("take long to resolve"), "{}", proxy.stderr_text());
    drop(backend);
}

#[tokio::test]
async fn an_edit_during_a_reload_is_applied_after_it() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let mut proxy = Proxy::for_backends(&[old.address]).await;
    reload_a_pipe(&proxy).await;
    proxy.rewrite(|settings| drop_ref(settings.backends(&[new.address])));
    proxy.hangup();
    let output = proxy.command(&["reload"]).await;
    output.done();
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "new");
    drop((old, new));
    proxy.finish().await;
}

#[tokio::test]
async fn a_stuck_control_task_delays_no_request() {
    let backend = Backend::replying("ok").await;
    let address = backend.address;
    let setup = Setup::new().with(|settings| drop_ref(settings.backends(&[address])));
    let setup = setup.env("MOORLINE_TEST_STALL_CONTROL", "1").env("TOKIO_WORKER_THREADS", "1");
    let proxy = setup.start().await;
    proxy.hangup();
    proxy.wait_for_stderr("a stuck task", |line| line.contains("control task is stuck")).await;
    for _ in 0..3 {
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
    }
    assert!(!proxy.stderr_text().contains("control task continues"), "the requests waited");
    drop(backend);
}

#[tokio::test]
async fn an_idle_process_sleeps() {
    let backend = Backend::replying("ok").await;
    let address = backend.address;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[address]);
        // Other tests change the folder above that of the file.
        settings.top("reload", "{ watch = false }");
    });
    // Each worker notices the end of the start by itself.
    let proxy = setup.env("TOKIO_WORKER_THREADS", "2").start().await;
    let mut most = usize::MAX;
    for _ in 0..10 {
        let before = process::wake_ups(proxy.pid());
        tokio::time::sleep(Duration::from_secs(1)).await;
        most = most.min(process::wake_ups(proxy.pid()) - before);
        if most <= 4 {
            break;
        }
    }
    // One wake-up a second; it was 15.
    assert!(most <= 4, "{most} wake-ups in a second");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_124_stuck_worker_is_reported() {
    const STUCK: &str = "moorline_workers_stalled";
    let backend = Backend::replying("ok").await;
    let address = backend.address;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[address]);
    });
    let setup = setup.env("MOORLINE_TEST_STALL", "1").env("TOKIO_WORKER_THREADS", "2");
    let proxy = setup.start().await;
    let mut stuck = Raw::connect(proxy.web()).await;
    stuck.send(message::get("/__stall", "")).await;
    proxy.wait_for_metric("a worker is stuck", STUCK, |stuck| stuck == 1.0).await;
    proxy.wait_for_stderr("the alarm", |line| line.contains("a worker is stuck")).await;
    // The other worker serves, and the stuck worker continues later.
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
    assert_eq!(stuck.response().await.text(), "ok");
    proxy.wait_for_metric("it goes on", STUCK, |stuck| stuck == 0.0).await;
    assert_eq!(proxy.metric("moorline_worker_stalls_total").await, 1.0);
    drop((stuck, backend));
    proxy.finish().await;
}

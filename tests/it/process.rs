//! Signals, shutdown, panics and stuck workers of the process.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use crate::support::{
    Backend, Proxy, Raw, eventually, message,
    proxy::Setup,
    websocket::{self, tunnel},
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

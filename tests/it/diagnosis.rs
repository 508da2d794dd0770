//! The reason why a backend is down: in commands, in the API and in the log.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::Relaxed},
};

use serde_json::Value;

use crate::support::{Backend, Proxy, Raw, Refusing, eventually, message};

const PROBE: &str = "{ probe = \"http\", path = \"/healthz\", interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 1 }";

async fn backend_json(proxy: &Proxy) -> Value {
    proxy.api().get("/v1/pools/app").await["backends"][0].clone()
}

/// Waits until the backend has this state and reason. `None`: no reason.
async fn wait_until_state(proxy: &Proxy, state: &str, reason: Option<&str>) -> Value {
    let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
    loop {
        let backend = backend_json(proxy).await;
        let is = match reason {
            None => backend["reason"].is_null(),
            Some(reason) => backend["reason"].as_str().is_some_and(|text| text.contains(reason)),
        };
        if is && backend["state"] == state {
            return backend;
        }
        let stderr = proxy.stderr_text();
        assert!(tokio::time::Instant::now() < deadline, "{backend} is not {state}: {stderr}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_down_backend_is_shown_with_reason_and_time() {
    let status = Arc::new(AtomicU16::new(404));
    let answer = Arc::clone(&status);
    let node = Backend::answering(move |_| {
        message::reply(&format!("{} Some", answer.load(Relaxed)), "Connection: close\r\n", "")
    })
    .await;
    let address = node.address;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[address]).pool("health", PROBE);
    })
    .await;
    let expected = "HTTP probe GET /healthz: expected 2xx, got 404";
    let down = wait_until_state(&proxy, "down", Some(expected)).await;
    assert!(down["last_failure"]["reason"].as_str().unwrap().starts_with(expected), "{down}");
    let since = down["since"].as_f64().unwrap();
    let listed = proxy.command(&["backends"]).await.done();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&listed).contains(&format!(": {expected}")), "{listed}");
    assert!(words(&listed).contains("down for "), "{listed}");
    let shown = proxy.command(&["status"]).await.done();
    assert!(words(&shown).contains(&format!("{address} is down: {expected}")), "{shown}");
    let url = format!("http://{}/", proxy.web());
    let explained = proxy.command(&["explain", &url]).await.done();
    assert!(explained.contains(&format!("Backend {address} has been down for ")), "{explained}");
    assert!(explained.contains(expected), "{explained}");
    let warned = proxy.wait_for_stderr("a warning", |line| line.contains("backend is down")).await;
    assert!(warned.contains("WARN") && warned.contains(expected), "{warned}");
    // Each further reason is logged once. The backend is down since the first failure.
    let another = |reason: &'static str| {
        move |line: &str| line.contains("still down, for another reason") && line.contains(reason)
    };
    status.store(503, Relaxed);
    let reason = "expected 2xx, got 503";
    let later = wait_until_state(&proxy, "down", Some(reason)).await;
    assert_eq!(later["since"].as_f64().unwrap(), since);
    proxy.wait_for_stderr("the new reason", another(reason)).await;
    drop(node);
    let refusing = Refusing::at(address).await;
    wait_until_state(&proxy, "down", Some("connection refused")).await;
    proxy.wait_for_stderr("the new reason", another("connection refused")).await;
    let count = |proxy: &Proxy| {
        proxy.stderr().iter().filter(|line| another("connection refused")(line)).count()
    };
    assert_eq!(count(&proxy), 1, "{}", proxy.stderr_text());
    let node = refusing.revive("ok").await;
    let up = wait_until_state(&proxy, "up", None).await;
    assert!(up["since"].as_f64().unwrap() > since);
    assert!(up["last_failure"]["reason"].as_str().unwrap().contains("refused"), "{up}");
    let back = proxy.wait_for_stderr("a recovery", |line| line.contains("up again")).await;
    assert!(back.contains("INFO"), "{back}");
    let listed = words(&proxy.command(&["backends"]).await.done());
    assert!(listed.contains("up for ") && listed.contains("last failed check "), "{listed}");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_unanswered_probe_reports_its_deadline() {
    let node = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.address]).pool("health", PROBE);
    })
    .await;
    wait_until_state(&proxy, "down", Some("HTTP probe GET /healthz: no answer within 100ms")).await;
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn each_probe_reports_what_it_expected() {
    let node = Backend::answering(|_| message::reply("404 Not Found", "", "no")).await;
    for (probe, expected) in [
        ("engine.io", "Engine.IO probe /socket.io/: expected 200 to a handshake, got 404"),
        ("websocket", "WebSocket probe /: expected 101 to a WebSocket handshake, got 404"),
    ] {
        let proxy = Proxy::with(|settings| {
            let health =
                format!("{{ probe = \"{probe}\", interval = \"100ms\", timeout = \"100ms\" }}");
            settings.backends(&[node.address]).pool("health", &health);
        })
        .await;
        wait_until_state(&proxy, "down", Some(expected)).await;
        drop(proxy);
    }
    let refusing = Refusing::new();
    let proxy = Proxy::with(|settings| {
        let health = "{ probe = \"tcp\", interval = \"100ms\", timeout = \"100ms\" }";
        settings.backends(&[refusing.address()]).pool("health", health);
    })
    .await;
    wait_until_state(&proxy, "down", Some("TCP probe: connection refused")).await;
    drop((node, proxy));
}

#[tokio::test]
async fn a_backend_that_fails_under_traffic_reports_the_failed_request() {
    let node = Backend::replying("ok").await;
    let address = node.address;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[address]);
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", rise = 1, fall = 1 }");
    })
    .await;
    eventually("the only probe", || node.connections() == 1).await;
    drop(node);
    let refusing = Refusing::at(address).await;
    let request = message::get("/", "Connection: close\r\n");
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 502);
    let down = wait_until_state(&proxy, "down", Some("request: connection refused")).await;
    assert!(down["last_failure"]["at"].as_f64().unwrap() >= down["since"].as_f64().unwrap() - 1.0);
    drop((refusing, proxy));
}

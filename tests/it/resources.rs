//! Descriptors, log lines and metric labels under hostile input.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{Backend, Proxy, Raw, eventually, message, process, proxy::Setup, websocket};

#[tokio::test]
async fn fault_104_no_descriptor_left() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[backend.address]).top("limits", "{ connections = 1000 }");
        })
        .wrapped_in(&["sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Raw::connect(proxy.web()).await);
    }
    eventually("no descriptor is left", || proxy.descriptors() >= 60).await;
    // One second in this state must use almost no CPU time.
    let before = process::cpu_ticks(proxy.pid());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = process::cpu_ticks(proxy.pid()) - before;
    assert!(spent < 30, "{spent} of 100 ticks: the accept loop spins");
    assert!(proxy.is_running());
    drop(clients);
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
    assert!(proxy.metric("moorline_accept_pauses").await > 0.0);
    drop(backend);
    proxy.finish().await;
}

/// Bytes that control a terminal or end a line.
fn controls(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut found: Vec<u8> =
        bytes.iter().copied().filter(|b| (*b < 0x20 && *b != b'\n') || *b == 0x7f).collect();
    found.extend(text.chars().filter(|c| ('\u{80}'..'\u{a0}').contains(c)).map(|c| c as u8));
    found
}

#[tokio::test]
async fn fault_108_log_injection() {
    let backend = Backend::answering(|request| match request.target() {
        "/bad-reply" => {
            b"HTTP/1.1 200 \x1b[31mOK\r\nX: \x1b]0;title\x07\r\n\x1b[2J\r\n\r\n".to_vec()
        }
        _ => message::ok("ok"),
    })
    .await;
    let proxy = Proxy::with(|settings| {
        // The client is trusted, so that the proxy reads its `X-Request-Id` and `X-Forwarded-For`.
        settings.backends(&[backend.address]).top("trusted_proxies", "[\"127.0.0.0/8\"]");
    })
    .await;
    let forged = "{\"ts\":\"forged\"}";
    let targets = [
        "/%1b[31mred%0d%0a{%22ts%22:%22forged%22}".to_owned(),
        "/quote\"back\\slash".to_owned(),
        format!("/{forged}"),
        "/utf8/\u{fc}\u{85}\u{9b}31m\u{202e}".to_owned(),
        "/?a=%00%0a%1b[0m".to_owned(),
        "/bad-reply".to_owned(),
        format!("/long/{}", "\u{9b}".repeat(3000)),
    ];
    for target in &targets {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(message::get(target, "Connection: close\r\n")).await;
        client.rest().await;
    }
    for raw in [
        &b"GET /esc\x1b[31m HTTP/1.1\r\nHost: app.test\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: app.test\x1b[31m\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\"},{\"b\r\n\r\n",
        b"GE\x1bT / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"M\"ETHOD / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
        b"GET /id HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: \xc2\x9b31m\r\nConnection: close\r\n\r\n",
        b"GET /id HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: a\tb\"c\r\nConnection: close\r\n\r\n",
        b"GET /for HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: \"\x7f\r\nConnection: close\r\n\r\n",
        b"\x1b[31m\r\n\r\n",
    ] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(raw).await;
        client.finish().await;
        client.rest().await;
    }
    let marker = message::get("/marker", "Connection: close\r\n");
    assert_eq!(Raw::ask(proxy.web(), marker).await.status(), 200);
    proxy.wait_for_log("the marker's line", |line| line["path"] == "/marker").await;
    // Parses each line, and panics on an invalid one.
    let lines = proxy.log_lines();
    assert!(lines.iter().all(|line| line["ts"] != "forged" && line["id"].is_string()));
    let paths: BTreeSet<_> = lines.iter().filter_map(|line| line["path"].as_str()).collect();
    assert!(paths.contains(targets[0].as_str()), "{paths:?}");
    assert_eq!(controls(&proxy.access_log()), b"");
    // Configuration errors are escaped, too.
    proxy
        .refuses("\u{1b}[31mevil = 1\n[listeners.\"\u{9b}31m\"]\nbind = \"\u{7f}\"\n", &["evil"])
        .await;
    let stderr = proxy.stderr_text();
    assert_eq!(controls(stderr.as_bytes()), b"", "{stderr:?}");
    drop(backend);
    proxy.finish().await;
}

/// Names and labels of all series.
async fn series(proxy: &Proxy) -> BTreeSet<String> {
    let text = proxy.metrics().await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn fault_110_hostile_labels() {
    let backend = Backend::answering(|_| message::reply("404 Not Found", "", "no")).await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let storm = async |name: &str, count: usize| {
        for n in 0..count {
            let request = format!(
                "GET /{name}{n}?{name}{n}=1 HTTP/1.1\r\nHost: {name}{n}.test\r\n\
                 User-Agent: {name}{n}\r\nCookie: moorline-app={name}{n}\r\nConnection: close\r\n\r\n"
            );
            Raw::ask(proxy.web(), request).await;
            let method =
                format!("{name}{n} / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
            let mut client = Raw::connect(proxy.web()).await;
            client.send(method).await;
            client.rest().await;
            let target = format!("/socket.io/?EIO=4&transport={name}{n}&sid={name}{n}");
            Raw::ask(proxy.web(), message::get(&target, "")).await;
            let mut client = Raw::connect(proxy.web()).await;
            client.send(websocket::request(&target, "Connection: close\r\n")).await;
            client.rest().await;
        }
    };
    storm("FIRST", 1).await;
    let before = series(&proxy).await;
    storm("EVIL", 50).await;
    let after = series(&proxy).await;
    assert_eq!(before, after);
    assert!(!proxy.metrics().await.contains("EVIL"));
    drop(backend);
    proxy.finish().await;
}

//! Copies of requests for another pool.

use std::time::Duration;

use serde_json::{Value, json};

use super::get;
use crate::support::{
    Backend, Node, Proxy, Raw, eventually, message,
    node::{handshake, handshake_target, poll},
    proxy::Setup,
    websocket,
};

/// A proxy whose route `/` sends copies to the pool `shadow`.
async fn start(main: &Backend, shadow: &Backend, mirror: &str, keys: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[main.address]);
        settings.table(&format!(
            "[pools.shadow]\nbackends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n\
             reuse = {{ idle_timeout = \"1s\" }}\ntimeouts = {{ response_header = \"500ms\" }}\n\
             [[routes]]\npool = \"app\"\nmirror = {mirror}\n{keys}",
            shadow.address
        ));
    });
    setup.start().await
}

const COPIED: &str = "moorline_mirror_total{result=\"sent\"}";
const FAILED: &str = "moorline_mirror_total{result=\"failed\"}";
const SKIPPED: &str = "moorline_mirror_total{result=\"skipped\"}";

#[tokio::test]
async fn copies_have_the_request_of_the_backend() {
    let (main, shadow) = (Backend::replying("main").await, Backend::replying("shadow").await);
    let keys =
        "rewrite = { strip_prefix = \"/v1\" }\nheaders.request.set = { X-Copy = \"{path}\" }\n";
    let proxy = start(&main, &shadow, "\"shadow\"", keys).await;
    let mut client = Raw::connect(proxy.web()).await;
    let chunked = "POST /v1/c HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let requests = [
        message::get("/v1/a?b=c", "Cookie: d=e\r\n"),
        message::post("/v1/b", "", "body"),
        format!("{chunked}5\r\nsmall\r\n6\r\n chunk\r\n0\r\n\r\n").into_bytes(),
        format!("{chunked}0\r\n\r\n").into_bytes(),
    ];
    let count = requests.len();
    for (at, request) in requests.into_iter().enumerate() {
        client.send(request).await;
        assert_eq!(client.response().await.text(), "main");
        proxy.wait_for_metric("the copy", COPIED, |copied| copied == (at + 1) as f64).await;
    }
    let (sent, copies) = (main.requests(), shadow.requests());
    assert_eq!((sent.len(), copies.len()), (count, count));
    for (sent, copy) in sent.iter().zip(&copies) {
        assert_eq!((copy.method(), copy.target()), (sent.method(), sent.target()));
        assert_eq!(copy.text(), sent.text());
        for name in ["host", "cookie", "x-forwarded-for", "x-request-id", "x-copy"] {
            assert_eq!(copy.header(name), sent.header(name), "{name}");
        }
    }
    assert_eq!(copies[0].target(), "/a?b=c");
    assert_eq!(copies[2].text(), "small chunk");
    // Copies share a connection, too.
    assert_eq!(shadow.connections(), 1);
    // The access log has the requests alone.
    assert_eq!(proxy.log_lines().iter().filter(|line| line["pool"] == "shadow").count(), 0);
    drop((client, main, shadow));
    proxy.finish().await;
}

#[tokio::test]
async fn a_copy_has_the_changed_body() {
    let (main, shadow) = (Backend::replying("main").await, Backend::replying("shadow").await);
    let keys = "transform = { request = { drop = \"secret\" } }\n";
    let proxy = start(&main, &shadow, "\"shadow\"", keys).await;
    let body = "{\"secret\":1,\"a\":2}";
    let request = message::post("/", "Content-Type: application/json\r\n", body);
    assert_eq!(Raw::ask(proxy.web(), request).await.text(), "main");
    proxy.wait_for_metric("the copy", COPIED, |copied| copied == 1.0).await;
    let (sent, copy) = (main.requests().remove(0), shadow.requests().remove(0));
    assert_eq!((&*sent.text(), &*copy.text()), ("{\"a\":2}", "{\"a\":2}"));
    assert_eq!(copy.all("content-length"), ["7"]);
    drop((main, shadow));
    proxy.finish().await;
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied() {
    let (main, shadow) = (Backend::replying("main").await, Backend::replying("shadow").await);
    let mirror = "{ pool = \"shadow\", share = \"20%\", max_in_flight = 1000 }";
    let proxy = start(&main, &shadow, mirror, "").await;
    let mut client = Raw::connect(proxy.web()).await;
    const REQUESTS: usize = 500;
    for _ in 0..REQUESTS {
        client.send(message::get("/", "")).await;
        client.response().await;
    }
    // The mean is 100, and the standard deviation 9.
    proxy.wait_for_metric("copies", COPIED, |copied| copied >= 50.0).await;
    assert!(shadow.requests().len() <= 150, "{}", shadow.requests().len());
    let url = format!("http://app.test:{}/", proxy.web().port());
    let body = json!({ "url": url }).to_string();
    let reply: Value = proxy.api().ask("POST", "/v1/explain", &body).await.json();
    assert!(reply["steps"].to_string().contains("20 % of such requests"), "{reply}");
    drop((client, main, shadow));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_upgrades_and_held_requests_are_not_copied() {
    let (node, shadow) = (Node::start("main").await, Backend::replying("shadow").await);
    let proxy = start(&node.backend, &shadow, "\"shadow\"", "").await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t", "").await;
    poll(&mut client, &session.sid, "poll", "").await;
    let target = format!("{}&sid={}", handshake_target("t"), session.sid);
    client.send(message::post(&target, "", "4message")).await;
    assert_eq!(client.response().await.status(), 200);
    get(&proxy, "/hub?id=AbCdEfGhIjKlMnOpQrStU_", "").await;
    get(&proxy, "/events", "Accept: text/event-stream\r\n").await;
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request("/ws", "")).await;
    assert_eq!(tunnel.head().await.status(), 101);
    get(&proxy, "/last", "").await;
    proxy.wait_for_metric("the copy", COPIED, |copied| copied == 1.0).await;
    let copies = shadow.requests();
    assert_eq!(copies.iter().map(message::Message::target).collect::<Vec<_>>(), ["/last"]);
    assert_eq!(proxy.metric(SKIPPED).await, 0.0);
    drop((client, tunnel, node, shadow));
    proxy.finish().await;
}

#[tokio::test]
async fn a_failing_or_hanging_pool_changes_nothing_for_the_client() {
    let (main, shadow) = (Backend::replying("main").await, Backend::manual().await);
    let mirror = "{ pool = \"shadow\", max_body = 8, max_in_flight = 2 }";
    let proxy = start(&main, &shadow, mirror, "").await;
    let mut client = Raw::connect(proxy.web()).await;
    // The first two copies hang, the others are too many.
    let started = std::time::Instant::now();
    for _ in 0..5 {
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.text(), "main");
    }
    assert!(started.elapsed() < Duration::from_millis(450), "a copy has delayed its request");
    assert_eq!(proxy.metric(SKIPPED).await, 3.0);
    // They end with the limit of their pool.
    proxy.wait_for_metric("the end of the copies", FAILED, |failed| failed == 2.0).await;
    // Bodies of unknown length are not copied beyond the limit, those of known length not at all.
    let chunked = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for request in [
        message::post("/", "", "123456789"),
        format!("{chunked}8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n").into_bytes(),
    ] {
        client.send(request).await;
        assert_eq!(client.response().await.text(), "main");
    }
    assert_eq!(proxy.metric(SKIPPED).await, 5.0);
    drop(shadow);
    client.send(message::post("/", "", "12345678")).await;
    assert_eq!(client.response().await.text(), "main");
    proxy.wait_for_metric("a refused copy", FAILED, |failed| failed == 3.0).await;
    assert_eq!(main.requests().len(), 8);
    drop((client, main));
    proxy.finish().await;
}

#[tokio::test]
async fn an_incomplete_request_is_not_copied() {
    let (main, shadow) = (Backend::manual().await, Backend::replying("shadow").await);
    let proxy = start(&main, &shadow, "\"shadow\"", "").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 8\r\n\r\nhalf").await;
    eventually("the first half", || main.received().ends_with(b"half")).await;
    drop(client);
    proxy.wait_for_log("the end", |line| line["bytes_in"] == 4).await;
    assert_eq!(shadow.connections(), 0);
    drop((main, shadow));
    proxy.finish().await;
}

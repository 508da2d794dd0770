//! Ejection, flapping backends, and pools in which all health checks fail.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use tokio::task::JoinSet;

use crate::support::{
    Backend, Message, Node, Proxy, Raw, Refusing, backend, eventually, message,
    node::{handshake_target, poll_target},
    websocket,
};

const UP: &str = "moorline_backend_up";
const EJECTED: &str = "moorline_backend_ejected";

/// Health check of `/healthz`: two equal results in a row change the state of a backend.
const PROBE: &str =
    "{ probe = \"http\", path = \"/healthz\", interval = \"100ms\", rise = 2, fall = 2 }";

/// A backend that answers requests with `name`, and the number of health checks so far. `healthy` gets the
/// number of each health check and decides its result.
async fn checked_backend(
    name: &'static str,
    healthy: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> (Backend, Arc<AtomicUsize>) {
    let probes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&probes);
    let backend = Backend::answering(move |request: &Message| {
        if request.target() == "/healthz" {
            return match healthy(count.fetch_add(1, SeqCst)) {
                true => message::reply("200 OK", "Connection: close\r\n", ""),
                false => message::reply("500 Internal Server Error", "Connection: close\r\n", ""),
            };
        }
        message::ok(name)
    });
    (backend.await, probes)
}

fn share(of: &Backend) -> String {
    format!("moorline_backend_weight_share{{pool=\"app\",backend=\"{}\"}}", of.address)
}

#[tokio::test]
async fn fault_086_flapping_backend() {
    let (flaps, fails) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (flapping, failing) = (Arc::clone(&flaps), Arc::clone(&fails));
    let (a, probes) = checked_backend("a", move |n| match flapping.load(SeqCst) {
        true => n % 2 == 0,
        false => !failing.load(SeqCst),
    })
    .await;
    let (b, _) = checked_backend("b", |_| true).await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[a.address, b.address]).pool("balance", "\"round-robin\"");
        settings.pool("health", PROBE).pool("slow_start", "\"1m\"");
    })
    .await;
    // Every second health check fails: the backend is not down, and nothing is logged.
    eventually("a dozen health checks", || probes.load(SeqCst) > 12).await;
    assert_eq!(proxy.metric(UP).await, 2.0);
    assert!(!proxy.stderr_text().contains("backend is down"), "{}", proxy.stderr_text());
    assert_eq!(
        proxy.metric(&share(&a)).await,
        1.0,
        "no slow start for backends that are there from the beginning"
    );
    // All health checks fail, then all succeed: slow start limits the share of the backend.
    fails.store(true, SeqCst);
    flaps.store(false, SeqCst);
    proxy.wait_for_metric("one down", UP, |up| up == 1.0).await;
    fails.store(false, SeqCst);
    proxy.wait_for_metric("both up", UP, |up| up == 2.0).await;
    let grown = proxy.metric(&share(&a)).await;
    assert!((0.05..0.9).contains(&grown), "{grown}");
    let mut client = Raw::connect(proxy.web()).await;
    let mut to_a = 0;
    for _ in 0..40 {
        client.send(message::get("/", "")).await;
        to_a += usize::from(client.response().await.text() == "a");
    }
    assert!(to_a <= 18, "{to_a} of 40 requests went to the backend in slow start");
    // `slow_start = "0s"` disables slow start.
    proxy
        .reload(|settings| {
            settings.pool("slow_start", "\"0s\"");
        })
        .await;
    proxy.wait_for_metric("a full weight", &share(&a), |share| share == 1.0).await;
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn an_ejected_backend_keeps_its_tunnel_and_gets_requests_after_the_ejection() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let bad = Backend::start(crate::support::backend::script(move |peer| {
        let failing = Arc::clone(&failing);
        async move {
            while let Some(request) = peer.head().await {
                if request.header("upgrade").is_some() {
                    peer.send(websocket::switching(&request)).await;
                    peer.ended().await;
                    return;
                }
                peer.send(match failing.load(SeqCst) {
                    true => message::reply("500 Internal Server Error", "", "bad"),
                    false => message::ok("bad"),
                })
                .await;
            }
        }
    }))
    .await;
    let good = Backend::replying("good").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[bad.address, good.address]).pool("balance", "\"round-robin\"");
        settings.pool("outlier", "{ consecutive = 3, ejection = \"2s\", max_ejection = \"2s\" }");
    })
    .await;
    // Only `bad` accepts upgrades, so the tunnel is on `bad`.
    let mut tunnel = loop {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request("/chat", "")).await;
        if client.response().await.status() == 101 {
            break client;
        }
    };
    let mut client = Raw::connect(proxy.web()).await;
    let mut failures = 0;
    while failures < 3 {
        client.send(message::get("/", "")).await;
        failures += usize::from(client.response().await.status() == 500);
    }
    assert_eq!(proxy.metric("moorline_ejections_total{reason=\"consecutive\"}").await, 1.0);
    if proxy.metric(EJECTED).await == 1.0 {
        tunnel.send("still").await;
        eventually("the tunnel's bytes", || bad.saw("still")).await;
    }
    fails.store(false, SeqCst);
    proxy.wait_for_metric("the end of the ejection", EJECTED, |ejected| ejected == 0.0).await;
    let mut seen = false;
    while !seen {
        client.send(message::get("/", "")).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 200);
        seen = reply.text() == "bad";
    }
    drop((tunnel, client, bad, good));
    proxy.finish().await;
}

/// Sends a request for a path on a new connection.
fn request(replies: &mut JoinSet<Message>, proxy: &Proxy, path: String) {
    let web = proxy.web();
    replies.spawn(async move { Raw::ask(web, message::get(&path, "Connection: close\r\n")).await });
}

#[tokio::test]
async fn fault_089_half_down() {
    let down = [Refusing::new(), Refusing::new()];
    let survivors = [Backend::manual().await, Backend::manual().await];
    let proxy = Proxy::with(|settings| {
        settings
            .backends(&[
                down[0].address(),
                survivors[0].address,
                down[1].address(),
                survivors[1].address,
            ])
            .pool("limits", "{ connections = 3, pending = 0 }")
            .pool("outlier", "{ consecutive = 2, ejection = \"1m\", max_ejection = \"1m\" }");
    })
    .await;
    let mut replies = JoinSet::new();
    for n in 0..60 {
        request(&mut replies, &proxy, format!("/{n}"));
    }
    // The survivors hold six requests; the proxy answers the others, with `Retry-After` if with 503.
    for _ in 0..54 {
        let refusal = replies.join_next().await.unwrap().unwrap();
        assert!(matches!(refusal.status(), 502 | 503), "{}", refusal.text());
        if refusal.status() == 503 {
            assert!(refusal.header("retry-after").is_some());
        }
    }
    let retries = proxy.metric("moorline_retries_total").await;
    assert!(retries <= 60.0 / 5.0 + 40.0, "{retries} retries of 60 requests");
    for survivor in &survivors {
        assert_eq!(survivor.connections(), 3);
    }
    assert_eq!(proxy.metric("moorline_backend_connections").await, 6.0);
    for survivor in &survivors {
        for index in 0..3 {
            survivor.peer(index).await.send(message::ok("through")).await;
        }
    }
    for _ in 0..6 {
        assert_eq!(replies.join_next().await.unwrap().unwrap().text(), "through");
    }
    proxy.wait_for_metric("none in use", "moorline_backend_connections", |n| n == 0.0).await;
    drop((down, survivors));
    proxy.finish().await;
}

/// Answers handshakes and polls like an Engine.IO node; health checks fail while `sick` is set.
fn node(sick: Arc<AtomicBool>, name: &'static str) -> impl Fn(&Message) -> Vec<u8> {
    move |request| {
        let field = format!("X-Node: {name}\r\n");
        match request.target() {
            "/healthz" if sick.load(SeqCst) => message::reply("503 Service Unavailable", "", ""),
            target if target.contains("sid=") => message::reply("200 OK", &field, "6"),
            target if target.contains("EIO=") => {
                let open = "0{\"sid\":\"one-session-of-all\",\"upgrades\":[],\
                    \"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}";
                message::reply("200 OK", &field, open)
            }
            _ => message::reply("200 OK", &field, "ok"),
        }
    }
}

#[tokio::test]
async fn fault_090_every_check_fails() {
    let sick = Arc::new(AtomicBool::new(false));
    let mut backends = Vec::new();
    for name in ["a", "b", "c"] {
        backends.push(Backend::answering(node(Arc::clone(&sick), name)).await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&addresses).pool("balance", "\"round-robin\"");
        settings.pool("health", PROBE).pool("healthy_minimum", "\"50%\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get(&handshake_target("open"), "")).await;
    let home = client.response().await.header("x-node").unwrap().to_owned();
    sick.store(true, SeqCst);
    proxy.wait_for_metric("all down", UP, |up| up == 0.0).await;
    // All backends still get requests, and the session stays on its backend.
    let mut nodes = std::collections::BTreeSet::new();
    for n in 0..30 {
        client.send(message::get("/", "")).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        nodes.insert(reply.header("x-node").unwrap().to_owned());
        client.send(message::get(&poll_target("one-session-of-all", &n.to_string()), "")).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some(home.as_str())));
    }
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    // With `healthy_minimum = "0%"` no backend is available.
    proxy
        .reload(|settings| {
            settings.pool("healthy_minimum", "\"0%\"");
        })
        .await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 503);
    sick.store(false, SeqCst);
    proxy.wait_for_metric("all up", UP, |up| up == 3.0).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 200);
    drop((client, backends));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_090_every_answer_fails() {
    let mut backends = Vec::new();
    for _ in 0..4 {
        let error = |_: &Message| message::reply("502 Bad Gateway", "", "");
        backends.push(Backend::answering(error).await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let proxy = Proxy::with(|settings| {
        settings.backends(&addresses).pool("balance", "\"round-robin\"");
        settings.pool("outlier", "{ consecutive = 2, ejection = \"5m\", max_ejected = \"50%\" }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..80 {
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.status(), 502, "the response of the backend");
    }
    assert_eq!(proxy.metric(EJECTED).await, 2.0);
    drop((client, backends));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_092_a_503_of_the_backend_is_relayed() {
    let busy = Backend::answering(|_| {
        message::reply("503 Service Unavailable", "Retry-After: 7\r\nX-Why: busy\r\n", "later")
    })
    .await;
    let proxy = Proxy::for_backends(&[busy.address]).await;
    for request in [message::get("/", ""), message::get(&handshake_target("busy"), "")] {
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!((reply.status(), reply.text().as_str()), (503, "later"));
        assert_eq!(reply.all("retry-after"), ["7"]);
        assert_eq!(reply.header("x-why"), Some("busy"));
    }
    assert_eq!(busy.requests().len(), 2, "a 503 of the backend is not retried");
    drop(busy);
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_that_closes_within_response_bodies_is_ejected() {
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let breaks = backend::script(move |peer| async move {
            if peer.request().await.is_some() {
                peer.send(broken).await;
            }
        });
        let (bad, good) = (Backend::start(breaks).await, Backend::replying("good").await);
        let proxy = Proxy::with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("balance", "\"round-robin\"");
            settings.pool("outlier", "{ consecutive = 3 }");
        })
        .await;
        for n in 0..6 {
            let mut client = Raw::connect(proxy.web()).await;
            client.send(message::get("/", "Connection: close\r\n")).await;
            client.rest().await;
            assert_eq!(proxy.metric(EJECTED).await, f64::from(u8::from(n >= 4)), "after {n}");
        }
        for _ in 0..3 {
            assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "good");
        }
        drop((bad, good));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_backend_that_closes_within_handshake_responses_is_ejected() {
    let breaks = backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n0{\"sid\":").await;
        }
    });
    let (bad, good) = (Backend::start(breaks).await, Node::start("good").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[bad.address, good.backend.address]);
        settings.pool("balance", "\"round-robin\"").pool("outlier", "{ consecutive = 2 }");
    })
    .await;
    let mut refused = 0;
    for _ in 0..8 {
        let reply = Raw::ask(proxy.web(), message::get(&handshake_target("t"), "")).await;
        refused += usize::from(reply.status() == 502);
    }
    assert_eq!((refused, proxy.metric(EJECTED).await), (2, 1.0));
    drop((bad, good));
    proxy.finish().await;
}

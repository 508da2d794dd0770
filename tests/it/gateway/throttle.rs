//! Limits of requests, handshakes and tunnels by client or another key.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{get, routed};
use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{handshake, handshake_target, poll, poll_target},
    proxy::Setup,
    websocket,
};

const ORIGIN: &str = "Origin: https://page.test\r\n";

/// Statuses of several requests with the same fields.
async fn statuses(proxy: &Proxy, target: &str, fields: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(get(proxy, target, fields).await.status());
    }
    statuses
}

#[tokio::test]
async fn what_is_beyond_a_rate_gets_a_429_that_a_page_can_read() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "limits = { rate = \"2/h\" }\n").await;
    let first = get(&proxy, "/", ORIGIN).await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.header("ratelimit-policy"), Some("\"requests\";q=2;w=3600"));
    assert_eq!(first.header("ratelimit"), Some("\"requests\";r=1;t=1800"));
    assert_eq!(get(&proxy, "/", "").await.status(), 200);
    // The connection stays: the client has done nothing wrong on it.
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..2 {
        client.send(message::get("/x", ORIGIN)).await;
        let refused = client.response().await;
        assert_eq!(refused.status(), 429);
        let seconds: u32 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1700..=1800).contains(&seconds), "{seconds}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("https://page.test"));
        let readable = refused.header("access-control-expose-headers").unwrap();
        assert!(readable.contains("RateLimit") && readable.contains("Retry-After"));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"requests\";q=2;w=3600"));
        assert!(refused.header("ratelimit").unwrap().starts_with("\"requests\";r=0;t="));
        let id = refused.header("x-request-id").unwrap();
        let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
        assert_eq!(line["termination"], "proxy_select_rate_limited");
    }
    assert_eq!(backend.requests().len(), 2);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn only_pages_that_cors_allows_read_a_refusal() {
    let backend = Backend::replying("ok").await;
    let keys = "limits = { rate = \"1/h\" }\n[routes.cors]\norigins = [\"https://page.test\"]\nexpose = [\"X-Total\"]\n";
    let proxy = routed(&backend, keys).await;
    assert_eq!(statuses(&proxy, "/", ORIGIN, 1).await, [200]);
    let refused = get(&proxy, "/", ORIGIN).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.all("access-control-allow-origin"), ["https://page.test"]);
    let readable = refused.header("access-control-expose-headers").unwrap();
    assert!(readable.contains("RateLimit") && readable.contains("Retry-After"), "{readable}");
    assert_eq!(refused.all("access-control-allow-credentials"), ["true"]);
    let foreign = get(&proxy, "/", "Origin: https://evil.test\r\n").await;
    assert_eq!((foreign.status(), foreign.header("access-control-allow-origin")), (429, None));
    assert_eq!(foreign.header("access-control-expose-headers"), None);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn polls_of_known_sessions_do_not_count_and_look_alikes_do() {
    let node = Node::start("a").await;
    let proxy = routed(&node.backend, "limits = { rate = \"3/h\" }\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t0", "").await;
    for turn in 0..10 {
        let reply = poll(&mut client, &session.sid, &format!("p{turn}"), "").await;
        assert_eq!((reply.status(), reply.header("ratelimit")), (200, None));
    }
    // POSTs of the session count.
    for expected in [200, 200, 429, 429] {
        let packet = message::post(&poll_target(&session.sid, "w"), "", "2");
        assert_eq!(Raw::ask(proxy.web(), packet).await.status(), expected);
    }
    assert_eq!(poll(&mut client, &session.sid, "last", "").await.status(), 200);
    let forged = get(&proxy, &poll_target("forged", "t1"), "").await;
    assert_eq!(forged.status(), 429);
    // Nor does the sid of an own session help elsewhere.
    let elsewhere = format!("/search?EIO=4&transport=polling&sid={}", session.sid);
    assert_eq!(get(&proxy, &elsewhere, "").await.status(), 429);
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn handshakes_posts_and_polls_have_limits_of_their_own() {
    let node = Node::start("a").await;
    let keys = "limits = [{ what = \"handshakes\", rate = \"2/h\" }, { what = \"posts\", rate = \"1/h\" }, \
                { what = \"polls\", rate = \"3/h\" }]\n";
    let proxy = routed(&node.backend, keys).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t0", "").await;
    // The WebSocket of a known session opens no session.
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", session.sid);
    for _ in 0..3 {
        assert_eq!(Raw::ask(proxy.web(), websocket::request(&target, "")).await.status(), 101);
    }
    let socket = || websocket::request("/socket.io/?EIO=4&transport=websocket", "");
    assert_eq!(Raw::ask(proxy.web(), socket()).await.status(), 101);
    let refused = Raw::ask(proxy.web(), socket()).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.text().contains("Too many requests; try again later."));
    let refused = get(&proxy, &handshake_target("t1"), "").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.text().contains("\"status\":429"), "{}", refused.text());
    let mut statuses = Vec::new();
    for turn in 0..4 {
        statuses.push(poll(&mut client, &session.sid, &format!("p{turn}"), "").await.status());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    for expected in [200, 429] {
        let packet = message::post(&poll_target(&session.sid, "w"), "", "2");
        assert_eq!(Raw::ask(proxy.web(), packet).await.status(), expected);
    }
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn each_value_of_the_key_has_its_own_limit() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.top("trusted_proxies", "[\"127.0.0.2\"]");
        for (path, key) in [
            ("/client", "client"),
            ("/header", "header:X-Tenant"),
            ("/cookie", "cookie:user"),
            ("/query", "query:token"),
            ("/route", "route"),
        ] {
            settings.table(&format!(
                "[[routes]]\npath = {path:?}\npool = \"app\"\n\
                 limits = {{ key = {key:?}, rate = \"1/h\", fields = \"never\" }}\n"
            ));
        }
    });
    let proxy = setup.start().await;
    let ask = async |source: u8, target: &str, fields: &str| {
        let mut client = Raw::from(Ipv4Addr::new(127, 0, 0, source), proxy.web()).await;
        client.send(message::get(target, fields)).await;
        let reply = client.response().await;
        assert_eq!(reply.header("ratelimit"), None);
        reply.status()
    };
    for (source, target, fields, expected) in [
        (1, "/client", "", 200),
        (1, "/client", "", 429),
        (3, "/client", "", 200),
        // A trusted proxy names the client, and others do not.
        (2, "/client", "X-Forwarded-For: 2001:db8::1\r\n", 200),
        (2, "/client", "X-Forwarded-For: 2001:db8::2\r\n", 429),
        (2, "/client", "X-Forwarded-For: 2001:db8:1::1\r\n", 200),
        (1, "/client", "X-Forwarded-For: 192.0.2.7\r\n", 429),
        (1, "/header", "X-Tenant: a\r\n", 200),
        (3, "/header", "X-Tenant: a\r\n", 429),
        (1, "/header", "X-Tenant: b\r\n", 200),
        // A request without the value counts by its client's address.
        (1, "/header", "", 200),
        (1, "/header", "X-Tenant:\r\n", 429),
        (3, "/header", "", 200),
        (1, "/cookie", "Cookie: a=b; user=x\r\n", 200),
        (1, "/cookie", "Cookie: user=x; a=c\r\n", 429),
        (1, "/cookie", "Cookie: user=y\r\n", 200),
        (1, "/query?token=a", "", 200),
        (1, "/query?x=1&token=%61", "", 429),
        (1, "/query?token=b", "", 200),
        (1, "/route", "", 200),
        (3, "/route", "", 429),
    ] {
        assert_eq!(ask(source, target, fields).await, expected, "{source} {target} {fields}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn requests_in_flight_and_tunnels_are_counted_until_they_end() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "limits = { concurrent = 1, tunnels = 1 }\n").await;
    let (tunnel, peer) = websocket::tunnel(&proxy, &backend).await;
    let second = Raw::ask(proxy.web(), websocket::request("/chat", "")).await;
    assert_eq!(second.status(), 429);
    assert!(second.text().contains("Too many requests or connections are open"));
    let id = second.header("x-request-id").unwrap();
    let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
    assert_eq!(line["termination"], "proxy_select_too_many_at_once");
    // The tunnel does not count as a request in flight.
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/wait", "")).await;
    let holder = backend.peer_for("/wait").await;
    let refused = get(&proxy, "/", "").await;
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")));
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"requests-concurrent\";q=1;qu=\"concurrent-requests\"")
    );
    holder.send(message::ok("done")).await;
    assert_eq!(waiting.response().await.status(), 200);
    waiting.send(message::get("/again", "")).await;
    backend.peer_for("/again").await;
    // A client that leaves frees its place.
    drop(waiting);
    tunnel.reset();
    drop(peer);
    proxy.wait_for_metric("no tunnel", "moorline_tunnels{", |open| open == 0.0).await;
    let (tunnel, peer) = websocket::tunnel(&proxy, &backend).await;
    drop((tunnel, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_quota_survives_reloads_that_do_not_change_it() {
    let backend = Backend::replying("ok").await;
    let mut proxy = routed(&backend, "limits = { quota = \"3/d\" }\n").await;
    let first = get(&proxy, "/", "").await;
    assert_eq!(first.header("ratelimit-policy"), Some("\"requests-daily\";q=3;w=86400"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"requests-daily\";r=2;t="));
    proxy.reload(|settings| drop_ref(settings.pool("drain", "\"9s\""))).await;
    assert_eq!(statuses(&proxy, "/", "", 3).await, [200, 200, 429]);
    let refused = get(&proxy, "/", "").await;
    assert!(refused.text().contains("The quota of requests is used up."), "{}", refused.text());
    proxy
        .reload(|settings| {
            settings.table(
                "[[routes]]\npath = \"/new\"\npool = \"app\"\nlimits = { quota = \"1/d\" }\n",
            );
        })
        .await;
    assert_eq!(statuses(&proxy, "/", "", 1).await, [429]);
    assert_eq!(statuses(&proxy, "/new", "", 2).await, [200, 429]);
    drop(backend);
    proxy.finish().await;
}

fn drop_ref<T>(_: T) {}

#[tokio::test]
async fn hosts_of_a_route_and_limits_of_a_name_count_together() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        let named = "limits = { name = \"logins\", rate = \"1/h\" }";
        settings.table("[[routes]]\nhost = [\"a.test\", \"b.test\"]\npool = \"app\"\nlimits = { rate = \"1/h\" }\n");
        settings.table(&format!("[[routes]]\npath = \"/login\"\npool = \"app\"\n{named}\n"));
        settings.table(&format!("[[routes]]\npath = \"/reset\"\npool = \"app\"\n{named}\n"));
    });
    let proxy = setup.start().await;
    let on = async |host: &str| {
        Raw::ask(proxy.web(), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status()
    };
    assert_eq!((on("a.test").await, on("b.test").await), (200, 429));
    assert_eq!(statuses(&proxy, "/login", "", 1).await, [200]);
    assert_eq!(statuses(&proxy, "/reset", "", 1).await, [429]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn explain_names_the_refusal_and_counts_nothing() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "limits = { rate = \"1/h\" }\n").await;
    let explain = async || -> Value {
        let body = json!({ "url": format!("http://{}/", proxy.web()) }).to_string();
        proxy.api().ask("POST", "/v1/explain", &body).await.json()
    };
    for _ in 0..3 {
        assert_eq!(explain().await["status"], Value::Null);
    }
    assert_eq!(statuses(&proxy, "/", "", 2).await, [200, 429]);
    let refused = explain().await;
    assert_eq!(refused["status"], 429, "{refused}");
    assert!(refused.to_string().contains("Too many requests; try again later."), "{refused}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn preflights_take_nothing() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "limits = { rate = \"1/h\" }\n").await;
    let preflight = format!(
        "OPTIONS / HTTP/1.1\r\nHost: proxy.test\r\n{ORIGIN}Access-Control-Request-Method: PUT\r\n\r\n"
    );
    for _ in 0..3 {
        assert_eq!(Raw::ask(proxy.web(), &preflight).await.status(), 200);
    }
    assert_eq!(statuses(&proxy, "/", ORIGIN, 2).await, [200, 429]);
    drop(backend);
    proxy.finish().await;
}

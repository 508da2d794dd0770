//! Routes that split requests between pools.

use serde_json::{Value, json};

use super::get;
use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{Session, handshake, handshake_target, poll, poll_target},
    proxy::Setup,
    websocket,
};

/// A proxy with the pools `stable` and `next`, and a split between them.
async fn start(stable: &Backend, next: &Backend, split: &str, keys: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[stable.address]);
        for (name, backend) in [("stable", stable), ("next", next)] {
            settings.table(&format!(
                "[pools.{name}]\nbackends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n{keys}",
                backend.address
            ));
        }
        settings.table(&format!("[[routes]]\nsplit = {split}\n"));
    });
    setup.start().await
}

fn weights(stable: u32, next: u32) -> String {
    format!(
        "[{{ pool = \"stable\", weight = {stable} }}, {{ pool = \"next\", weight = {next}, \
         header = {{ X-Canary = \"always\" }}, cookie = {{ canary = true }} }}]"
    )
}

/// The weights before a change.
const FIRST: (u32, u32) = (1, 1);

/// Changes the weights of a running proxy.
async fn reload(proxy: &Proxy, to: (u32, u32)) {
    let text = proxy.settings.text();
    let first = weights(FIRST.0, FIRST.1);
    assert!(text.contains(&first));
    proxy.write(&text.replace(&first, &weights(to.0, to.1)));
    let applied = "moorline_reloads_total{result=\"ok\"}";
    let before = proxy.metric(applied).await;
    proxy.hangup();
    proxy.wait_for_metric("a reload", applied, |count| count > before).await;
}

#[tokio::test]
async fn the_weights_are_the_shares_of_the_requests() {
    const REQUESTS: usize = 1000;
    let (stable, next) = (Backend::replying("stable").await, Backend::replying("next").await);
    let proxy = start(&stable, &next, &weights(75, 25), "").await;
    let mut client = Raw::connect(proxy.web()).await;
    let mut on_next = 0;
    for _ in 0..REQUESTS {
        client.send(message::get("/", "")).await;
        on_next += usize::from(client.response().await.text() == "next");
    }
    // The mean is 250, and the standard deviation 14.
    assert!((180..=320).contains(&on_next), "{on_next} of {REQUESTS}");
    let lines = proxy.log_lines();
    let logged = lines.iter().filter(|line| line["pool"] == "next").count();
    // The last lines may not be written yet.
    assert!(logged <= on_next && on_next - logged <= REQUESTS - lines.len(), "{logged}");
    drop((client, stable, next));
    proxy.finish().await;
}

#[tokio::test]
async fn a_pool_without_healthy_backends_gets_nothing_by_weight() {
    let (stable, next) = (Backend::replying("stable").await, Backend::replying("next").await);
    let proxy = start(&stable, &next, &weights(1, 9), "").await;
    let text = proxy.settings.text();
    let health = "health = { probe = \"tcp\", interval = \"100ms\", rise = 1, fall = 1 }";
    proxy.write(&text.replace("health = { probe = \"off\" }\n", &format!("{health}\n")));
    proxy.hangup();
    drop(next);
    proxy.wait_for_stderr("the pool is down", |line| line.contains("backend is down")).await;
    for _ in 0..20 {
        assert_eq!(get(&proxy, "/", "").await.text(), "stable");
    }
    // The client wants this pool, and no other one.
    assert_eq!(get(&proxy, "/", "X-Canary: always\r\n").await.status(), 503);
    let url = format!("http://app.test:{}/", proxy.web().port());
    let body = json!({ "url": url }).to_string();
    let reply: Value = proxy.api().ask("POST", "/v1/explain", &body).await.json();
    assert!(reply.to_string().contains("pool stable, which gets 1 of 1 requests."), "{reply}");
    drop(stable);
    proxy.finish().await;
}

#[tokio::test]
async fn a_header_field_or_a_cookie_forces_the_pool() {
    let (stable, next) = (Backend::replying("stable").await, Backend::replying("next").await);
    let proxy = start(&stable, &next, &weights(1, 0), "").await;
    for _ in 0..20 {
        for (fields, expected) in [
            ("", "stable"),
            ("X-Canary: never\r\n", "stable"),
            ("X-Canary: always\r\n", "next"),
            ("Cookie: canary=1\r\n", "next"),
        ] {
            assert_eq!(get(&proxy, "/", fields).await.text(), expected, "{fields}");
        }
    }
    drop((stable, next));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_stay_in_their_pool_after_the_weights_change() {
    let nodes = [Node::start("stable").await, Node::start("next").await];
    let [stable, next] = &nodes;
    let proxy = start(&stable.backend, &next.backend, &weights(1, 1), "").await;
    let mut client = Raw::connect(proxy.web()).await;
    let mut sessions: Vec<Session> = Vec::new();
    for number in 0..20 {
        sessions.push(handshake(&mut client, &format!("t{number}"), "").await);
    }
    for name in ["stable", "next"] {
        assert!(sessions.iter().any(|session| session.node == name), "{name}");
    }
    for weights in [(1, 0), (0, 1)] {
        reload(&proxy, weights).await;
        for Session { sid, node, .. } in &sessions {
            let reply = poll(&mut client, sid, "poll", "").await;
            assert_eq!((reply.status(), reply.header("x-node")), (200, Some(&**node)));
            // Not even a forced request leaves its session.
            let reply = poll(&mut client, sid, "poll", "X-Canary: always\r\n").await;
            assert_eq!((reply.status(), reply.header("x-node")), (200, Some(&**node)));
        }
        let only = if weights == (1, 0) { "stable" } else { "next" };
        for _ in 0..5 {
            assert_eq!(handshake(&mut client, "new", "").await.node, only);
        }
    }
    drop((client, nodes));
    proxy.finish().await;
}

#[tokio::test]
async fn an_unknown_session_is_searched_in_every_pool() {
    let nodes = [Node::start("stable").await, Node::start("next").await];
    let [stable, next] = &nodes;
    let proxy = start(&stable.backend, &next.backend, &weights(1, 0), "").await;
    next.add_session("of-next");
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..2 {
        let reply = poll(&mut client, "of-next", "found", "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("next")));
    }
    let lines = proxy.wait_for_log("the search", |line| line["chosen_by"] == "owner_search").await;
    assert_eq!((&lines["pool"], &lines["status"]), (&"next".into(), &200.into()));
    let line = proxy.wait_for_log("the session", |line| line["chosen_by"] == "sid").await;
    assert_eq!((&line["pool"], &line["status"]), (&"next".into(), &200.into()));
    let reply = poll(&mut client, "of-none", "lost", "").await;
    assert_eq!((reply.status(), reply.text().contains("\"code\":1")), (400, true));
    drop((client, nodes));
    proxy.finish().await;
}

#[tokio::test]
async fn the_affinity_cookie_names_the_pool() {
    let nodes = [Node::start("stable").await, Node::start("next").await];
    let [stable, next] = &nodes;
    let keys = "sticky = { cookie = { set_on = \"always\" } }\n";
    let proxy = start(&stable.backend, &next.backend, &weights(1, 1), keys).await;
    let reply = get(&proxy, &handshake_target("t"), "X-Canary: always\r\n").await;
    let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("moorline-next="), "{cookie}");
    let fields = format!("Cookie: {cookie}\r\n");
    for _ in 0..20 {
        let reply = get(&proxy, &handshake_target("t"), &fields).await;
        assert_eq!(reply.header("x-node"), Some("next"));
    }
    // A pool without weight gets no new sessions, but a search begins where the cookie says.
    reload(&proxy, (1, 0)).await;
    let reply = get(&proxy, &handshake_target("t"), &fields).await;
    assert_eq!(reply.header("x-node"), Some("stable"));
    next.add_session("of-next");
    let reply = get(&proxy, &poll_target("of-next", "t"), &fields).await;
    assert_eq!(reply.header("x-node"), Some("next"));
    let line = proxy.wait_for_log("the poll", |line| line["chosen_by"] == "cookie").await;
    assert_eq!(line["pool"], "next");
    drop(nodes);
    proxy.finish().await;
}

/// The response of a pool that is only tried does not reach the clients of another one.
#[tokio::test]
async fn stored_responses_belong_to_their_pool() {
    let fields = "Cache-Control: max-age=600\r\n";
    let stable = Backend::answering(move |_| message::reply("200 OK", fields, "stable")).await;
    let next = Backend::answering(move |_| message::reply("200 OK", fields, "next")).await;
    let split = format!("{}\ncache = true", weights(1, 0));
    let proxy = start(&stable, &next, &split, "").await;
    for (fields, body) in
        [("X-Canary: always\r\n", "next"), ("", "stable"), ("X-Canary: always\r\n", "next")]
    {
        assert_eq!(get(&proxy, "/app.js", fields).await.text(), body);
    }
    assert_eq!((stable.requests().len(), next.requests().len()), (1, 1));
    drop((stable, next));
    proxy.finish().await;
}

#[tokio::test]
async fn upgrades_are_split_and_explained() {
    let (stable, next) = (Backend::manual().await, Backend::manual().await);
    let proxy = start(&stable, &next, &weights(9, 1), "").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/", "Cookie: canary=1\r\n")).await;
    let peer = next.peer(0).await;
    peer.send(websocket::switching(&peer.head().await.unwrap())).await;
    assert_eq!(client.head().await.status(), 101);
    let url = format!("http://app.test:{}/", proxy.web().port());
    for (fields, pool, step) in [
        (json!([]), "stable", "pool stable, which gets 9 of 10 requests."),
        (json!(["X-Canary: always"]), "next", "forces it to pool next of the split."),
    ] {
        let body = json!({ "url": url, "headers": fields }).to_string();
        let reply: Value = proxy.api().ask("POST", "/v1/explain", &body).await.json();
        assert_eq!(reply["pool"], pool);
        assert!(reply["steps"].to_string().contains(step), "{reply}");
    }
    drop((client, peer, stable, next));
    proxy.finish().await;
}

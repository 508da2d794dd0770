//! Clients that return without a cookie, and the backend that they are sent to.

use crate::support::{
    Backend, Proxy, Raw, backend, message,
    node::{handshake, handshake_target, poll_target},
    pair::Pair,
    websocket,
};

/// Opens a WebSocket session marked with `t`, with further header lines.
async fn open(pair: &Pair, t: &str, headers: &str) -> Raw {
    let mut client = pair.client().await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&t={t}");
    client.send(websocket::request(&target, headers)).await;
    assert_eq!(client.response().await.status(), 101);
    client
}

/// Returns the backend of the ended session marked with `t`, and how it was chosen.
async fn backend_of_ended(pair: &Pair, t: &str) -> (String, String) {
    let marked = |line: &serde_json::Value| {
        line["path"].as_str().is_some_and(|path| path.ends_with(&format!("t={t}")))
    };
    let line = pair.proxy.wait_for_log("the session's line", marked).await;
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    (text("backend"), text("chosen_by"))
}

const PHONE: &str = "User-Agent: phone/1\r\n";

#[tokio::test]
async fn a_client_without_a_cookie_returns_to_its_node() {
    let pair = Pair::start().await;
    drop(open(&pair, "first", PHONE).await);
    let (home, chosen_by) = backend_of_ended(&pair, "first").await;
    assert_eq!(chosen_by, "balance");
    for t in ["again0", "again1", "again2"] {
        drop(open(&pair, t, PHONE).await);
        assert_eq!(backend_of_ended(&pair, t).await, (home.clone(), "memory".to_owned()));
    }
    // One session has ended: of two new clients, only one can be the returning one.
    let (one, two) = (open(&pair, "one", PHONE).await, open(&pair, "two", PHONE).await);
    drop((one, two));
    assert_eq!(backend_of_ended(&pair, "one").await, (home.clone(), "memory".to_owned()));
    assert_eq!(backend_of_ended(&pair, "two").await.1, "balance");
    // Another agent at the same address is another client.
    drop(open(&pair, "other", "User-Agent: phone/2\r\n").await);
    assert_eq!(backend_of_ended(&pair, "other").await.1, "balance");
    assert_eq!(pair.proxy.metric("moorline_memory_total{result=\"followed\"}").await, 4.0);
    pair.finish().await;
}

#[tokio::test]
async fn a_return_by_cookie_uses_up_the_recent_session() {
    let pair = Pair::start().await;
    let session = pair.session_on("a").await;
    let cookie = crate::support::node::cookie_field(session.cookie.as_ref().unwrap());
    let headers = format!("{PHONE}{cookie}");
    for t in ["first", "back"] {
        let client = open(&pair, t, &headers).await;
        if t == "back" {
            drop(open(&pair, "stranger", PHONE).await);
            assert_eq!(backend_of_ended(&pair, "stranger").await.1, "balance");
        }
        drop(client);
        assert_eq!(backend_of_ended(&pair, t).await.1, "cookie");
    }
    pair.finish().await;
}

#[tokio::test]
async fn explain_and_requests_use_the_same_recent_session() {
    let pair = Pair::with(|settings| {
        settings.pool("sticky", "{ engine_io = false }");
    })
    .await;
    drop(open(&pair, "first", PHONE).await);
    backend_of_ended(&pair, "first").await;
    let new = format!("ws://{}/socket.io/?EIO=4&transport=websocket", pair.proxy.web());
    for (url, expected) in [(format!("{new}&sid=unfollowed"), "balance"), (new, "memory")] {
        let words = ["explain", &url, "--user-agent", "phone/1", "--json"];
        assert_eq!(pair.proxy.command(&words).await.json()["chosen_by"], expected);
    }
    let mut client = pair.client().await;
    let unfollowed = "/socket.io/?EIO=4&transport=websocket&sid=unfollowed&t=unfollowed";
    client.send(websocket::request(unfollowed, PHONE)).await;
    assert_eq!(client.response().await.status(), 400);
    assert_eq!(backend_of_ended(&pair, "unfollowed").await.1, "balance");
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn an_ambiguous_recent_session_is_not_followed() {
    let pair = Pair::start().await;
    let (one, two) = (open(&pair, "one", PHONE).await, open(&pair, "two", PHONE).await);
    drop((one, two));
    assert_ne!(backend_of_ended(&pair, "one").await.0, backend_of_ended(&pair, "two").await.0);
    drop(open(&pair, "three", PHONE).await);
    assert_eq!(backend_of_ended(&pair, "three").await.1, "balance");
    assert_eq!(pair.proxy.metric("moorline_memory_total{result=\"ambiguous\"}").await, 1.0);
    pair.finish().await;
}

#[tokio::test]
async fn a_cookie_wins_and_a_preflight_uses_up_nothing() {
    let mut pair = Pair::start().await;
    let (a, b) = (pair.session_on("a").await, pair.session_on("b").await);
    drop(open(&pair, "first", PHONE).await);
    let (home, _) = backend_of_ended(&pair, "first").await;
    let on_a = home == pair.a.backend.address.to_string();
    let (other, name) = if on_a { (b, "b") } else { (a, "a") };
    let cookie = crate::support::node::cookie_field(other.cookie.as_ref().unwrap());
    let mut client = pair.client().await;
    let session = handshake(&mut client, "cookie", &format!("{PHONE}{cookie}")).await;
    assert_eq!(session.node, name);
    let preflight = message::get(&handshake_target("preflight"), PHONE);
    client.send([b"OPTIONS".as_slice(), &preflight[3..]].concat()).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(backend_of_ended(&pair, "preflight").await.1, "balance");
    // A draining node takes no returning clients.
    let stays = if on_a { pair.b.backend.address } else { pair.a.backend.address };
    pair.proxy
        .reload(|settings| {
            settings.backends(&[stays]);
        })
        .await;
    assert_eq!(handshake(&mut client, "gone", PHONE).await.node, name);
    assert_eq!(backend_of_ended(&pair, "gone").await.1, "balance");
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn a_pool_can_disable_recent_sessions() {
    let pair = Pair::with(|settings| {
        settings.pool("sticky", "{ memory = \"0s\" }");
    })
    .await;
    for t in ["one", "two", "three"] {
        drop(open(&pair, t, PHONE).await);
        assert_eq!(backend_of_ended(&pair, t).await.1, "balance");
    }
    pair.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_held_poll_returns_to_its_node() {
    // Each node answers handshakes and never answers polls.
    let holding = |name: &'static str| {
        backend::script(move |peer| async move {
            while let Some(request) = peer.request().await {
                if request.target().contains("sid=") {
                    peer.ended().await;
                    return;
                }
                if request.target().contains("fails") {
                    peer.send(message::reply("500 Internal Server Error", "", "")).await;
                    continue;
                }
                let open = format!(
                    "0{{\"sid\":\"{name}-session\",\"upgrades\":[],\"pingInterval\":25000,\
                     \"pingTimeout\":20000,\"maxPayload\":1000000}}"
                );
                let field = format!("X-Node: {name}\r\n");
                peer.send(message::reply("200 OK", &field, &open)).await;
            }
        })
    };
    let nodes = [Backend::start(holding("a")).await, Backend::start(holding("b")).await];
    let proxy = Proxy::with(|settings| {
        settings.backends(&[nodes[0].address, nodes[1].address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "first", PHONE).await;
    for n in 0..3 {
        let mut polling = Raw::connect(proxy.web()).await;
        let target = poll_target(&session.sid, &format!("held{n}"));
        polling.send(message::get(&target, PHONE)).await;
        let at_node = || nodes.iter().any(|node| node.saw(&target));
        crate::support::eventually("the poll at the node", at_node).await;
        drop(polling);
        let left = |line: &serde_json::Value| {
            line["path"].as_str().is_some_and(|path| path.contains(&format!("held{n}")))
        };
        proxy.wait_for_log("the poll's end", left).await;
        // A failed handshake does not use up the recent session.
        client.send(message::get(&handshake_target(&format!("fails{n}")), PHONE)).await;
        assert_eq!(client.response().await.status(), 500);
        let again = handshake(&mut client, &format!("again{n}"), PHONE).await;
        assert_eq!(again.node, session.node);
        let line = |line: &serde_json::Value| {
            line["path"].as_str().is_some_and(|path| path.contains(&format!("again{n}")))
        };
        assert_eq!(proxy.wait_for_log("the handshake", line).await["chosen_by"], "memory");
    }
    drop((client, nodes));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_ends_under_the_user_agent_of_its_handshake() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let session = handshake(&mut client, "first", PHONE).await;
    // The upgrade has no User-Agent, like the upgrade of the default client on Node.
    let mut upgrade = pair.client().await;
    let target = poll_target(&session.sid, "upgrade").replace("polling", "websocket");
    upgrade.send(websocket::request(&target, "")).await;
    assert_eq!(upgrade.response().await.status(), 101);
    drop(upgrade);
    pair.chosen_by("upgrade").await;
    // A client without a User-Agent is a different client, so its sessions cause no ambiguity.
    let mut other = pair.client().await;
    handshake(&mut other, "other", "").await;
    let again = handshake(&mut client, "again", PHONE).await;
    assert_eq!(again.node, session.node);
    let chosen = (pair.chosen_by("other").await, pair.chosen_by("again").await);
    assert_eq!(chosen, ("balance".to_owned(), "memory".to_owned()));
    assert_eq!(pair.proxy.metric("moorline_memory_total{result=\"ambiguous\"}").await, 0.0);
    drop((client, other));
    pair.finish().await;
}

/// Packet by which a client closes its session, in each framing.
const CLOSES: [(&str, &str); 5] = [
    ("EIO=4&transport=polling", "1"),
    ("EIO=4&transport=polling", "42[\"last\"]\u{1e}1"),
    ("EIO=3&transport=polling&b64=1", "9:42[\"last\"1:1"),
    ("EIO=3&transport=polling", "\0\u{1}\u{ff}1"),
    ("EIO=4&transport=polling&j=0", "d=41%1e1"),
];

#[tokio::test]
async fn a_client_that_closes_its_session_by_a_packet_returns_to_its_node() {
    for (n, (query, body)) in CLOSES.into_iter().enumerate() {
        // One byte for each character: a payload can be binary.
        let body: Vec<u8> = match query.contains("b64") || query.contains("EIO=4") {
            true => body.as_bytes().to_vec(),
            false => body.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect(),
        };
        let pair = Pair::start().await;
        let mut client = pair.client().await;
        let session = handshake(&mut client, "first", PHONE).await;
        for (packets, by) in [(&b"2"[..], "balance"), (&body, "memory")] {
            let target = format!("/socket.io/?{query}&t=post&sid={}", session.sid);
            // The body arrives in two segments.
            let head =
                message::get(&target, &format!("{PHONE}Content-Length: {}\r\n", packets.len()));
            client.send([b"POST", &head[3..], &packets[..packets.len() / 2]].concat()).await;
            client.send(&packets[packets.len() / 2..]).await;
            assert_eq!(client.response().await.status(), 200);
            let mark = format!("{by}{n}");
            let again = handshake(&mut client, &mark, PHONE).await;
            assert_eq!(pair.chosen_by(&mark).await, by, "{query} {packets:?}");
            assert!(by == "balance" || again.node == session.node);
        }
        drop(client);
        pair.finish().await;
    }
}

#[tokio::test]
async fn a_client_returns_to_the_node_that_closed_its_session_by_a_packet() {
    let node = |name: &'static str| {
        Backend::answering(move |request| {
            let target = request.target();
            let field = format!("X-Node: {name}\r\n");
            match target.split_once("close=") {
                Some((_, "v4")) => message::reply("200 OK", &field, "42[1]\u{1e}1"),
                Some((_, "v3")) => message::reply("200 OK", &field, "1:1"),
                Some((_, "packed")) => {
                    message::reply("200 OK", &format!("{field}Content-Encoding: br\r\n"), "1")
                }
                Some(_) => message::reply("200 OK", &field, "6"),
                None => {
                    let open = format!("0{{\"sid\":\"{name}{}\"}}", fastrand::u32(..));
                    message::reply("200 OK", &field, &open)
                }
            }
        })
    };
    let nodes = [node("a").await, node("b").await];
    let proxy = Proxy::with(|settings| {
        settings.backends(&[nodes[0].address, nodes[1].address]);
        settings.pool("balance", "\"round-robin\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    for (close, eio, by) in
        [("none", 4, "balance"), ("packed", 4, "balance"), ("v4", 4, "memory"), ("v3", 3, "memory")]
    {
        let session = handshake(&mut client, &format!("open-{close}"), PHONE).await;
        let target =
            format!("/socket.io/?EIO={eio}&transport=polling&sid={}&close={close}", session.sid);
        client.send(message::get(&target, PHONE)).await;
        assert_eq!(client.response().await.status(), 200);
        let mark = format!("again-{close}");
        let again = handshake(&mut client, &mark, PHONE).await;
        let line = |line: &serde_json::Value| {
            line["path"].as_str().is_some_and(|path| path.ends_with(&format!("t={mark}")))
        };
        assert_eq!(proxy.wait_for_log("the handshake", line).await["chosen_by"], by, "{close}");
        assert!(by == "balance" || again.node == session.node);
    }
    drop((client, nodes));
    proxy.finish().await;
}

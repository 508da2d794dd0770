//! Engine.IO sessions: sids that the proxy knows, owner searches, and unknown sids.

use crate::support::{
    Backend, Node, Proxy, Raw, Refusing, eventually, message,
    node::{cookie_field, handshake, poll, poll_target},
    pair::Pair,
    process, wait_for, websocket,
};

#[tokio::test]
async fn fault_096_removed_backend_keeps_its_sessions() {
    let mut pair = Pair::start().await;
    let (a, b) = (pair.session_on("a").await, pair.session_on("b").await);
    let mut client = pair.client().await;
    // One session has a tunnel, the other one polls.
    let mut tunnel = pair.client().await;
    let upgrade = format!("/socket.io/?EIO=4&transport=websocket&sid={}", b.sid);
    tunnel.send(websocket::request(&upgrade, "")).await;
    assert_eq!(tunnel.response().await.status(), 101);
    let polling = pair.session_on("b").await;
    let remaining = [pair.a.backend.address];
    pair.proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    for n in 0..3 {
        let reply = poll(&mut client, &polling.sid, &format!("kept{n}"), "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("b")));
        assert_eq!(pair.chosen_by(&format!("kept{n}")).await, "sid");
    }
    tunnel.send("still").await;
    let seen =
        wait_for("the tunnel's bytes at the node", || pair.b.backend.saw("still").then_some(()));
    seen.await;
    let reply = poll(&mut client, &a.sid, "other", "").await;
    assert_eq!(reply.header("x-node"), Some("a"));
    // The removed backend gets no new session, even with its cookie.
    for cookie in ["".to_owned(), cookie_field(b.cookie.as_ref().unwrap())] {
        for session in pair.spread("fresh", &cookie).await {
            assert_eq!(session.node, "a");
        }
    }
    drop((client, tunnel));
    pair.finish().await;
}

#[tokio::test]
async fn fault_096_removed_backend_at_its_drain_deadline() {
    let mut pair = Pair::with(|settings| {
        settings.pool("drain", "\"300ms\"");
    })
    .await;
    let b = pair.session_on("b").await;
    let mut tunnel = pair.client().await;
    let upgrade = format!("/socket.io/?EIO=4&transport=websocket&sid={}", b.sid);
    tunnel.send(websocket::request(&upgrade, "")).await;
    assert_eq!(tunnel.response().await.status(), 101);
    let polling = pair.session_on("b").await;
    let remaining = [pair.a.backend.address];
    pair.proxy
        .reload(|settings| {
            settings.backends(&remaining);
        })
        .await;
    // The proxy sends a Close shortly before the deadline, and closes the connection at the deadline.
    let close = websocket::close("draining");
    assert_eq!(tunnel.exact(close.len()).await, close);
    tunnel.assert_closed().await;
    let cut = |line: &serde_json::Value| line["kind"] == "tunnel";
    let line = pair.proxy.wait_for_log("the tunnel's line", cut).await;
    assert_eq!(line["termination"], "drained");
    // A poll of the other session gets the Engine.IO error 1, after which a client opens a new session.
    let mut client = pair.client().await;
    let reply = poll(&mut client, &polling.sid, "gone", "Origin: http://app.test\r\n").await;
    assert_eq!(reply.status(), 400, "{}", reply.text());
    assert!(reply.text().contains("\"code\":1"), "{}", reply.text());
    assert!(reply.header("access-control-allow-origin").is_some());
    assert_eq!(pair.b.request_count(&polling.sid), 0);
    drop(client);
    pair.finish().await;
}

const SESSIONS: &str = "moorline_backend_sessions";

#[tokio::test]
async fn fault_098_invented_sids_take_no_memory() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    for n in 0..200 {
        assert_eq!(poll(&mut client, &format!("warm{n}"), "w", "").await.status(), 400);
    }
    let before = process::resident(pair.proxy.pid());
    for n in 0..3000 {
        let reply = poll(&mut client, &format!("made-up-session-{n:010}"), "flood", "").await;
        assert_eq!(reply.status(), 400);
    }
    assert_eq!(pair.proxy.metric(SESSIONS).await, 0.0, "an invented sid is in the session table");
    let grown = process::resident(pair.proxy.pid()).saturating_sub(before);
    assert!(grown < 4 << 20, "memory grew by {grown}");
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn fault_098_more_sids_than_the_session_table_holds() {
    let pair = Pair::with(|settings| {
        settings.top("sessions", "{ max = 500, max_sid_bytes = 64 }");
    })
    .await;
    let mut client = pair.client().await;
    let mut last = None;
    for n in 0..1500 {
        last = Some(handshake(&mut client, &format!("h{n}"), "").await);
    }
    let counted = pair.proxy.metric(SESSIONS).await;
    assert!((1.0..=500.0).contains(&counted), "{counted} sessions in a table of 500");
    // The latest session is still in the table, or found by an owner search.
    let last = last.unwrap();
    let reply = poll(&mut client, &last.sid, "last", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some(last.node.as_str())));
    // A sid over `max_sid_bytes` is not stored; an owner search finds its node for each request.
    let long = "x".repeat(65);
    pair.a.next_sid(&long);
    while handshake(&mut client, "long", "").await.sid != long {}
    for n in 0..2 {
        let reply = poll(&mut client, &long, &format!("long-poll{n}"), "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("a")));
        assert_ne!(pair.chosen_by(&format!("long-poll{n}")).await, "sid");
    }
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn fault_098_sids_expire() {
    let node = Node::with_ping("a", (100, 100), "").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    for n in 0..50 {
        handshake(&mut client, &format!("h{n}"), "").await;
    }
    assert!(proxy.metric(SESSIONS).await > 0.0);
    proxy.wait_for_metric("an empty table", SESSIONS, |count| count == 0.0).await;
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_099_sids_are_secrets() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let session = handshake(&mut client, "open", "").await;
    assert_eq!(poll(&mut client, &session.sid, "poll", "").await.status(), 200);
    let other = "SECRET-SID-OF-ANOTHER-CLIENT";
    assert_eq!(poll(&mut client, other, "guess", "").await.status(), 400);
    let encoded = format!("/socket.io/?EIO=4&transport=polling&t=encoded&s%69d={other}");
    client.send(message::get(&encoded, "")).await;
    client.response().await;
    let marked = |line: &serde_json::Value| line["path"].as_str().unwrap().contains("t=encoded");
    pair.proxy.wait_for_log("the last line", marked).await;
    let log = String::from_utf8(pair.proxy.access_log()).unwrap();
    for secret in [session.sid.as_str(), other] {
        assert!(!log.contains(secret), "{log}");
        assert!(!pair.proxy.stderr_text().contains(secret), "{}", pair.proxy.stderr_text());
        assert!(!pair.proxy.metrics().await.contains(secret));
    }
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn fault_099_same_sid_in_two_pools() {
    let inner = Node::start("inner").await;
    let pair = Pair::with(|settings| {
        settings.host("inner.test", "inner", &[inner.backend.address]);
    })
    .await;
    let session = pair.session_on("b").await;
    inner.add_session(&session.sid);
    let target = poll_target(&session.sid, "inner");
    let mut client = pair.client().await;
    client.send(format!("GET {target} HTTP/1.1\r\nHost: inner.test\r\n\r\n")).await;
    assert_eq!(client.response().await.header("x-node"), Some("inner"));
    let reply = poll(&mut client, &session.sid, "own", "").await;
    assert_eq!(reply.header("x-node"), Some("b"));
    drop((client, inner));
    pair.finish().await;
}

#[tokio::test]
async fn fault_100_owner_search_asks_one_backend_after_the_other() {
    let (a, b) = (Backend::manual().await, Backend::manual().await);
    let proxy = Proxy::for_backends(&[a.address, b.address]).await;
    let unknown = "{\"code\":1,\"message\":\"Session ID unknown\"}";
    let refusal = message::reply("400 Bad Request", "Content-Type: application/json\r\n", unknown);
    let target = poll_target("unknown-sid", "ask");
    let requests = [
        message::get(&target, "Origin: http://app.test\r\n"),
        message::post(&target, "Origin: http://app.test\r\n", "4hello"),
    ];
    for (round, request) in requests.into_iter().enumerate() {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(request).await;
        let total = || a.requests().len() + b.requests().len();
        let before = 2 * round;
        eventually("the request at one node", || total() > before).await;
        let (first, second) = if a.requests().len() > round { (&a, &b) } else { (&b, &a) };
        assert_eq!(second.requests().len(), round, "the request was sent to both nodes at once");
        let peer = first.peer(first.connections() - 1).await;
        peer.send(&refusal).await;
        eventually("the request at the other node", || total() == before + 2).await;
        assert_eq!(second.requests().len(), round + 1);
        second.peer(second.connections() - 1).await.send(&refusal).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (400, unknown));
        assert!(reply.header("access-control-allow-origin").is_some(), "{reply:?}");
        let bodies: Vec<_> = [&a, &b].map(|n| n.requests()[round].body.clone()).into();
        assert_eq!(bodies[0], bodies[1], "the nodes got different bodies");
    }
    assert_eq!(a.requests()[1].body, b"4hello");
    drop((a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn an_owner_search_gives_back_no_connection_with_an_unread_body() {
    let pair = Pair::with(|settings| {
        settings.pool("reuse", "{ idle_timeout = \"1h\" }");
    })
    .await;
    let ended = || {
        let nodes = [&pair.a.backend, &pair.b.backend];
        let ended =
            |node: &&Backend| (0..node.connections()).filter(|n| node.end(*n).is_some()).count();
        nodes.iter().map(ended).sum::<usize>()
    };
    let mut client = pair.client().await;
    for round in 1..=3 {
        let reply = poll(&mut client, &format!("invented-{round}"), "t", "").await;
        assert_eq!(reply.status(), 400);
        // The second node's response was read to its end; that of the first only as far as the search needs it.
        eventually("the end of the first node's connection", || ended() >= round).await;
        assert_eq!(ended(), round, "the connection of the relayed response was closed, too");
    }
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn an_owner_search_asks_no_node_twice_if_the_last_one_refuses_connections() {
    let unknown = "{\"code\":1,\"message\":\"Session ID unknown\"}";
    let node = Backend::answering(move |request| {
        let known = request.start.contains("sid=known");
        let (status, text) = if known { ("200 OK", "ok") } else { ("400 Bad Request", unknown) };
        message::reply(status, "Content-Type: application/json\r\n", text)
    })
    .await;
    let ended = Backend::replying("before it ends").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.address, ended.address]);
        settings.pool("health", "{ interval = \"1h\", fall = 1000 }");
    })
    .await;
    let address = ended.address;
    drop(ended);
    let _refusing = Refusing::at(address).await;
    let mut client = Raw::connect(proxy.web()).await;
    // The order of the nodes depends on the sid.
    for n in 0..8 {
        for (request, is_post) in [
            (message::get(&poll_target(&format!("invented-{n}"), "g"), ""), false),
            (message::post(&poll_target(&format!("invented-{n}"), "p"), "", "1"), true),
        ] {
            client.send(request).await;
            assert_eq!(client.response().await.status(), 400);
            let expected = 3 * n + 1 + usize::from(is_post);
            assert_eq!(node.requests().len(), expected, "a request was sent twice");
        }
        // The connection of the search is used again: a second response on it would arrive here.
        client.send(message::get(&poll_target("known", &format!("k{n}")), "")).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    }
    drop(client);
    proxy.finish().await;
}

#[tokio::test]
async fn an_owner_search_charges_the_bytes_of_a_body_and_not_its_chunks() {
    let pair = Pair::start().await;
    let body = "1\r\nx\r\n".repeat(1_600_000);
    let target = poll_target("invented", "chunks");
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n"
    );
    let mut client = pair.client().await;
    client.send(request).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.header("x-node").is_some()), (400, true), "{}", reply.text());
    for node in [&pair.a, &pair.b] {
        let seen = node.backend.requests().pop().unwrap();
        assert_eq!((seen.header("content-length"), seen.body.len()), (Some("1600000"), 1_600_000));
    }
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn fault_100_unknown_sid_is_found_and_learned() {
    let pair = Pair::start().await;
    for (n, node) in [&pair.a, &pair.b].into_iter().enumerate() {
        let sid = format!("from-before-the-restart-{n}");
        node.add_session(&sid);
        let mut client = pair.client().await;
        for t in ["first", "second", "third"] {
            let reply = poll(&mut client, &sid, &format!("{t}{n}"), "").await;
            assert_eq!((reply.status(), reply.header("x-node")), (200, Some(node.name)));
        }
        assert_eq!(pair.chosen_by(&format!("first{n}")).await, "owner_search");
        assert_eq!(pair.chosen_by(&format!("third{n}")).await, "sid");
        assert_eq!(node.request_count(&sid), 3);
        assert!(
            pair.a.request_count(&sid) + pair.b.request_count(&sid) <= 4,
            "another owner search for a sid that was found"
        );
    }
    // An owner search also finds the node for an upgrade.
    pair.b.add_session("upgrades-at-b");
    let mut client = pair.client().await;
    let target = "/socket.io/?EIO=4&transport=websocket&sid=upgrades-at-b";
    client.send(websocket::request(target, "")).await;
    assert_eq!(client.response().await.status(), 101);
    // An upgrade of an unknown session gets the response of a node, and no tunnel.
    let mut other = pair.client().await;
    let target = "/socket.io/?EIO=4&transport=websocket&sid=unknown-sid";
    other.send(websocket::request(target, "")).await;
    let reply = other.response().await;
    assert_eq!(reply.status(), 400);
    assert!(reply.text().contains("Session ID unknown"), "{}", reply.text());
    assert_eq!(pair.a.request_count("unknown-sid") + pair.b.request_count("unknown-sid"), 2);
    drop((client, other));
    pair.finish().await;
}

#[tokio::test]
async fn fault_103_cookie_and_sid_disagree() {
    let pair = Pair::start().await;
    let (a, b) = (pair.session_on("a").await, pair.session_on("b").await);
    let mut client = pair.client().await;
    for n in 0..3 {
        let t = format!("torn{n}");
        let field = cookie_field(b.cookie.as_ref().unwrap());
        let reply = poll(&mut client, &a.sid, &t, &field).await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("a")));
        assert_eq!(pair.chosen_by(&t).await, "sid");
    }
    // An upgrade on the wrong node would break the session.
    let mut tunnel = pair.client().await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", a.sid);
    tunnel.send(websocket::request(&target, &cookie_field(b.cookie.as_ref().unwrap()))).await;
    assert_eq!(tunnel.response().await.status(), 101);
    assert_eq!(pair.b.request_count(&a.sid), 0, "the node of the cookie got a request");
    drop((client, tunnel));
    pair.finish().await;
}

#[tokio::test]
async fn a_known_session_waits_for_a_connection_and_an_unknown_one_gets_503() {
    let node = Node::start("a").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
        settings.pool("limits", "{ connections = 1, pending = 1 }");
        settings.timeouts("connect = \"1m\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "known", "").await;
    let in_use = "moorline_backend_connections";
    proxy.wait_for_metric("a free connection", in_use, |in_use| in_use == 0.0).await;
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request("/socket.io/?EIO=4&transport=websocket", "")).await;
    assert_eq!(tunnel.response().await.status(), 101);
    let invented = message::get(&poll_target("invented", "invented"), "");
    assert_eq!(Raw::ask(proxy.web(), invented.clone()).await.status(), 503);
    client.send(message::get(&poll_target(&session.sid, "waits"), "")).await;
    let waiting = "moorline_backend_pending_requests";
    proxy.wait_for_metric("the session's poll", waiting, |waiting| waiting == 1.0).await;
    for other in [invented, message::get("/plain", "")] {
        assert_eq!(Raw::ask(proxy.web(), other).await.status(), 503);
    }
    drop(tunnel);
    assert_eq!(client.response().await.status(), 200);
    proxy.wait_for_metric("a free connection", in_use, |in_use| in_use == 0.0).await;
    assert_eq!(proxy.metric(waiting).await, 0.0);
    assert_eq!(Raw::ask(proxy.web(), message::get("/plain", "")).await.status(), 200);
    drop((client, node));
    proxy.finish().await;
}

//! Another server decides about requests.

use serde_json::json;

use super::{
    super::{get, routed},
    logged,
};
use crate::support::{
    Backend, Message, Node, Proxy, Raw, backend, message,
    node::{Session, handshake, handshake_target, poll, poll_target},
    websocket,
};

/// A server that lets the cookies `anna` and `bert` pass, redirects pages without a cookie, and refuses others.
async fn start_decider() -> Backend {
    let script = backend::answering(|request: &Message| match request.header("cookie") {
        Some("id=anna") => {
            message::reply("204 No Content", "X-User: anna\r\nX-Roles: a\r\nX-Roles: b\r\n", "")
        }
        Some("id=bert") => message::reply("200 OK", "X-User: bert\r\n", "ignored"),
        Some("id=unnamed") => message::reply("200 OK", "", ""),
        Some("id=broken") => message::reply("500 Internal Server Error", "", ""),
        Some("id=banned") => {
            message::reply("403 Forbidden", "X-Secret: 1\r\nSet-Cookie: id=\r\n", "banned")
        }
        Some("id=gone") => {
            message::reply("401 Unauthorized", "WWW-Authenticate: Custom x=y\r\n", "log in")
        }
        _ => message::reply(
            "302 Found",
            "Location: https://login.test/\r\nContent-Type: text/html\r\n",
            "moved",
        ),
    });
    Backend::start(script).await
}

/// A proxy with one route; `keys` are more keys of the table `forward`.
async fn guarded(decider: &Backend, backend: &Backend, keys: &str) -> Proxy {
    with_route(decider, backend, "", keys).await
}

async fn with_route(decider: &Backend, backend: &Backend, route: &str, keys: &str) -> Proxy {
    let url = format!("http://{}/verify?from=proxy", decider.address);
    let route = format!(
        "{route}\n[routes.auth.forward]\nurl = \"{url}\"\ncopy = [\"X-User\", \"X-Roles\"]\nsubject = \"X-User\"\n{keys}\n"
    );
    routed(backend, &route).await
}

/// The request that the server has got last.
fn last(server: &Backend) -> Message {
    server.requests().last().unwrap().clone()
}

#[tokio::test]
async fn a_request_passes_with_the_fields_of_the_server_that_decides() {
    let (decider, backend) = (start_decider().await, Backend::replying("ok").await);
    let proxy = guarded(&decider, &backend, "").await;
    let fields = "Cookie: id=anna\r\nX-User: root\r\nX_User: root\r\nx-ROLES: root\r\nX-Forwarded-Uri: /public\r\n\
                  Connection: keep-alive, X-User, X-Roles\r\n";
    let request = message::post("/a?b=1", fields, "body");
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 200);
    let seen = last(&backend);
    assert_eq!((seen.all("x-user"), seen.all("x-roles")), (vec!["anna"], vec!["a", "b"]));
    assert!(seen.all("x_user").is_empty());
    assert_eq!(seen.text(), "body");
    let asked = last(&decider);
    assert_eq!((asked.method(), asked.target(), &*asked.text()), ("GET", "/verify?from=proxy", ""));
    for (name, value) in [
        ("x-forwarded-uri", "/a?b=1"),
        ("x-original-uri", "/a?b=1"),
        ("x-forwarded-method", "POST"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("cookie", "id=anna"),
    ] {
        assert_eq!(asked.all(name), [value], "{name}");
    }
    assert!(asked.header("content-length").is_none_or(|length| length == "0"));
    // What the server does not send, the client cannot send.
    let bert = "Cookie: id=bert\r\nX-Roles: root\r\n";
    assert_eq!(get(&proxy, "/", bert).await.status(), 200);
    assert!(last(&backend).all("x-roles").is_empty());
    drop((decider, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_refusal_goes_to_pages_and_other_clients_get_no_redirect() {
    let (decider, backend) = (start_decider().await, Backend::replying("ok").await);
    let proxy = guarded(&decider, &backend, "").await;
    let moved = get(&proxy, "/", "").await;
    assert_eq!((moved.status(), moved.header("location")), (302, Some("https://login.test/")));
    assert_eq!(moved.text(), "moved");
    let banned = get(&proxy, "/", "Cookie: id=banned\r\n").await;
    assert_eq!((banned.status(), &*banned.text()), (403, "banned"));
    assert_eq!((banned.header("set-cookie"), banned.header("x-secret")), (Some("id="), None));
    let gone = get(&proxy, "/", "Cookie: id=gone\r\n").await;
    assert_eq!((gone.status(), gone.header("www-authenticate")), (401, Some("Custom x=y")));
    let events = "Accept: text/event-stream\r\n";
    for (request, expected) in [
        (message::get(&handshake_target("t0"), ""), 401),
        (websocket::request("/ws", ""), 401),
        (message::get("/events", events), 401),
        (message::get(&handshake_target("t0"), "Cookie: id=banned\r\n"), 403),
    ] {
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!((reply.status(), reply.header("location")), (expected, None));
        let line = logged(&proxy, &reply).await;
        assert!(line["error"].as_str().unwrap().contains("refused by forward auth"), "{line}");
    }
    backend.assert_untouched();
    drop((decider, backend));
    proxy.finish().await;
}

/// A server that fails in the way that the cookie names.
async fn start_liar() -> Backend {
    let script = backend::script(|peer| async move {
        while let Some(request) = peer.request().await {
            let field = |size: usize| format!("X-User: {}\r\n", "a".repeat(size));
            let sent = match request.header("cookie").unwrap_or_default() {
                "broken" => message::reply("500 Internal Server Error", "", ""),
                "unchanged" => message::reply("304 Not Modified", "", ""),
                "switching" => message::reply("101 Switching Protocols", "Upgrade: x\r\n", ""),
                "garbage" => b"\0\x16nonsense\r\n\r\n".to_vec(),
                "huge-field" => message::reply("200 OK", &field(40 << 10), ""),
                "huge-body" => message::reply("200 OK", &field(1), &"a".repeat(100 << 10)),
                "two" => message::reply("200 OK", &field(1).repeat(2), ""),
                "cut" => b"HTTP/1.1 200 OK\r\nX-User: a\r\nContent-Length: 9\r\n\r\nhalf".to_vec(),
                "slow" => b"HTTP/1.1 200 OK\r\nX-User: a\r\n".to_vec(),
                "reset" => return peer.reset(),
                "silent" => Vec::new(),
                other => panic!("{other}"),
            };
            peer.send(sent).await;
            match request.header("cookie") {
                Some("cut") => return,
                Some("slow" | "silent") => std::future::pending().await,
                _ => {}
            }
        }
    });
    Backend::start(script).await
}

#[tokio::test]
async fn a_request_fails_without_a_decision_in_time() {
    let (liar, backend) = (start_liar().await, Backend::replying("ok").await);
    let proxy = guarded(&liar, &backend, "timeout = \"100ms\"").await;
    for (cookie, reason) in [
        ("broken", "status 500"),
        ("unchanged", "status 304"),
        ("switching", "status 101"),
        ("garbage", "invalid HTTP"),
        ("huge-field", "head is too large"),
        ("huge-body", "longer than 65536 bytes"),
        ("two", "not the name of one client"),
        ("cut", "before message length reached"),
        ("reset", ""),
        ("silent", "within 100ms"),
        ("slow", "within 100ms"),
    ] {
        let reply = get(&proxy, "/", &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("5")), "{cookie}");
        let line = logged(&proxy, &reply).await;
        assert_eq!(line["termination"], "proxy_select_auth_unavailable", "{cookie}");
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("no decision") && error.contains(reason), "{cookie}: {error}");
    }
    drop(liar);
    assert_eq!(get(&proxy, "/", "Cookie: broken\r\n").await.status(), 503);
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn decisions_are_kept_by_credential_and_connections_are_used_again() {
    let (decider, backend) = (start_decider().await, Backend::replying("ok").await);
    let proxy = guarded(&decider, &backend, "cache = \"1m\"").await;
    for (target, cookie, asked) in [
        ("/a", "anna", 1),
        ("/a", "anna", 1),
        ("/a", "bert", 2),
        ("/b", "anna", 3),
        ("/socket.io/?EIO=4&transport=polling&t=1", "anna", 4),
        ("/socket.io/?EIO=4&transport=polling&t=2", "anna", 4),
        ("/socket.io/?EIO=4&transport=polling&t=2&x=1", "anna", 5),
    ] {
        assert_eq!(get(&proxy, target, &format!("Cookie: id={cookie}\r\n")).await.status(), 200);
        assert_eq!(decider.requests().len(), asked, "{target} {cookie}");
    }
    // Another credential is another question, wherever it is.
    for fields in ["Authorization: Bearer x", "X-API-Key: x", "X-API-Key: y", "x-other: y"] {
        let asked = decider.requests().len();
        for _ in 0..2 {
            get(&proxy, "/a", &format!("Cookie: id=anna\r\n{fields}\r\n")).await;
        }
        assert_eq!(decider.requests().len(), asked + 1, "{fields}");
    }
    let asked = decider.requests().len();
    // Refusals are not kept.
    for _ in 0..2 {
        assert_eq!(get(&proxy, "/a", "Cookie: id=banned\r\n").await.status(), 403);
    }
    assert_eq!(decider.requests().len(), asked + 2);
    assert_eq!(decider.connections(), 1);
    drop((decider, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn the_client_gets_fields_of_the_server_once() {
    let script = |_: &Message| message::reply("200 OK", "Set-Cookie: id=new\r\nX-User: a\r\n", "");
    let decider = Backend::answering(script).await;
    let backend =
        Backend::answering(|_| message::reply("200 OK", "Set-Cookie: theme=dark\r\n", "")).await;
    let keys = "copy_back = [\"Set-Cookie\"]\ncache = \"1m\"";
    let proxy = guarded(&decider, &backend, keys).await;
    let reply = get(&proxy, "/", "").await;
    assert_eq!(reply.all("set-cookie"), ["theme=dark", "id=new"]);
    assert_eq!(reply.header("x-user"), None);
    // The cookie may have changed since.
    assert_eq!(get(&proxy, "/", "").await.all("set-cookie"), ["theme=dark"]);
    assert!(last(&backend).header("set-cookie").is_none());
    drop((decider, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_for_one_client_is_not_stored_for_another() {
    let decider = Backend::answering(|_| message::reply("200 OK", "X-Roles: a\r\n", "")).await;
    let backend = Backend::answering(|request: &Message| {
        let own = request.header("cookie").unwrap_or_default();
        message::reply("200 OK", "Cache-Control: max-age=600\r\n", own)
    })
    .await;
    let proxy = with_route(&decider, &backend, "cache = true", "").await;
    for cookie in ["anna", "bert"] {
        assert_eq!(get(&proxy, "/", &format!("Cookie: {cookie}\r\n")).await.text(), cookie);
    }
    drop((decider, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn pages_of_other_sites_cannot_use_the_cookie() {
    let (decider, backend) = (start_decider().await, Backend::replying("ok").await);
    let proxy = guarded(&decider, &backend, "").await;
    let fields = "Cookie: id=anna\r\nOrigin: https://evil.test\r\n";
    assert_eq!(get(&proxy, &handshake_target("t0"), fields).await.status(), 403);
    assert_eq!(Raw::ask(proxy.web(), websocket::request("/ws", fields)).await.status(), 403);
    decider.assert_untouched();
    backend.assert_untouched();
    drop((decider, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_belongs_to_the_client_that_the_server_names() {
    let (decider, node) = (start_decider().await, Node::start("a").await);
    let proxy = guarded(&decider, &node.backend, "").await;
    let mut client = Raw::connect(proxy.web()).await;
    let Session { sid, .. } = handshake(&mut client, "t0", "Cookie: id=anna\r\n").await;
    for (fields, expected) in [
        ("Cookie: id=anna\r\n", 200),
        ("Cookie: id=bert\r\n", 403),
        ("Cookie: id=unnamed\r\n", 403),
        ("Cookie: id=gone\r\n", 401),
        ("", 401),
        ("Cookie: id=broken\r\n", 503),
    ] {
        assert_eq!(poll(&mut client, &sid, "t1", fields).await.status(), expected, "{fields}");
    }
    // A browser cannot set fields on a WebSocket, which follows the session.
    let upgrade = poll_target(&sid, "t1").replace("polling", "websocket");
    let banned = websocket::request(&upgrade, "Cookie: id=bert\r\n");
    assert_eq!(Raw::ask(proxy.web(), banned).await.status(), 403);
    let gone = websocket::request(&upgrade, "Cookie: id=gone\r\n");
    assert_eq!(Raw::ask(proxy.web(), gone).await.status(), 401);
    let mut socket = Raw::connect(proxy.web()).await;
    socket.send(websocket::request(&upgrade, "")).await;
    assert_eq!(socket.response().await.status(), 101);
    let reply =
        proxy.api().ask("POST", "/v1/revocations", &json!({ "subject": "anna" }).to_string()).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    // A Close frame with status 1008.
    assert_eq!(socket.exact(4).await, [0x88, 21, 0x03, 0xf0]);
    let request = message::get(&poll_target(&sid, "t2"), "Cookie: id=bert\r\n");
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 400);
    // The server still lets the client pass: it may open another session.
    while get(&proxy, &handshake_target("t3"), "Cookie: id=anna\r\n").await.status() != 200 {}
    drop((decider, node, socket, client));
    proxy.finish().await;
}

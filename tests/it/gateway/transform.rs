//! Transformation of requests and responses, as clients and backends see it.

use super::{compression::decoded, get, routed};
use crate::support::{
    Backend, End, Message, Proxy, Raw, message,
    node::{handshake_target, poll_target},
    proxy::Setup,
    websocket,
};

const JSON: &str = "Content-Type: application/json\r\n";

/// A body with a secret, and what is left of it.
const SECRET: &str = r#"{"id": 12345678901234567890123, "user": {"name": "a", "password": "p"}, "cards": [{"number": "1", "x": 1.50}]}"#;
const SAFE: &str =
    r#"{"id":12345678901234567890123,"user":{"name":"a"},"cards":[{"number":"***","x":1.50}]}"#;

const PROTECT: &str =
    "transform = { response = { drop = [\"user.password\"], mask = [\"cards.number\"] } }\n";

async fn post(proxy: &Proxy, target: &str, fields: &str, body: &str) -> Message {
    Raw::ask(proxy.web(), message::post(target, fields, body)).await
}

/// A backend that answers with its request's body, and with the fields in `X-Fields`, with `|` between them.
async fn echo() -> Backend {
    Backend::answering(|request| {
        let fields = request.header("x-fields").unwrap_or_default();
        let fields: String =
            fields.split('|').filter(|f| !f.is_empty()).map(|f| format!("{f}\r\n")).collect();
        let status = request.header("x-status").unwrap_or("200 OK");
        message::reply(status, &fields, &request.text())
    })
    .await
}

#[tokio::test]
async fn a_response_is_changed_and_its_head_with_it() {
    let backend = Backend::answering(|request| {
        let fields = format!("{JSON}ETag: \"1\"\r\nAccept-Ranges: bytes\r\nContent-Digest: x\r\nX-Own: 1\r\n");
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!((request.header("range"), request.header("if-range")), (None, None));
        match request.method() {
            "HEAD" => format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 111\r\n\r\n").into_bytes(),
            _ if request.header("if-none-match").is_some() => {
                b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec()
            }
            _ if request.target() == "/chunked" => {
                let (first, rest) = SECRET.split_at(60);
                format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\nContent-Digest: x\r\n\r\n", first.len(), rest.len()).into_bytes()
            }
            _ => message::reply("200 OK", &fields, SECRET),
        }
    })
    .await;
    let proxy = routed(&backend, &format!("{PROTECT}compress = {{ min_size = 0 }}\n")).await;
    let mut client = Raw::connect(proxy.web()).await;
    for target in ["/", "/chunked"] {
        client
            .send(message::get(
                target,
                "Range: bytes=0-9\r\nIf-Range: \"1\"\r\nAccept-Encoding: identity\r\n",
            ))
            .await;
        let reply = client.response().await;
        assert_eq!((reply.status(), &*reply.text()), (200, SAFE), "{target}");
        assert_eq!(reply.all("content-length"), [SAFE.len().to_string()]);
        assert_eq!((reply.header("etag"), reply.header("x-own")), (Some("W/\"1\""), Some("1")));
        assert_eq!((reply.header("accept-ranges"), reply.header("content-digest")), (None, None));
        let line = proxy.wait_for_log("the line", |line| line["path"] == target).await;
        assert_eq!(
            (&line["bytes_out"], &line["termination"]),
            (&SAFE.len().into(), &"complete".into())
        );
    }
    // Compression comes last.
    client.send(message::get("/", "Accept-Encoding: gzip\r\n")).await;
    let reply = client.response().await;
    assert_eq!(
        (reply.header("content-encoding"), decoded("gzip", &reply.body)),
        (Some("gzip"), SAFE.to_owned())
    );
    client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.header("content-length"), head.header("etag")), (None, Some("W/\"1\"")));
    client.send(message::get("/", "If-None-Match: W/\"1\"\r\n")).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.header("etag")), (304, Some("W/\"1\"")));
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_protected_does_not_pass() {
    let backend = echo().await;
    let proxy = routed(&backend, &PROTECT.replace("drop", "limit = 200, drop")).await;
    let broken = "{\"user\":{\"password\":\"secret\"}";
    let large = format!("{{\"x\":\"{}\"}}", "secret".repeat(100));
    for (fields, body, termination) in [
        ("Content-Type: text/html", "secret", "media_type"),
        ("", "secret", "media_type"),
        ("Content-Type: application/json", broken, "unchangeable"),
        ("Content-Type: application/json; charset=utf-8", "[secret]", "unchangeable"),
        ("Content-Type: application/problem+json", &large, "body_too_large"),
        ("Content-Type: application/json|Content-Encoding: compress", "secret", "content_coding"),
        ("Content-Type: application/json|Content-Encoding: gzip", "secret", "content_coding"),
        (
            "Content-Type: application/json|Content-Range: bytes 0-5/9",
            "{\"secret\":1}",
            "unchangeable",
        ),
    ] {
        let reply = post(&proxy, "/", &format!("X-Fields: {fields}\r\n"), body).await;
        assert_eq!(reply.status(), 502, "{fields} {body}");
        assert!(!reply.text().contains("secret"), "{}", reply.text());
        let termination = format!("backend_response_body_{termination}");
        proxy.wait_for_log(&termination, |line| line["termination"] == *termination).await;
    }
    // What has no body hides nothing; an event stream is never touched.
    assert_eq!(get(&proxy, "/", "").await.status(), 200);
    let events =
        post(&proxy, "/", "X-Fields: Content-Type: text/event-stream\r\n", "data: 1\n\n").await;
    assert_eq!((events.status(), &*events.text()), (200, "data: 1\n\n"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_change_that_only_improves_can_let_bodies_pass() {
    let backend = echo().await;
    let keys = "transform = { response = { rename = { a = \"b\" }, limit = 50, other_types = \"pass\", on_fault = \"pass\" } }\n";
    let proxy = routed(&backend, keys).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(100));
    for (fields, body) in [
        ("Content-Type: text/html|ETag: \"1\"", "<p>"),
        ("Content-Type: application/json|ETag: \"1\"", "{\"a\":"),
        ("Content-Type: application/json|ETag: \"1\"", &large),
        ("Content-Type: application/json|Content-Encoding: compress|ETag: \"1\"", "x"),
    ] {
        let reply = post(&proxy, "/", &format!("X-Fields: {fields}\r\n"), body).await;
        assert_eq!((reply.status(), &*reply.text()), (200, body), "{fields}");
        assert_eq!(reply.header("etag"), Some("\"1\""), "{fields}");
    }
    let reply =
        post(&proxy, "/", "X-Fields: Content-Type: application/json\r\n", "{\"a\":1}").await;
    assert_eq!(reply.text(), "{\"b\":1}");
    drop(backend);
    proxy.finish().await;
}

/// A body of unknown size passes as it is once it is larger than the limit, with its rest.
#[tokio::test]
async fn a_large_body_of_unknown_size_is_put_back() {
    let backend = Backend::manual().await;
    let keys = "transform = { request = { rename = { a = \"b\" }, limit = 50, on_fault = \"pass\" }, \
                response = { rename = { a = \"b\" }, limit = 50, on_fault = \"pass\" } }\n";
    let proxy = routed(&backend, keys).await;
    let mut client = Raw::connect(proxy.web()).await;
    let chunk = format!("32\r\n{}\r\n", "x".repeat(50));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n"
    );
    client.send(&head).await;
    assert_eq!(client.head().await.status(), 100);
    client.send(format!("{chunk}{chunk}")).await;
    let peer = backend.peer(0).await;
    client.send(format!("{chunk}0\r\n\r\n")).await;
    let request = peer.request().await.unwrap();
    assert_eq!((request.text(), request.header("expect")), ("x".repeat(150), None));
    peer.send(format!("HTTP/1.1 200 OK\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}"))
        .await;
    assert_eq!(client.head().await.status(), 200);
    peer.send(format!("{chunk}0\r\n\r\n")).await;
    let expected = format!("{}0\r\n\r\n", chunk.repeat(3));
    assert_eq!(String::from_utf8(client.exact(expected.len()).await).unwrap(), expected);
    // A small one that is chunked is changed on both ways, on the same connections.
    let small = "7\r\n{\"a\":1}\r\n0\r\n\r\n";
    client.send(format!("{}{small}", head.replace("Expect: 100-continue\r\n", ""))).await;
    let request = peer.request().await.unwrap();
    assert_eq!((&*request.text(), request.header("content-length")), ("{\"b\":1}", Some("7")));
    peer.send(format!("HTTP/1.1 200 OK\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n{small}")).await;
    assert_eq!(client.response().await.text(), "{\"b\":1}");
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_is_changed_or_refused_before_a_backend_gets_it() {
    let backend = echo().await;
    let keys =
        "transform = { request = { drop = \"admin\", rename = { n = \"name\" }, limit = 100 } }\n";
    let proxy = routed(&backend, keys).await;
    let body = "{\"admin\":true,\"n\":1,\"adm\\u0069n\":2}";
    let reply = post(&proxy, "/", &format!("{JSON}Content-Digest: x\r\n"), body).await;
    assert_eq!((reply.status(), &*reply.text()), (200, "{\"name\":1}"));
    let request = backend.requests().last().unwrap().clone();
    assert_eq!(
        (request.all("content-length"), request.header("content-digest")),
        (vec!["10"], None)
    );
    let before = backend.requests().len();
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(100));
    for (fields, body, status, termination) in [
        ("Content-Type: text/plain\r\n", body, 415, "media_type"),
        ("", body, 415, "media_type"),
        (&*format!("{JSON}Content-Encoding: gzip\r\n"), body, 415, "content_coding"),
        (JSON, "{\"admin\":true", 400, "unchangeable"),
        (JSON, &large, 413, "body_too_large"),
    ] {
        let reply = post(&proxy, "/", fields, body).await;
        assert_eq!(reply.status(), status, "{fields} {body}");
        let termination = format!("client_request_body_{termination}");
        proxy.wait_for_log(&termination, |line| line["termination"] == *termination).await;
    }
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n80\r\n{}\r\n0\r\n\r\n",
        "x".repeat(128)
    );
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 413);
    assert_eq!(backend.requests().len(), before);
    // Without a body, there is nothing to change.
    assert_eq!(get(&proxy, "/", "").await.status(), 200);
    assert_eq!(post(&proxy, "/", JSON, "").await.status(), 200);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_template_writes_the_body() {
    let backend = echo().await;
    let keys = "transform = { request = { template = '''{\"data\": {{ body }}, \"by\": {{ method ~ path }}}''' }, \
                response = { template = '''{\"status\": {{ status }}, \"data\": {{ body.data }}}''' }, status = { 201 = 200 } }\n";
    let proxy = routed(&backend, keys).await;
    let fields =
        format!("{JSON}X-Status: 201 Created\r\nX-Fields: Content-Type: application/json\r\n");
    let reply =
        post(&proxy, "/x?y=1", &fields, "{\"a\":1,\"z\":[1.50,18446744073709551616]}").await;
    assert_eq!(reply.status(), 200);
    assert_eq!(
        reply.text(),
        "{\"status\": 200, \"data\": {\"a\":1,\"z\":[1.5,18446744073709551616]}}"
    );
    assert_eq!(
        backend.requests()[0].text(),
        "{\"data\": {\"a\":1,\"z\":[1.5,18446744073709551616]}, \"by\": \"POST/x\"}"
    );
    let bomb = "transform = { response = { template = '''[{% for a in body %}{% for b in body %}{{ body }},{% endfor %}{% endfor %}0]''' } }\n";
    let bombs = routed(&backend, bomb).await;
    let body = format!("[{}0]", "0,".repeat(2000));
    assert_eq!(
        post(&bombs, "/", "X-Fields: Content-Type: application/json\r\n", &body).await.status(),
        502
    );
    bombs
        .wait_for_log("the end", |line| line["termination"] == "backend_response_body_unchangeable")
        .await;
    drop(backend);
    bombs.finish().await;
    proxy.finish().await;
}

#[tokio::test]
async fn statuses_are_mapped_and_error_pages_replace_bodies() {
    let backend = echo().await;
    let keys =
        "transform = { status = { 418 = 404, 404 = 410 }, error_pages = [\"418\", \"5xx\"] }\n";
    let proxy = routed(&backend, keys).await;
    let ask = |status: &str, accept: &str| {
        let fields = format!(
            "X-Status: {status}\r\nAccept: {accept}\r\nX-Fields: Content-Type: text/plain|ETag: \"1\"|Content-Language: de|Retry-After: 7|Content-Encoding: br\r\n"
        );
        message::post("/", &fields, "the stack of the app")
    };
    let mut client = Raw::connect(proxy.web()).await;
    for (status, accept, expected, kind) in [
        ("418 Teapot", "text/html", 404, "text/html; charset=utf-8"),
        ("500 Broken", "application/json", 500, "application/json"),
        ("503 Full", "*/*", 503, "text/plain; charset=utf-8"),
    ] {
        client.send(ask(status, accept)).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.header("content-type")), (expected, Some(kind)));
        assert!(!reply.text().contains("stack") && !reply.text().is_empty(), "{}", reply.text());
        assert_eq!((reply.header("etag"), reply.header("content-encoding")), (None, None));
        assert_eq!(
            (reply.header("retry-after"), reply.header("content-language")),
            (Some("7"), None)
        );
        assert!(reply.text().contains(reply.header("x-request-id").unwrap()), "{}", reply.text());
    }
    client.send(ask("404 Not Found", "text/html")).await;
    let reply = client.response().await;
    assert_eq!((&*reply.start, &*reply.text()), ("HTTP/1.1 410 Gone", "the stack of the app"));
    // Every body was there with its head: its connection was kept.
    assert_eq!(backend.connections(), 1);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn an_error_page_replaces_a_body_that_does_not_end() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "transform = { error_pages = \"5xx\" }\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    peer.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.header("content-length")), (502, None));
    client.send(message::get("/", "")).await;
    peer.request().await.unwrap();
    peer.send("HTTP/1.1 500 Broken\r\nContent-Length: 1000000\r\n\r\nthe stack").await;
    let reply = client.response().await;
    assert_eq!(reply.status(), 500);
    assert!(!reply.text().contains("stack"));
    assert_ne!(peer.ended().await, End::Reset);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_and_tunnels_are_never_touched() {
    let backend = Backend::answering(|request| {
        message::reply(
            "200 OK",
            "Content-Type: application/json\r\n",
            &format!("{{\"a\":1}}{}", request.text()),
        )
    })
    .await;
    let keys = "transform = { request = { drop = \"a\" }, response = { drop = \"a\" }, status = { 200 = 500 }, error_pages = [\"5xx\"] }\n\
                decompress = true\n";
    let proxy = routed(&backend, keys).await;
    for target in [handshake_target("t0"), poll_target("unknown", "t1")] {
        let reply = get(&proxy, &target, "").await;
        assert_eq!((reply.status(), &*reply.text()), (200, "{\"a\":1}"), "{target}");
    }
    let reply =
        post(&proxy, &poll_target("unknown", "t2"), "Content-Encoding: gzip\r\n", "{\"a\":2}")
            .await;
    assert_eq!(reply.text(), "{\"a\":1}{\"a\":2}");
    drop(backend);
    let backend = Backend::start(websocket::echo()).await;
    let tunnels = routed(&backend, keys).await;
    let mut client = Raw::connect(tunnels.web()).await;
    client.send(websocket::request("/", "")).await;
    assert_eq!(client.head().await.status(), 101);
    drop((client, backend));
    tunnels.finish().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_cannot_avoid_a_transformation() {
    let secret = "{\"name\":\"anna\",\"password\":\"x\"}";
    let open = "0{\"sid\":\"abcdefghijklmnopqrst\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}";
    let backend = Backend::answering(move |request| {
        if request.start.starts_with("GET /realtime/?EIO=4&transport=polling&t=") {
            return message::reply("200 OK", "Content-Type: text/plain; charset=UTF-8\r\n", open);
        }
        message::reply("200 OK", "Content-Type: application/json\r\n", secret)
    })
    .await;
    let proxy = routed(&backend, "transform = { response = { drop = \"password\" } }\n").await;
    let changed = "{\"name\":\"anna\"}";
    let engine = "EIO=4&transport=polling";
    for target in [
        "/users/1".to_owned(),
        format!("/users/1?{engine}"),
        "/x?EIO=3&transport=polling".to_owned(),
        format!("/users.php/socket.io/?{engine}"),
        format!("/realtime/?{engine}&sid=abcdefghijklmnopqrst"),
    ] {
        let reply = get(&proxy, &target, "").await;
        assert_eq!((reply.status(), &*reply.text()), (200, changed), "{target}");
    }
    // A backend that does not switch protocols.
    let reply = Raw::ask(proxy.web(), websocket::request("/users/1", "")).await;
    assert_eq!((reply.status(), &*reply.text()), (200, changed));
    // The path of Engine.IO is learned from the packet that opens a session, which is not changed.
    let reply = get(&proxy, &format!("/realtime/?{engine}&t=1"), "").await;
    assert_eq!((reply.status(), &*reply.text()), (200, open));
    let reply = get(&proxy, &format!("/realtime/?{engine}&sid=abcdefghijklmnopqrst"), "").await;
    assert_eq!((reply.status(), &*reply.text()), (200, secret));
    let reply = get(&proxy, &format!("/users/1?{engine}&sid=abcdefghijklmnopqrst"), "").await;
    assert_eq!((reply.status(), &*reply.text()), (200, changed));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_or_stops_gets_an_error() {
    let backend = Backend::manual().await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]).timeouts("body_idle = \"300ms\"");
        settings.table(&format!("[[routes]]\npool = \"app\"\n{PROTECT}"));
    });
    let proxy = setup.start().await;
    let chunked = format!("HTTP/1.1 200 OK\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    for (at, (body, closes, status, expected)) in [
        ("5\r\n{\"a\":\r\n", true, 502, "incomplete"),
        ("5\r\n{\"a\":\r\nzz\r\n", false, 502, "malformed"),
        ("5\r\n{\"a\":\r\n", false, 504, "timed_out"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Raw::connect(proxy.web()).await;
        let target = format!("/{at}");
        client.send(message::get(&target, "")).await;
        let peer = backend.peer_for(&target).await;
        peer.send(format!("{chunked}{body}")).await;
        if closes {
            peer.close();
        }
        assert_eq!(client.response().await.status(), status, "{target}");
        let line = proxy.wait_for_log("the line", |line| line["path"] == target.as_str()).await;
        assert_eq!(line["termination"], format!("backend_response_body_{expected}"));
    }
    // A client that leaves ends the request at the backend.
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/gone", "")).await;
    let peer = backend.peer_for("/gone").await;
    peer.send(&chunked).await;
    client.reset();
    peer.ended().await;
    drop(backend);
    proxy.finish().await;
}

/// The cache stores what the backend sent; each client gets it changed, also from the store.
#[tokio::test]
async fn stored_responses_are_changed_too() {
    let backend = Backend::answering(|request| {
        let fields = format!("{JSON}ETag: \"1\"\r\nCache-Control: max-age=100\r\n");
        match request.target() {
            "/page" => message::reply(
                "200 OK",
                "Content-Type: text/html\r\nCache-Control: max-age=100\r\n",
                "secret",
            ),
            "/stale" if request.header("if-none-match").is_some() => {
                b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec()
            }
            "/stale" => message::reply("200 OK", &fields.replace("100", "0"), SECRET),
            _ => message::reply("200 OK", &fields, SECRET),
        }
    })
    .await;
    let proxy = routed(&backend, &format!("{PROTECT}cache = true\n")).await;
    for (target, requests) in [("/fresh", 1), ("/stale", 4)] {
        let before = backend.requests().len();
        for (fields, status) in [
            ("", 200),
            ("Range: bytes=0-9\r\n", 200),
            ("Accept-Encoding: gzip\r\n", 200),
            ("If-None-Match: W/\"1\"\r\n", 304),
        ] {
            let reply = get(&proxy, target, fields).await;
            assert_eq!(
                (reply.status(), reply.header("etag")),
                (status, Some("W/\"1\"")),
                "{target} {fields}"
            );
            assert_eq!(reply.text(), if status == 200 { SAFE } else { "" }, "{target} {fields}");
        }
        assert_eq!(backend.requests().len() - before, requests, "{target}");
        let mut client = Raw::connect(proxy.web()).await;
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: app.test\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.header("content-length")), (200, None));
    }
    for _ in 0..2 {
        assert_eq!(get(&proxy, "/page", "").await.status(), 502);
    }
    drop(backend);
    proxy.finish().await;
}

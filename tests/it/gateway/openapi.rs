//! API descriptions: requests that do not match them are refused before a backend gets a byte.

mod published;
mod rules;

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    Backend, Message, Node, Proxy, Raw, eventually, message,
    node::{handshake, poll, poll_target},
    proxy::{RELOADS_OK, Setup},
    websocket,
};

const API: &str = include_str!("../../config/good/api.yaml");

/// A proxy with one route to a backend, whose requests must match `document`.
async fn described(backend: &Backend, document: &str, keys: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!("[[routes]]\npool = \"app\"\nopenapi = {keys}\n"));
    });
    fs::write(setup.directory().join("api.yaml"), document).unwrap();
    setup.start().await
}

async fn ask(proxy: &Proxy, method: &str, target: &str, fields: &str, body: &str) -> Message {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    );
    Raw::ask(proxy.web(), request).await
}

const JSON: &str = "Content-Type: application/json\r\n";

/// The problem report of a reply.
fn problem(reply: &Message) -> Value {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem["status"], reply.status());
    assert_eq!(problem["request_id"], reply.header("x-request-id").unwrap());
    problem
}

fn problem_unless(reply: &Message, status: u16) {
    if reply.status() != status {
        problem(reply);
    }
}

#[tokio::test]
async fn requests_that_match_pass_and_others_are_refused_with_their_faults() {
    let backend = Backend::replying("ok").await;
    let proxy = described(&backend, API, "\"api.yaml\"").await;
    let text = r#"{"text":"hello","tags":["a"]}"#;
    let sent = ask(&proxy, "POST", "/v1/rooms/blue", JSON, text).await;
    assert_eq!(sent.status(), 200);
    let seen = backend.requests().pop().unwrap();
    assert_eq!((seen.text().as_str(), seen.header("content-length")), (text, Some("29")));
    for target in ["/v1/rooms/blue?limit=7", "/v1/rooms/%62lue", "/v1/rooms/blue?other=1"] {
        assert_eq!(ask(&proxy, "GET", target, "", "").await.status(), 200, "{target}");
    }
    let passed = backend.requests().len();

    let unknown = ask(&proxy, "GET", "/v1/users", "", "").await;
    assert_eq!((unknown.status(), problem(&unknown)["title"].as_str()), (404, Some("Not Found")));
    assert_eq!(ask(&proxy, "GET", "/rooms/blue", "", "").await.status(), 404);
    let method = ask(&proxy, "DELETE", "/v1/rooms/blue", "", "").await;
    assert_eq!((method.status(), method.header("allow")), (405, Some("GET, POST, HEAD")));
    problem(&method);
    let typed = ask(&proxy, "POST", "/v1/rooms/blue", "Content-Type: text/xml\r\n", "<a/>").await;
    assert_eq!(typed.status(), 415);
    problem(&typed);

    let parameters = ask(&proxy, "GET", "/v1/rooms/Blue?limit=1000", "", "").await;
    assert_eq!(parameters.status(), 400);
    let faults = problem(&parameters)["errors"].clone();
    let names = json!([["path", "room"], ["query", "limit"]]);
    assert_eq!(
        faults.as_array().unwrap().iter().map(|f| json!([f["in"], f["name"]])).collect::<Value>(),
        names
    );
    let body = r#"{"text":7,"tags":["a",1],"secret-name":true}"#;
    let invalid = ask(&proxy, "POST", "/v1/rooms/blue", JSON, body).await;
    assert_eq!(invalid.status(), 400);
    let faults = problem(&invalid)["errors"].clone();
    let pointers: Vec<&str> =
        faults.as_array().unwrap().iter().map(|f| f["pointer"].as_str().unwrap()).collect();
    for pointer in ["/text", "/tags/1", ""] {
        assert!(pointers.contains(&pointer), "{faults}");
    }
    let line = proxy.wait_for_log("the line", |line| line["status"] == 400).await;
    assert_eq!(line["termination"], "client_select_invalid_request");
    assert_eq!(backend.requests().len(), passed, "a refused request reaches no backend");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_refused_request_keeps_its_connection() {
    let backend = Backend::replying("ok").await;
    let proxy = described(&backend, API, "\"api.yaml\"").await;
    let mut client = Raw::connect(proxy.web()).await;
    for (body, status) in [("{\"text\":7}", 400), ("{", 400), ("{\"text\":\"x\"}", 200)] {
        client.send(message::post("/v1/rooms/blue", JSON, body)).await;
        assert_eq!(client.response().await.status(), status, "{body}");
    }
    // A browser gets a page.
    client.send(message::get("/v1/x", "Accept: text/html\r\n")).await;
    let page = client.response().await;
    assert_eq!(
        (page.status(), page.header("content-type")),
        (404, Some("text/html; charset=utf-8"))
    );
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn hostile_bodies_reach_no_backend() {
    let backend = Backend::replying("ok").await;
    let keys = "{ file = \"api.yaml\", max_body = 100 }";
    let proxy = described(&backend, API, keys).await;
    let target = "/v1/rooms/blue";
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(200));
    assert_eq!(ask(&proxy, "POST", target, JSON, &long).await.status(), 413);
    let chunked = format!(
        "POST {target} HTTP/1.1\r\nHost: app.test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    assert_eq!(Raw::ask(proxy.web(), chunked).await.status(), 413);
    let gzip = format!("{JSON}Content-Encoding: gzip\r\n");
    let coded = ask(&proxy, "POST", target, &gzip, "\u{1f}").await;
    assert_eq!((coded.status(), coded.header("accept-encoding")), (415, Some("identity")));
    for (fields, body, status) in [
        // Two readers would see different values.
        (JSON.to_owned(), "{\"text\":7,\"text\":\"x\"}", 400),
        (format!("{JSON}Content-Type: text/plain\r\n"), "{}", 415),
        (String::new(), "{\"text\":7}", 415),
        (JSON.to_owned(), "", 400),
        // The query of Engine.IO proves nothing.
        (JSON.to_owned(), "{\"text\":7} ", 400),
    ] {
        let target = "/v1/rooms/blue?EIO=4&transport=polling&sid=abcdefghijklmnopqrst";
        assert_eq!(ask(&proxy, "POST", target, &fields, body).await.status(), status, "{body}");
    }
    let upgrade = Raw::ask(proxy.web(), websocket::request("/v1/rooms/Blue", "")).await;
    assert_eq!(upgrade.status(), 400);
    for target in
        ["/internal?EIO=4&transport=polling", "/internal/socket.io/?EIO=4&transport=polling"]
    {
        assert_eq!(ask(&proxy, "GET", target, "", "").await.status(), 404, "{target}");
        assert_eq!(ask(&proxy, "DELETE", target, "", "").await.status(), 404, "{target}");
    }
    let upgrade = Raw::ask(proxy.web(), websocket::request("/internal", "")).await;
    assert_eq!(upgrade.status(), 404);
    backend.assert_untouched();
    // A body that is checked may come in pieces, after `100 Continue`.
    let mut client = Raw::connect(proxy.web()).await;
    let fields = format!("{JSON}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n");
    client.send(format!("POST {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")).await;
    assert_eq!(client.head().await.status(), 100);
    client.send("8\r\n{\"text\":\r\n").await;
    client.send("4\r\n\"x\"}\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(backend.requests().pop().unwrap().text(), "{\"text\":\"x\"}");
    // A client that leaves within its body is not counted as a fault of the backend.
    client
        .send(
            message::post(target, &format!("{JSON}X-Cut: 1\r\n"), "{\"text\":\"xyz\"}")[..120]
                .to_vec(),
        )
        .await;
    drop(client);
    proxy
        .wait_for_log("the cut", |line| line["termination"] == "client_request_body_incomplete")
        .await;
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_is_decoded_then_checked_then_transformed() {
    let backend = Backend::replying("ok").await;
    let keys = "{ file = \"api.yaml\", max_body = 1000 }\ndecompress = true\n\
                transform = { request = { drop = \"tags\" } }";
    let proxy = described(&backend, API, keys).await;
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(1000));
    for (body, status) in [
        ("{\"text\":\"x\",\"tags\":[\"a\"]}", 200),
        ("{\"text\":\"x\",\"tags\":7}", 400),
        (&*long, 413),
    ] {
        let encoded = zstd::stream::encode_all(body.as_bytes(), 9).unwrap();
        let head = format!(
            "POST /v1/rooms/blue HTTP/1.1\r\nHost: app.test\r\n{JSON}Content-Encoding: zstd\r\nContent-Length: {}\r\n\r\n",
            encoded.len()
        );
        let reply = Raw::ask(proxy.web(), [head.as_bytes(), &encoded].concat()).await;
        assert_eq!(reply.status(), status, "{body}");
        problem_unless(&reply, 200);
    }
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(backend.requests()[0].text(), "{\"text\":\"x\"}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_checked_body_is_mirrored_and_a_refused_one_is_not() {
    let (main, shadow) = (Backend::replying("ok").await, Backend::replying("ok").await);
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[main.address]);
        let shadow = shadow.address;
        settings.table(&format!(
            "[pools.shadow]\nbackends = [\"{shadow}\"]\nhealth = {{ probe = \"off\" }}\n\
             [[routes]]\npool = \"app\"\nopenapi = \"api.yaml\"\nmirror = \"shadow\"\n",
        ));
    });
    fs::write(setup.directory().join("api.yaml"), API).unwrap();
    let proxy = setup.start().await;
    for (body, status) in [("{\"text\":7}", 400), ("{\"text\":\"x\"}", 200)] {
        assert_eq!(ask(&proxy, "POST", "/v1/rooms/blue", JSON, body).await.status(), status);
    }
    let copy = shadow.request("/v1/rooms/blue").await;
    assert_eq!(copy.text(), "{\"text\":\"x\"}");
    assert_eq!((main.requests().len(), shadow.requests().len()), (1, 1));
    drop((main, shadow));
    proxy.finish().await;
}

#[tokio::test]
async fn engine_io_websockets_event_streams_and_preflights_are_left_alone() {
    let node = Node::start("a").await;
    let proxy = described(&node.backend, API, "\"api.yaml\"").await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t0", "").await;
    assert_eq!(poll(&mut client, &session.sid, "t1", "").await.status(), 200);
    let packet = message::post(&poll_target(&session.sid, "w"), "", "2");
    assert_eq!(Raw::ask(proxy.web(), packet).await.status(), 200);
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", session.sid);
    assert_eq!(Raw::ask(proxy.web(), websocket::request(&target, "")).await.status(), 101);
    drop((client, node));
    proxy.finish().await;

    let events = Backend::manual().await;
    let proxy = described(&events, API, "\"api.yaml\"").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/v1/rooms/blue", "Accept: text/event-stream\r\n")).await;
    let peer = events.peer_for("/v1/rooms/blue").await;
    let events_head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    peer.send(format!("{events_head}9\r\ndata: 1\n\n\r\n")).await;
    assert_eq!(client.head().await.status(), 200);
    assert!(client.receives(b"9\r\ndata: 1\n\n").await, "before the next one");
    drop((client, peer, events));
    proxy.finish().await;

    let backend = Backend::replying("ok").await;
    let proxy = described(&backend, API, "\"api.yaml\"").await;
    let preflight = "Origin: https://a.test\r\nAccess-Control-Request-Method: POST\r\n";
    assert_eq!(ask(&proxy, "OPTIONS", "/v1/rooms/blue", preflight, "").await.status(), 200);
    // A preflight has no body.
    assert_eq!(ask(&proxy, "OPTIONS", "/v1/rooms/blue", preflight, "x").await.status(), 405);
    assert_eq!(ask(&proxy, "OPTIONS", "/v1/rooms/blue", "", "").await.status(), 405);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn unknown_requests_can_pass_below_a_base_and_known_ones_are_checked() {
    let backend = Backend::replying("ok").await;
    let keys = "{ file = \"api.yaml\", base = \"/app/v2\", unknown = \"pass\" }";
    let proxy = described(&backend, API, keys).await;
    for (method, target, status) in [
        ("GET", "/anything", 200),
        ("DELETE", "/app/v2/rooms/blue", 200),
        ("GET", "/app/v2/rooms/blue", 200),
        ("GET", "/app/v2/rooms/Blue", 400),
        ("GET", "//app/v2//rooms/Blue", 400),
        ("GET", "/app/v2/%72ooms/Blue", 400),
        ("GET", "/v1/rooms/Blue", 200),
    ] {
        let reply = ask(&proxy, method, target, "", "").await;
        assert_eq!(reply.status(), status, "{method} {target}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_changed_document_is_used_and_a_bad_one_is_refused_with_its_place() {
    let backend = Backend::replying("ok").await;
    let mut proxy = described(&backend, API, "\"api.yaml\"").await;
    let status = async |proxy: &Proxy, room: &str| {
        ask(proxy, "GET", &format!("/v1/rooms/{room}"), "", "").await.status()
    };
    assert_eq!((status(&proxy, "blue").await, status(&proxy, "7").await), (200, 400));
    let file = proxy.directory().join("api.yaml");
    let reloads = proxy.metric(RELOADS_OK).await;
    fs::write(&file, API.replace("^[a-z]+$", "^[0-9]+$")).unwrap();
    proxy.wait_for_metric("the reload", RELOADS_OK, |now| now > reloads).await;
    assert_eq!((status(&proxy, "blue").await, status(&proxy, "7").await), (400, 200));
    fs::write(&file, API.replace("in: query", "in: form")).unwrap();
    let shown = proxy.wait_for_stderr("the fault", |line| line.contains("`in`")).await;
    assert!(shown.contains("a parameter needs `name` and `in`"), "{shown}");
    eventually("the place", || proxy.stderr_text().contains("api.yaml:10:")).await;
    assert_eq!((status(&proxy, "blue").await, status(&proxy, "7").await), (400, 200));
    assert!(proxy.is_running());
    drop(backend);
    proxy.finish().await;
}

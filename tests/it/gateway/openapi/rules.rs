//! Documents that set the keys of their route: `security` and `x-moorline-route`.

use std::fs;

use super::ask;
use crate::support::{
    Backend, Message, Proxy, eventually,
    proxy::{RELOADS_OK, Setup},
};

const API: &str = r##"
openapi: 3.1.0
info: { title: Rooms, version: "1" }
servers: [{ url: "https://api.example.com/v1" }]
security: [{ key: [] }]
x-moorline-route:
  headers: { response: { set: { X-Level: document } } }
paths:
  /rooms:
    get: { security: [] }
    post:
      security: [{ key: [write] }, { user: [write] }]
  /rooms/{room}:
    parameters: [{ name: room, in: path, required: true, schema: { type: string } }]
    x-moorline-route:
      headers: { response: { set: { X-Level: path } } }
      limits: { key: client, rate: 1/h, burst: 5 }
    get: {}
    delete:
      x-moorline-route:
        headers: null
        respond: { status: 204 }
    put:
      x-moorline-route: { pool: other, headers: { response: { set: { X-Level: operation } } } }
components:
  securitySchemes:
    key: { type: apiKey, in: query, name: key }
    user: { type: http, scheme: basic, x-moorline-auth: { basic: { file: users.txt } } }
"##;

/// SHA-256 of `reader` and `writer`.
fn keys() -> String {
    let line = |name: &str, scope: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} {hash} scope={scope}\n")
    };
    line("reader", "read") + &line("writer", "read,write")
}

async fn ruled(backends: [&Backend; 2], openapi: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backends[0].address]);
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\nopenapi = {openapi}\nauth.api_keys.file = \"keys.txt\"\n\
             [pools.other]\nbackends = [\"{}\"]\n",
            backends[1].address
        ));
    });
    let write = |name: &str, text: &str| fs::write(setup.directory().join(name), text).unwrap();
    write("api.yaml", API);
    write("keys.txt", &keys());
    write("users.txt", "anna:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n");
    setup.start().await
}

fn level(reply: &Message) -> (u16, Option<&str>) {
    (reply.status(), reply.header("x-level"))
}

#[tokio::test]
async fn operations_have_the_keys_and_the_security_of_the_document() {
    let (backend, other) = (Backend::replying("ok").await, Backend::replying("other").await);
    let proxy = ruled([&backend, &other], "\"api.yaml\"").await;
    for (method, target, status, shown) in [
        ("GET", "/v1/rooms", 200, Some("document")),
        ("POST", "/v1/rooms", 401, None),
        ("POST", "/v1/rooms?key=reader", 403, None),
        ("POST", "/v1/rooms?key=writer", 200, Some("document")),
        ("GET", "/v1/rooms/a", 401, None),
        ("PUT", "/v1/r%6foms/a?key=reader", 200, Some("operation")),
        ("GET", "/v1/rooms?key=unknown", 200, Some("document")),
        ("DELETE", "/v1/rooms/a?key=reader", 204, None),
        ("GET", "/v1/unknown", 401, None),
        ("GET", "/v1/unknown?key=reader", 404, None),
    ] {
        let reply = ask(&proxy, method, target, "", "").await;
        assert_eq!(level(&reply), (status, shown), "{method} {target}");
    }
    let put = ask(&proxy, "PUT", "/v1/rooms/a?key=reader", "", "").await;
    assert_eq!((level(&put), &*put.body), ((200, Some("operation")), &b"other"[..]));
    // The place of the key is that of the document.
    let field = ask(&proxy, "GET", "/v1/rooms/a", "X-API-Key: reader\r\n", "").await;
    assert_eq!(field.status(), 401);
    // Operations below the path share its limit: the requests before have used it up.
    let limited = ask(&proxy, "GET", "/v1/rooms/a?key=reader", "", "").await;
    assert_eq!(limited.status(), 429);
    drop((backend, other));
    proxy.finish().await;
}

#[tokio::test]
async fn a_faulty_rule_keeps_the_old_ones_and_shows_its_place() {
    let (backend, other) = (Backend::replying("ok").await, Backend::replying("other").await);
    let proxy = ruled([&backend, &other], "\"api.yaml\"").await;
    let file = proxy.directory().join("api.yaml");
    let status = async || ask(&proxy, "GET", "/v1/rooms", "", "").await.status();
    assert_eq!(status().await, 200);
    fs::write(&file, API.replace("pool: other", "pool: absent")).unwrap();
    proxy.wait_for_stderr("the fault", |line| line.contains("there is no pool")).await;
    eventually("the place", || proxy.stderr_text().contains("api.yaml:24:33")).await;
    assert_eq!(status().await, 200);
    let reloads = proxy.metric(RELOADS_OK).await;
    fs::write(&file, API.replace("get: { security: [] }", "get: {}")).unwrap();
    proxy.wait_for_metric("the reload", RELOADS_OK, |now| now > reloads).await;
    assert_eq!(status().await, 401);
    drop((backend, other));
    proxy.finish().await;
}

#[tokio::test]
async fn security_can_be_left_to_the_backend() {
    let (backend, other) = (Backend::replying("ok").await, Backend::replying("other").await);
    let keys = "{ file = \"api.yaml\", security = \"ignore\" }";
    let proxy = ruled([&backend, &other], keys).await;
    // Then the route decides, for all operations.
    assert_eq!(ask(&proxy, "GET", "/v1/rooms", "", "").await.status(), 401);
    let known = ask(&proxy, "POST", "/v1/rooms", "X-API-Key: reader\r\n", "").await;
    assert_eq!(level(&known), (200, Some("document")));
    drop((backend, other));
    proxy.finish().await;
}

#[tokio::test]
async fn conditions_of_the_configuration_come_before_operations() {
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let rule = "\"api.yaml\"\nauth.api_keys.file = \"keys.txt\"\n\n[[routes]]\nmatch = { header = { X-Debug = true } }\nrespond = { status = 418 }\n\n\
                [[routes]]\npath = \"/other\"\npool = \"app\"\n";
    let proxy = ruled([&app, &other], rule).await;
    for (fields, expected) in [("", 200), ("X-Debug: 1\r\n", 418)] {
        assert_eq!(ask(&proxy, "GET", "/v1/rooms", fields, "").await.status(), expected);
    }
    drop((app, other));
    proxy.finish().await;
}

/// Some backends read `;x` as nothing, and `%2F` as a slash.
#[tokio::test]
async fn an_open_operation_takes_no_request_that_may_be_a_protected_one() {
    let document = r##"
openapi: 3.1.0
info: { title: Files, version: "1" }
security: [{ key: [] }]
paths:
  /files/{name}:
    parameters: [{ name: name, in: path, required: true, schema: { type: string } }]
    get: { security: [] }
  /files/admin: { get: {} }
  /files/{name}/secret:
    parameters: [{ name: name, in: path, required: true, schema: { type: string } }]
    get: {}
components:
  securitySchemes:
    key: { type: apiKey, in: query, name: key }
"##;
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let proxy = ruled([&app, &other], "\"api.yaml\"").await;
    let file = proxy.directory().join("api.yaml");
    let reloads = proxy.metric(RELOADS_OK).await;
    fs::write(&file, document).unwrap();
    proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > reloads).await;
    for (target, expected) in [
        ("/files/7", 200),
        ("/files/admin", 401),
        ("/files/7/secret", 401),
        ("/files/admin;x=1", 400),
        ("/files/7%2Fsecret", 400),
        ("/files/%61dmin", 401),
    ] {
        assert_eq!(ask(&proxy, "GET", target, "", "").await.status(), expected, "{target}");
    }
    // Scopes of another form are not dropped.
    let faulty = document.replace("security: [{ key: [] }]", "security: [{ key: admin }]");
    fs::write(&file, faulty).unwrap();
    let needle = "the scopes of `key` are not an array of texts";
    proxy.wait_for_stderr("the fault", |line| line.contains(needle)).await;
    drop((app, other));
    proxy.finish().await;
}

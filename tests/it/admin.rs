//! The admin API of a running proxy: who may use it, what it answers, and what it refuses.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use serde_json::{Value, json};

use crate::support::{
    Backend, Message, Node, Proxy, Raw,
    message::{self, get},
    node::{handshake, poll},
    proxy::{Setup, message_after},
    websocket,
};

const TOKEN: &str = "a-token-for-tests-that-is-long-enough";
const TCP: &str =
    "{ metrics = \"127.0.0.1:0\", listen = \"127.0.0.1:0\", token = { file = \"token\" } }";

/// Asserts that an answer is one that the description has for this operation.
fn assert_described(description: &Value, method: &str, path: &str, reply: &Message) {
    let operation = &description["paths"][path][method.to_ascii_lowercase()];
    let mut response = operation["responses"][reply.status().to_string()].clone();
    if let Some(pointer) = response["$ref"].as_str() {
        response = description.pointer(&pointer[1..]).unwrap().clone();
    }
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} is not described with {}", reply.start);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let whole = json!({ "allOf": [schema], "components": description["components"] });
    let validator = jsonschema::validator_for(&whole).unwrap();
    let value = reply.json();
    let faults: Vec<String> = validator
        .iter_errors(&value)
        .map(|fault| format!("{fault} at {}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{method} {path}: {faults:?} in {value}");
}

/// A path with its names filled in.
fn filled(path: &str, pool: &str, backend: &str) -> String {
    path.replace("{pool}", pool).replace("{backend}", backend).replace("{id}", "none")
}

#[tokio::test]
async fn each_answer_is_as_the_description_says() {
    let node = Node::start("a").await;
    let manual = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
        settings.host("plain.test", "plain", &[manual.address]);
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "first", "").await;
    let api = proxy.api();
    let description = api.get("/v1/openapi.json").await;
    let added = "127.0.0.1:9";
    let encoded = "127.0.0.1%3A9";
    let find = format!("{{\"sid\":\"{}\"}}", session.sid);
    let calls = [
        ("GET", "/v1/status", "", 200),
        ("GET", "/v1/pools", "", 200),
        ("GET", "/v1/pools/{pool}", "", 200),
        ("GET", "/v1/config", "", 200),
        ("POST", "/v1/pools/{pool}/backends", "{\"address\":\"127.0.0.1:9\"}", 201),
        ("POST", "/v1/pools/{pool}/backends", "{\"address\":\"127.0.0.1:9\"}", 409),
        ("POST", "/v1/pools/{pool}/backends", "{\"address\":\"nowhere\"}", 400),
        ("PATCH", "/v1/pools/{pool}/backends/{backend}", "{\"weight\":3}", 200),
        ("PATCH", "/v1/pools/{pool}/backends/{backend}", "{\"weight\":0}", 400),
        ("POST", "/v1/drain", "{\"pool\":\"app\",\"within\":60,\"spread\":10}", 200),
        ("POST", "/v1/drain", "{\"pool\":\"app\"}", 409),
        ("POST", "/v1/drain", "{\"pool\":\"other\"}", 404),
        ("POST", "/v1/drain", "{\"backend\":\"x\"}", 400),
        ("GET", "/v1/status", "", 200),
        ("POST", "/v1/undrain", "{\"pool\":\"app\"}", 200),
        ("POST", "/v1/undrain", "{\"pool\":\"app\"}", 409),
        ("GET", "/v1/sessions", "", 200),
        ("POST", "/v1/sessions/find", &find, 200),
        ("POST", "/v1/sessions/find", "{\"sid\":\"nobody\"}", 200),
        ("DELETE", "/v1/sessions/{id}", "", 400),
        ("POST", "/v1/plan", "", 200),
        ("POST", "/v1/plan", "{\"text\":\"nonsense\",\"path\":\"/m.toml\"}", 422),
        ("POST", "/v1/reload", "{\"max_disconnects\":0}", 200),
        ("POST", "/v1/explain", "{\"url\":\"http://app.test/\"}", 200),
        ("POST", "/v1/explain", "{\"url\":\"::\"}", 400),
        ("DELETE", "/v1/pools/{pool}/backends/{backend}", "", 200),
        ("DELETE", "/v1/pools/{pool}/backends/{backend}", "", 404),
        ("POST", "/v1/upgrade", "{\"binary\":\"/dev/null\"}", 422),
    ];
    for (method, path, body, status) in calls {
        let reply = api.ask(method, &filled(path, "app", encoded), body).await;
        assert_eq!(reply.status(), status, "{method} {path} {body}: {}", reply.text());
        assert_described(&description, method, path, &reply);
        let log = proxy.stderr_text();
        assert!(!log.contains(&session.sid) && !reply.text().contains(&session.sid), "{log}");
    }
    // Orders are told, with who gave them; questions are not.
    let ordered: Vec<String> =
        proxy.stderr().into_iter().filter(|line| line.contains("order")).collect();
    let said = |order: &str, what: &str| {
        ordered.iter().any(|line| line.contains(order) && line.contains(what))
    };
    assert!(said("add a backend", &format!("app/{added}")), "{ordered:#?}");
    assert!(said("order refused", "drain"), "{ordered:#?}");
    assert!(ordered.iter().all(|line| line.contains("by=unix uid=")), "{ordered:#?}");
    assert!(!ordered.iter().any(|line| line.contains("explain")), "{ordered:#?}");
    drop((client, node, manual));
    proxy.finish().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_a_sentence() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let api = proxy.api();
    let long = format!("{{\"sid\":\"{}\"}}", "x".repeat(70 << 10));
    let cases = [
        ("GET", "/", "", 404, "openapi.json"),
        ("GET", "/metrics", "", 404, "openapi.json"),
        ("GET", "/v1/pools/none", "", 404, "none"),
        ("DELETE", "/v1/status", "", 405, "only GET"),
        ("POST", "/v1/drain", "{}x", 400, "trailing"),
        ("POST", "/v1/drain", "{\"pol\":\"app\"}", 400, "`pol`"),
        ("POST", "/v1/drain", "[]", 400, "object"),
        ("POST", "/v1/drain", "\"all\"", 400, "object"),
        ("POST", "/v1/drain", "{\"pool\":\"app\",\"within\":-1}", 400, "within"),
        // A name that got lost must not empty a fleet.
        ("POST", "/v1/drain", "{}", 400, "`pool`"),
        ("POST", "/v1/drain", "{\"pool\":null,\"within\":0}", 400, "`pool`"),
        ("POST", "/v1/drain", "{\"pool\":\"app\",\"all\":true}", 400, "`pool`"),
        ("POST", "/v1/undrain", "{}", 400, "`pool`"),
        ("POST", "/v1/sessions/find", &long, 413, "65536"),
        ("GET", "/v1/sessions?limit=0", "", 400, "limit"),
        ("GET", "/v1/sessions?sid=x", "", 400, "sid"),
        ("GET", "/v1/sessions?backend=x", "", 400, "pool"),
        // Without a body, a slip of the hand would drain everything.
        ("POST", "/v1/drain", "", 415, "application/json"),
    ];
    for (method, path, body, status, needle) in cases {
        let reply = api.ask(method, path, body).await;
        assert_eq!(reply.status(), status, "{method} {path} {body}: {}", reply.text());
        let sentence = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.contains(needle), "{method} {path}: {sentence}");
    }
    let reply = api.ask("PUT", "/v1/pools/app/backends/x", "").await;
    assert_eq!(reply.header("allow"), Some("DELETE, PATCH"));
    let form = "POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\n{}";
    assert_eq!(api.raw(form).await.status(), 415);
    // Nothing of all that has had an effect.
    let up = api.get("/v1/pools/app").await;
    assert_eq!(up["backends"][0]["state"], "up", "{up}");
    assert_eq!(api.get("/v1/status").await["state"], "serving");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn what_is_added_serves_until_it_is_taken_out() {
    let (first, second) = (Backend::replying("first").await, Backend::replying("second").await);
    let mut proxy = Proxy::for_backends(&[first.address]).await;
    let api = proxy.api();
    let body = json!({ "address": second.address.to_string(), "name": "[extra]/1" }).to_string();
    let added = api.ask("POST", "/v1/pools/app/backends", &body).await;
    assert_eq!(added.status(), 201, "{}", added.text());
    assert_eq!(added.json()["origin"], "added");
    let drained = json!({ "pool": "app", "backend": first.address.to_string() }).to_string();
    assert_eq!(api.ask("POST", "/v1/drain", &drained).await.status(), 200);
    let ask = || async { Raw::ask(proxy.web(), get("/", "Connection: close\r\n")).await.text() };
    for _ in 0..4 {
        assert_eq!(ask().await, "second");
    }
    // The names in a path may have anything in them.
    let path = "/v1/pools/app/backends/%5Bextra%5D%2F1";
    assert_eq!(api.ask("PATCH", path, "{\"weight\":7}").await.json()["weight"], 7);
    assert_eq!(api.ask("POST", "/v1/undrain", &drained).await.status(), 200);
    assert_eq!(api.ask("DELETE", path, "").await.status(), 200);
    for _ in 0..4 {
        assert_eq!(ask().await, "first");
    }
    proxy.wait_for_baseline().await;
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_the_socket_is_its_owners() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let socket = proxy.socket();
    let meta = fs::symlink_metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o7777, 0o600);
    // It goes with the process.
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_dead_process_socket_is_replaced_and_a_live_ones_is_not() {
    let backend = Backend::replying("ok").await;
    let mut first = Proxy::for_backends(&[backend.address]).await;
    let folder = first.directory().display().to_string();
    let setup = |folder: &str| {
        let setup = Setup::new().with(|settings| {
            settings.backends(&[backend.address]);
        });
        setup.env("XDG_RUNTIME_DIR", folder)
    };
    let second = setup(&folder).start().await;
    // The second process has a socket of its own, and no command guesses which of them is meant.
    let own = std::path::Path::new(&folder).join(format!("moorline-{}.sock", second.pid()));
    assert!(own.exists(), "{}", second.stderr_text());
    let ran = first.command(&["drain", "--all"]).await;
    for part in [&format!("process {}", first.pid()), &format!("process {}", second.pid())] {
        assert!(ran.err.contains(part.as_str()), "{ran:?}");
    }
    assert!(ran.err.contains(&format!("--socket {}", own.display())), "{ran:?}");
    ran.refused("several Moorline processes are running");
    let named = first.command(&["status", "--json", "--socket", &own.display().to_string()]).await;
    assert_eq!(named.json()["pid"], second.pid());
    let ask = Raw::ask(second.web(), get("/", "Connection: close\r\n")).await;
    assert_eq!(ask.text(), "ok");
    second.finish().await;
    assert!(!own.exists());
    // What a further process has left when it died is cleared away by the next one.
    let stale = std::path::Path::new(&folder).join("moorline-999999999.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert_eq!(first.api().get("/v1/status").await["pid"], first.pid());
    crate::support::process::signal(first.pid(), "KILL");
    first.exited().await;
    assert!(first.socket().exists());
    let third = setup(&folder).start().await;
    assert_eq!(first.api().get("/v1/status").await["pid"], third.pid());
    assert!(!stale.exists());
    third.finish().await;
    assert!(!first.socket().exists());
}

/// Starts a proxy whose API is on TCP as well.
async fn remote(backend: &Backend) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).top("admin", TCP);
    });
    fs::write(setup.directory().join("token"), format!("{TOKEN}\n")).unwrap();
    setup.start().await
}

fn remote_address(proxy: &Proxy) -> std::net::SocketAddr {
    let lines = proxy.stderr();
    let mut urls = lines.iter().filter_map(|line| message_after(line, "admin API on http://"));
    urls.next().unwrap_or_else(|| panic!("{lines:?}")).parse().unwrap()
}

#[tokio::test]
async fn fault_127_tcp_wants_the_token() {
    let backend = Backend::replying("ok").await;
    let proxy = remote(&backend).await;
    let address = remote_address(&proxy);
    for field in [
        String::new(),
        "Authorization: Bearer wrong\r\n".to_owned(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x\r\n"),
    ] {
        for path in ["/v1/status", "/v1/openapi.json", "/", &format!("/v1/status?token={TOKEN}")] {
            let reply = Raw::ask(address, get(path, &field)).await;
            assert_eq!(reply.status(), 401, "{path} {field}");
            assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
            assert!(reply.json()["error"].is_string());
        }
        let drain = format!("{field}Content-Type: application/json\r\n");
        let reply = Raw::ask(address, message::post("/v1/drain", &drain, "{}")).await;
        assert_eq!(reply.status(), 401);
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let reply = Raw::ask(address, get("/v1/status", &right)).await;
    assert_eq!(reply.json()["state"], "serving");
    // Metrics stay what they were, on their own address.
    let reply = Raw::ask(proxy.admin(), get("/v1/status", &right)).await;
    assert_eq!(reply.status(), 404);
    assert_eq!(Raw::ask(proxy.admin(), get("/ready", "")).await.status(), 200);
    let log = proxy.stderr_text();
    assert!(log.contains("no token or a wrong one") && !log.contains(TOKEN), "{log}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_no_proxied_request_reaches_it() {
    let backend = Backend::answering(|_| message::ok("the backend")).await;
    let proxy = remote(&backend).await;
    let (api, admin) = (remote_address(&proxy), proxy.admin());
    let socket = proxy.socket().display().to_string();
    let authority = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let mut requests = Vec::new();
    for host in [api.to_string(), admin.to_string(), format!("unix:{socket}"), "localhost".into()] {
        for path in ["/v1/status", "/v1/drain", "/metrics"] {
            requests.push(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{authority}\r\n"));
            let target = format!("http://{host}{path}");
            requests.push(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{authority}\r\n"));
            requests.push(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{authority}\r\n"));
        }
        requests.push(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{authority}\r\n"));
        requests.push(format!("GET /v1/status@{host} HTTP/1.1\r\nHost: {host}\r\n{authority}\r\n"));
    }
    for request in requests {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(&request).await;
        let (bytes, _) = client.rest().await;
        let text = String::from_utf8_lossy(&bytes);
        let refused = text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5");
        assert!(text.ends_with("the backend") || refused, "{request}: {text}");
        assert!(!text.contains("\"pools\"") && !text.contains("moorline_"), "{request}: {text}");
    }
    assert_eq!(proxy.api().get("/v1/status").await["state"], "serving");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_secrets_stay_inside() {
    let backend = Backend::replying("ok").await;
    let key = "the key of cookies that nobody else may see";
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).top("admin", TCP);
        settings.top("cookie_key", "{ file = \"cookie.key\" }");
    });
    fs::write(setup.directory().join("token"), TOKEN).unwrap();
    fs::write(setup.directory().join("cookie.key"), key).unwrap();
    let proxy = setup.env("RUST_LOG", "trace").start().await;
    let api = proxy.api();
    let shown = api.get("/v1/config").await;
    assert_eq!(shown["cookie_keys"]["given"], 1);
    assert!(shown["admin"]["listen"].is_string(), "{shown}");
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    Raw::ask(remote_address(&proxy), get("/v1/status", &right)).await;
    let printed = proxy.command(&["config"]).await.done();
    let all = format!("{shown}{}{printed}", api.get("/v1/status").await);
    for secret in [TOKEN, key, "private"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    let log = proxy.stderr_text();
    assert!(!log.contains(TOKEN) && !log.contains(key), "{log}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_named_socket_that_is_taken_is_no_start() {
    let backend = Backend::replying("ok").await;
    let first = Proxy::for_backends(&[backend.address]).await;
    let admin = format!("{{ metrics = \"127.0.0.1:0\", socket = {:?} }}", first.socket());
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).top("admin", &admin);
    });
    let ended = setup.fails_to_start().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("another process listens there"), "{}", ended.stderr);
    // And none at all where none is wanted.
    let without = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.top("admin", "{ metrics = \"127.0.0.1:0\", socket = false }");
    })
    .await;
    assert!(!without.socket().exists());
    without.finish().await;
    drop(backend);
    first.finish().await;
}

#[tokio::test]
async fn sessions_are_listed_found_and_closed() {
    let node = Node::start("a").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    let mut open = Raw::connect(proxy.web()).await;
    open.send(websocket::request("/chat", "")).await;
    assert_eq!(open.response().await.status(), 101);
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "h", "").await;
    let api = proxy.api();
    let all = api.get("/v1/sessions?pool=app&limit=10").await;
    assert_eq!(all["total"], 2, "{all}");
    let all = all["sessions"].as_array().unwrap();
    let of = |kind: &str| all.iter().find(|session| session["kind"] == kind).unwrap();
    let find = json!({ "sid": session.sid }).to_string();
    let found = api.ask("POST", "/v1/sessions/find", &find).await.json();
    assert_eq!(found["found"][0], *of("polling"));
    let close = |kind: &str| format!("/v1/sessions/{}", of(kind)["id"].as_str().unwrap());
    assert_eq!(poll(&mut client, &session.sid, "p", "").await.text(), "6");
    // The tunnel ends with a Close frame, code 1012: service restart.
    assert_eq!(api.ask("DELETE", &close("tunnel"), "").await.status(), 200);
    let frame = open.exact(4).await;
    assert_eq!((frame[0], &frame[2..]), (0x88, &1012u16.to_be_bytes()[..]), "{frame:?}");
    open.finish().await;
    open.rest().await;
    // The polling one is let go: the client is told, and opens a new one.
    assert_eq!(api.ask("DELETE", &close("polling"), "").await.status(), 200);
    let found = api.ask("POST", "/v1/sessions/find", &find).await.json();
    assert_eq!(found["found"], json!([]));
    assert_eq!(api.ask("DELETE", &close("polling"), "").await.status(), 404);
    drop((client, open, node));
    proxy.finish().await;
}

#[tokio::test]
async fn half_a_request_keeps_nobody_out() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut idle = Vec::new();
    for _ in 0..16 {
        let stream = tokio::net::UnixStream::connect(proxy.socket()).await.unwrap();
        stream.try_write(b"POST /v1/drain HTTP/1.1\r\nHost: x\r\n").unwrap();
        idle.push(stream);
    }
    assert_eq!(proxy.api().get("/v1/status").await["state"], "serving");
    drop((idle, backend));
    proxy.finish().await;
}

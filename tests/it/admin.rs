//! The admin API of a running proxy: authentication, replies and errors.

mod access;

use serde_json::{Value, json};

use crate::support::{
    Backend, Message, Node, Proxy, Raw,
    message::get,
    node::{handshake, poll},
    proxy::Setup,
    websocket,
};

/// Asserts that a reply matches the OpenAPI description of its operation.
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

/// Fills in the parameters of a path.
fn filled(path: &str, pool: &str, backend: &str) -> String {
    path.replace("{pool}", pool).replace("{backend}", backend).replace("{id}", "none")
}

#[tokio::test]
async fn each_reply_matches_the_openapi_description() {
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
        ("POST", "/v1/sessions/find", "{\"sid\":\"unknown\"}", 200),
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
    // Commands are logged with their user; queries are not.
    let commands: Vec<String> =
        proxy.stderr().into_iter().filter(|line| line.contains("admin command")).collect();
    let logged = |command: &str, subject: &str| {
        commands.iter().any(|line| line.contains(command) && line.contains(subject))
    };
    assert!(logged("add a backend", &format!("app/{added}")), "{commands:#?}");
    assert!(logged("an admin command failed", "drain"), "{commands:#?}");
    assert!(commands.iter().all(|line| line.contains("by=unix uid=")), "{commands:#?}");
    assert!(!commands.iter().any(|line| line.contains("explain")), "{commands:#?}");
    drop((client, node, manual));
    proxy.finish().await;
}

#[tokio::test]
async fn invalid_requests_get_an_error_that_names_the_mistake() {
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
        // A request without a pool name must not drain all backends.
        ("POST", "/v1/drain", "{}", 400, "`pool`"),
        ("POST", "/v1/drain", "{\"pool\":null,\"within\":0}", 400, "`pool`"),
        ("POST", "/v1/drain", "{\"pool\":\"app\",\"all\":true}", 400, "`pool`"),
        ("POST", "/v1/undrain", "{}", 400, "`pool`"),
        ("POST", "/v1/sessions/find", &long, 413, "65536"),
        ("GET", "/v1/sessions?limit=0", "", 400, "limit"),
        ("GET", "/v1/sessions?sid=x", "", 400, "sid"),
        ("GET", "/v1/sessions?backend=x", "", 400, "pool"),
        // A request without a body must not drain all backends.
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
    // No request changed the state.
    let up = api.get("/v1/pools/app").await;
    assert_eq!(up["backends"][0]["state"], "up", "{up}");
    assert_eq!(api.get("/v1/status").await["state"], "serving");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn an_added_backend_serves_until_it_is_removed() {
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
    // Names in a path may contain any characters, percent-encoded.
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
async fn the_socket_of_a_dead_process_is_replaced_and_that_of_a_running_one_is_not() {
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
    // The second process has another socket, and commands require `--socket` to choose one.
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
    // The next process removes the numbered socket of a dead process.
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

#[tokio::test]
async fn a_process_does_not_start_if_its_configured_socket_is_in_use() {
    let backend = Backend::replying("ok").await;
    let first = Proxy::for_backends(&[backend.address]).await;
    let admin = format!("{{ metrics = \"127.0.0.1:0\", socket = {:?} }}", first.socket());
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).top("admin", &admin);
    });
    let ended = setup.fails_to_start().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("another process listens there"), "{}", ended.stderr);
    // `socket = false` makes no socket.
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
    // The polling session is forgotten.
    assert_eq!(api.ask("DELETE", &close("polling"), "").await.status(), 200);
    let found = api.ask("POST", "/v1/sessions/find", &find).await.json();
    assert_eq!(found["found"], json!([]));
    assert_eq!(api.ask("DELETE", &close("polling"), "").await.status(), 404);
    drop((client, open, node));
    proxy.finish().await;
}

#[tokio::test]
async fn incomplete_requests_do_not_block_others() {
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

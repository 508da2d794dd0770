//! Conditions of routes beyond host and path.

use serde_json::{Value, json};

use crate::{
    client_auth::{ADA, connect, mutual},
    support::{Backend, Proxy, Raw, message, proxy::Setup, websocket},
};

/// A proxy with these routes; the pools `app` and `other` have one backend each.
async fn start(app: &Backend, other: &Backend, routes: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[app.address]);
        let address = other.address;
        settings.table(&format!(
            "[pools.other]\nbackends = [\"{address}\"]\nhealth = {{ probe = \"off\" }}\n"
        ));
        settings.table(routes);
    });
    setup.start().await
}

/// The pool that answers a request.
async fn pool(proxy: &Proxy, request: impl AsRef<[u8]>) -> String {
    Raw::ask(proxy.web(), request).await.text()
}

#[tokio::test]
async fn the_first_route_whose_conditions_are_met_counts() {
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let routes = r#"
        [[routes]]
        path = "/api"
        pool = "app"
        [[routes]]
        path = "/api"
        match = { method = ["GET", "POST"], header = { X-Beta = ["1", "2"] } }
        pool = "other"
        [[routes]]
        path = "/api"
        match = { query = { beta = true }, cookie = { group = { prefix = "b" } }, client = "127.0.0.0/8" }
        pool = "other"
        [[routes]]
        path = "/api"
        match = { client = "10.0.0.0/8" }
        respond = { status = 418 }
        [[routes]]
        path = "/api"
        match.cel = "request.headers['x-version'].startsWith('2.') && request.path != '/api/v1'"
        pool = "other"
        [[routes]]
        path = "/api/only"
        match = { header = { X-Beta = "1" } }
        respond = { body = "only" }
    "#;
    let proxy = start(&app, &other, routes).await;
    for (target, fields, expected) in [
        ("/api/x", "", "app"),
        ("/api/x", "X-Beta: 1\r\n", "other"),
        ("/api/x", "x-beta: 3\r\nX-BETA: 2\r\n", "other"),
        ("/api/x", "X-Beta: 3\r\n", "app"),
        ("/api/x?beta", "Cookie: a=1; group=b2\r\n", "other"),
        ("/api/x?%62eta=1", "Cookie: group=b2\r\n", "other"),
        ("/api/x?beta", "Cookie: group=a\r\n", "app"),
        ("/api/x", "X-Version: 2.7\r\n", "other"),
        ("/api/v1", "X-Version: 2.7\r\n", "app"),
        ("/api/only", "X-Beta: 1\r\n", "only"),
        // The next shorter path counts, with its own conditions.
        ("/api/only", "X-Beta: 2\r\n", "other"),
    ] {
        assert_eq!(pool(&proxy, message::get(target, fields)).await, expected, "{target} {fields}");
    }
    assert_eq!(pool(&proxy, message::post("/api", "X-Beta: 1\r\n", "x")).await, "other");
    let delete = "DELETE /api HTTP/1.1\r\nHost: app.test\r\nX-Beta: 1\r\n\r\n";
    assert_eq!(pool(&proxy, delete).await, "app");
    let line = proxy.wait_for_log("the line", |line| line["method"] == "POST").await;
    assert_eq!(line["route"], "/api (method GET|POST, header X-Beta = 1|2)");
    drop((app, other));
    proxy.finish().await;
}

#[tokio::test]
async fn upgrades_follow_conditions_and_unmet_ones_have_no_route() {
    let (app, other) = (Backend::replying("app").await, Backend::manual().await);
    let routes = "[[routes]]\nmatch.cel = \"request.upgrade\"\npool = \"other\"\n";
    let proxy = start(&app, &other, routes).await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 404);
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/", "")).await;
    let peer = other.peer(0).await;
    peer.send(websocket::switching(&peer.head().await.unwrap())).await;
    assert_eq!(client.head().await.status(), 101);
    app.assert_untouched();
    drop((client, peer, app, other));
    proxy.finish().await;
}

#[tokio::test]
async fn hostile_requests_meet_no_condition() {
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let routes = r#"
        [[routes]]
        pool = "app"
        [[routes]]
        match = { header = { X-Beta = { regex = "(a*)*b" } } }
        pool = "other"
        [[routes]]
        match.cel = "request.headers['x-a'].matches('^(a*)*b$') || request.headers['x-c'] == 'c'"
        pool = "other"
    "#;
    let proxy = start(&app, &other, routes).await;
    let long = "a".repeat(30_000);
    for fields in [
        format!("X-Beta: {long}\r\n"),
        format!("X-A: {long}\r\n"),
        "X-Beta: \u{ff}b\r\n".to_owned(),
        format!("X-A: {long}\r\nX-D: {long}\r\nCookie: {}\r\n", "a=b; ".repeat(800)),
    ] {
        assert_eq!(pool(&proxy, message::get("/", &fields)).await, "app", "{}", &fields[..20]);
    }
    // The other side of an alternative decides even if the first one cannot be evaluated.
    assert_eq!(pool(&proxy, message::get("/", "X-C: c\r\n")).await, "other");
    drop((app, other));
    proxy.finish().await;
}

#[tokio::test]
async fn a_certificate_decides_about_the_route() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"").unrouted();
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\nmatch = {{ certificate = {{ subject = {ADA:?} }} }}\n\
             [[routes]]\nrespond = {{ status = 403 }}\n"
        ));
    })
    .await;
    let mut ada = connect(&proxy, "client").await;
    ada.send(message::get("/", "X-Client-Cert-Subject: CN=eve\r\n")).await;
    assert_eq!(ada.response().await.status(), 200);
    drop((ada, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn explain_says_which_conditions_decide() {
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let routes = r#"
        [[routes]]
        pool = "app"
        [[routes]]
        match = { method = "POST" }
        pool = "other"
        [[routes]]
        match = { header = { X-Beta = "1" }, cookie = { group = "b" }, client = "192.0.2.0/24", certificate = { subject = "CN=ada" } }
        pool = "other"
    "#;
    let proxy = start(&app, &other, routes).await;
    let url = format!("http://app.test:{}/", proxy.web().port());
    let explain = async |body: Value| -> Value {
        let reply = proxy.api().ask("POST", "/v1/explain", &body.to_string()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        reply.json()
    };
    let met = explain(json!({
        "url": url.replace("http:", "https:"), "headers": ["X-Beta: 1"], "cookie": "group=b", "client": "192.0.2.7",
        "certificate_subject": "CN=ada",
    }))
    .await;
    assert_eq!(met["pool"], "other");
    let steps = met["steps"].to_string();
    assert!(
        steps.contains("The route / (method POST) does not match: the method is another one."),
        "{steps}"
    );
    assert!(
        steps.contains("The request meets the conditions of the route / (header X-Beta"),
        "{steps}"
    );
    let unmet = explain(json!({ "url": url, "headers": ["X-Beta: 2"] })).await;
    assert_eq!(unmet["pool"], "app");
    let steps = unmet["steps"].to_string();
    assert!(steps.contains("the header X-Beta does not match."), "{steps}");
    drop((app, other));
    proxy.finish().await;
}

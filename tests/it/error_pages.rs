//! Replies that the proxy makes itself: the format by client, and pages from the configuration.

use std::{fs, net::SocketAddr, path::Path, sync::LazyLock};

use serde_json::Value;

use crate::support::{
    Backend, Message, Proxy, Raw, Refusing, message,
    proxy::{RELOADS_OK, Setup},
};

/// What browsers send when they open a page.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";

/// An Engine.IO polling handshake.
const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

/// An address that refuses connections, reserved for the whole test.
fn refusing() -> SocketAddr {
    static ADDRESS: LazyLock<Refusing> = LazyLock::new(Refusing::new);
    ADDRESS.address()
}

/// A proxy whose only backend refuses connections.
async fn without_backend() -> Proxy {
    Proxy::for_backends(&[refusing()]).await
}

async fn get(proxy: &Proxy, target: &str, fields: &str) -> Message {
    Raw::ask(proxy.web(), message::get(target, fields)).await
}

fn content_type(reply: &Message) -> &str {
    reply.header("content-type").unwrap_or_default()
}

#[tokio::test]
async fn a_browser_gets_a_page_without_external_resources() {
    let proxy = without_backend().await;
    let reply = get(&proxy, "/", BROWSER).await;
    assert_eq!((reply.status(), content_type(&reply)), (502, "text/html; charset=utf-8"));
    let page = reply.text();
    let id = reply.header("x-request-id").unwrap();
    assert!(page.contains("<h1>502 Bad Gateway</h1>"), "{page}");
    assert!(page.contains("<p>The backend refused the connection.</p>"), "{page}");
    assert!(page.contains(id), "{page}");
    assert!(!page.contains("<script") && !page.contains("{{"), "{page}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(
        reply.header("content-security-policy"),
        Some("default-src 'none'; style-src 'unsafe-inline'")
    );
    let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
    assert_eq!(line["status"], 502);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_without_a_preference_gets_plain_text() {
    let proxy = without_backend().await;
    for fields in ["", "Accept: */*\r\n", "Accept: text/plain, text/html;q=0.5\r\n"] {
        let reply = get(&proxy, "/", fields).await;
        assert_eq!(content_type(&reply), "text/plain; charset=utf-8", "{fields}");
        let id = reply.header("x-request-id").unwrap();
        let expected = format!("The backend refused the connection.\nRequest id: {id}\n");
        assert_eq!(reply.text(), expected);
    }
    proxy.finish().await;
}

#[tokio::test]
async fn engine_io_and_api_clients_get_json_and_keep_the_cors_fields() {
    let proxy = without_backend().await;
    for (target, accept) in [(HANDSHAKE, BROWSER), ("/api", "Accept: application/json\r\n")] {
        let reply = get(&proxy, target, &format!("{accept}Origin: https://app.test\r\n")).await;
        assert_eq!((reply.status(), content_type(&reply)), (502, "application/json"), "{target}");
        let error: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(error["status"], 502);
        assert_eq!(error["message"], "The backend refused the connection.");
        assert_eq!(error["request_id"], reply.header("x-request-id").unwrap());
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.test"));
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    }
    proxy.finish().await;
}

#[tokio::test]
async fn an_unknown_session_keeps_the_error_that_engine_io_clients_know() {
    let backend = Backend::answering(|_| {
        let body = r#"{"code":1,"message":"Session ID unknown"}"#;
        message::reply("400 Bad Request", "Content-Type: application/json\r\n", body)
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let target = format!("{HANDSHAKE}&sid=abcdefghijklmnopqrst");
    let reply = get(&proxy, &target, BROWSER).await;
    assert_eq!((reply.status(), content_type(&reply)), (400, "application/json"));
    assert_eq!(reply.text(), r#"{"code":1,"message":"Session ID unknown"}"#);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn head_http_1_0_grpc_and_websocket_clients_get_what_they_can_use() {
    let proxy = without_backend().await;
    let mut client = Raw::connect(proxy.web()).await;
    client
        .send(format!("HEAD / HTTP/1.1\r\nHost: app.test\r\n{BROWSER}Connection: close\r\n\r\n"))
        .await;
    let head = client.head().await;
    assert_eq!((head.status(), content_type(&head)), (502, "text/html; charset=utf-8"));
    let length: usize = head.header("content-length").unwrap().parse().unwrap();
    assert_eq!(client.rest().await.0, b"", "a reply to HEAD has no body");
    let page = get(&proxy, "/", BROWSER).await;
    assert_eq!(page.body.len(), length);

    let mut client = Raw::connect(proxy.web()).await;
    client.send(format!("GET / HTTP/1.0\r\nHost: app.test\r\n{BROWSER}\r\n")).await;
    let reply = client.response().await;
    assert!(reply.start.ends_with(" 502 Bad Gateway"), "{}", reply.start);
    assert_eq!(content_type(&reply), "text/html; charset=utf-8");
    assert!(reply.header("transfer-encoding").is_none());
    client.assert_closed().await;

    let fields = "Content-Type: application/grpc-web+proto\r\nContent-Length: 0\r\n";
    let request = format!("POST /chat.Chat/Send HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    let reply = Raw::ask(proxy.web(), request).await;
    assert_eq!((reply.status(), content_type(&reply)), (502, "application/grpc-web"));
    assert_eq!(reply.header("grpc-status"), Some("14"));
    assert_eq!(reply.header("grpc-message"), Some("The backend refused the connection."));
    assert_eq!(reply.text(), "");

    let handshake = format!(
        "{BROWSER}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    let reply = get(&proxy, "/socket.io/?EIO=4&transport=websocket", &handshake).await;
    assert_eq!((reply.status(), content_type(&reply)), (502, "text/plain; charset=utf-8"));
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_parsed_gets_a_page_if_its_header_asks_for_one() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let cookie = format!("Cookie: c={}\r\n", "a".repeat(80_000));
    let mut client = Raw::connect(proxy.web()).await;
    client.try_send(message::get("/", &format!("{BROWSER}{cookie}"))).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), content_type(&reply)), (431, "text/html; charset=utf-8"));
    assert!(reply.text().contains("<p>The request header is too large"), "{}", reply.text());
    let reply = Raw::ask(proxy.web(), "GET / HTTP/1.1\r\nno colon\r\n\r\n").await;
    assert_eq!((reply.status(), content_type(&reply)), (400, "text/plain; charset=utf-8"));
    drop((client, backend));
    proxy.finish().await;
}

fn page(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    format!("{path:?}")
}

#[tokio::test]
async fn routes_have_pages_by_status_and_the_top_level_has_the_rest() {
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let own = page(&folder, "502.html", "<p>{{status}} {{ reason }}: {{message}} ({{request_id}})");
    let class = page(&folder, "5xx.html", "class");
    let top = page(&folder, "top.html", "top {{status}}");
    let proxy = setup
        .with(|settings| {
            settings.top("error_pages", &top).unrouted().backends(&[refusing()]);
            settings.table(&format!(
                "[[routes]]\npath = \"/own\"\npool = \"app\"\n\
                 error_pages = {{ 502 = {own}, 5xx = {class} }}\n\
                 [[routes]]\npath = \"/class\"\npool = \"app\"\nerror_pages = {{ 5xx = {class} }}\n\
                 [[routes]]\npath = \"/other\"\npool = \"app\"\nerror_pages = {{ 503 = {own} }}\n"
            ));
        })
        .start()
        .await;
    let reply = get(&proxy, "/own", BROWSER).await;
    let id = reply.header("x-request-id").unwrap();
    let expected = format!("<p>502 Bad Gateway: The backend refused the connection. ({id})");
    assert_eq!(reply.text(), expected);
    assert_eq!(reply.header("content-security-policy"), None);
    assert_eq!(get(&proxy, "/class", BROWSER).await.text(), "class");
    assert_eq!(get(&proxy, "/other", BROWSER).await.text(), "top 502");
    // Without a route, and without a parsed request, only the top level applies.
    assert_eq!(get(&proxy, "/nowhere", BROWSER).await.text(), "top 404");
    let broken = format!("GET / HTTP/1.1\r\n{BROWSER}no colon\r\n\r\n");
    assert_eq!(Raw::ask(proxy.web(), broken).await.text(), "top 400");
    // Clients that do not ask for HTML never get a page.
    assert_eq!(content_type(&get(&proxy, "/own", "").await), "text/plain; charset=utf-8");
    proxy.finish().await;
}

#[tokio::test]
async fn a_changed_page_is_used_and_a_faulty_one_is_rejected_with_its_line() {
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let file = page(&folder, "error.html", "first");
    let proxy = setup
        .with(|settings| {
            settings.top("error_pages", &file).backends(&[refusing()]);
            settings.top("reload", "{ interval = \"100ms\" }");
        })
        .start()
        .await;
    assert_eq!(get(&proxy, "/", BROWSER).await.text(), "first");
    page(&folder, "error.html", "second");
    proxy.wait_for_metric("a reload", RELOADS_OK, |n| n > 0.0).await;
    assert_eq!(get(&proxy, "/", BROWSER).await.text(), "second");
    page(&folder, "error.html", "<p>\n{{code}}\n");
    let fault = format!("{}:2:1", folder.join("error.html").display());
    proxy.wait_for_stderr("the fault", |line| line.contains(&fault)).await;
    assert!(proxy.stderr_text().contains("unknown placeholder `{{code}}`"));
    assert_eq!(get(&proxy, "/", BROWSER).await.text(), "second");
    page(&folder, "error.html", "third");
    proxy.wait_for_metric("a reload", RELOADS_OK, |n| n > 1.0).await;
    assert_eq!(get(&proxy, "/", BROWSER).await.text(), "third");
    proxy.finish().await;
}

#[tokio::test]
async fn a_page_that_is_too_large_is_rejected() {
    let setup = Setup::new();
    let file = page(setup.directory(), "large.html", &"x".repeat((256 << 10) + 1));
    let ended = setup
        .with(|settings| {
            settings.top("error_pages", &file).backends(&[refusing()]);
        })
        .fails_to_start()
        .await;
    assert!(ended.stderr.contains("the error page is larger than 256 KiB"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_request_id_of_a_trusted_peer_is_escaped() {
    let proxy = Proxy::with(|settings| {
        settings.backends(&[refusing()]).top("trusted_proxies", "[\"127.0.0.1\"]");
    })
    .await;
    let fields = format!("{BROWSER}X-Request-Id: <script>alert(1)</script>\r\n");
    let page = get(&proxy, "/", &fields).await.text();
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    proxy.finish().await;
}

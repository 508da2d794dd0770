//! Access to the admin API: the unix socket, the token, and secrets.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use crate::support::{
    Backend, Proxy, Raw,
    message::{self, get},
    proxy::{Setup, message_after},
};

const TOKEN: &str = "a-token-for-tests-that-is-long-enough";
const TCP: &str =
    "{ metrics = \"127.0.0.1:0\", listen = \"127.0.0.1:0\", token = { file = \"token\" } }";

#[tokio::test]
async fn fault_127_only_the_owner_can_open_the_socket() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let socket = proxy.socket();
    let meta = fs::symlink_metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o7777, 0o600);
    // The process removes its socket when it ends.
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert!(!socket.exists());
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
async fn fault_127_the_api_over_tcp_requires_the_token() {
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
    // The metrics address serves no API, and needs no token.
    let reply = Raw::ask(proxy.admin(), get("/v1/status", &right)).await;
    assert_eq!(reply.status(), 404);
    assert_eq!(Raw::ask(proxy.admin(), get("/ready", "")).await.status(), 200);
    let log = proxy.stderr_text();
    assert!(log.contains("no token or a wrong one") && !log.contains(TOKEN), "{log}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_proxied_requests_do_not_reach_the_api() {
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
async fn fault_127_secrets_are_neither_logged_nor_shown() {
    let backend = Backend::replying("ok").await;
    let key = "the cookie key that must not be shown";
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

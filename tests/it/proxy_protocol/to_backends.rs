//! Headers that the proxy sends to backends.

use super::{ECHO_HEADER, LINE, TRUSTED, line_of};
use crate::support::{
    Backend, Proxy, Raw, eventually,
    front::{Authority, TlsFront},
    haproxy::Haproxy,
    message,
    nginx::Nginx,
    proxy::Setup,
    tls::Certificate,
    websocket, within,
};

#[tokio::test]
async fn backends_get_a_header_on_a_separate_connection_for_each_client() {
    let backend = Backend::manual().await;
    let pages = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("proxy_protocol", "\"v1\"");
        settings.host("pages.test", "pages", &[pages.address]);
        // Appended to the table of that pool.
        settings.table("proxy_protocol = \"v1\"\n");
    })
    .await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Raw::connect(proxy.web()).await;
        // Twice on the first connection, once on another.
        for _ in 0..=(n % 2) {
            client.send(b"GET / HTTP/1.1\r\nHost: pages.test\r\n\r\n").await;
            assert_eq!(client.response().await.text(), "ok");
            let index = pages.connections() - 1;
            let text = String::from_utf8(pages.bytes(index)).unwrap();
            let (from, to) = (client.local().port(), proxy.web().port());
            let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nGET / ");
            assert!(text.starts_with(&line), "{text}");
            assert_eq!(text.matches("PROXY").count(), 1, "{text}");
        }
        clients.push(client);
    }
    assert_eq!(pages.connections(), 6);
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/chat", "")).await;
    let peer = backend.peer(0).await;
    eventually("the request", || backend.saw("GET /chat ")).await;
    let text = String::from_utf8(backend.bytes(0)).unwrap();
    let from = client.local().port();
    assert!(text.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} ")), "{text}");
    drop((clients, client, backend, pages, peer));
    proxy.finish().await;
}

#[tokio::test]
async fn haproxy_as_backend_reads_both_versions() {
    for version in ["v1", "v2"] {
        let setup = Setup::new();
        let site = Certificate::make(setup.directory(), "app.test");
        let haproxy = Haproxy::start(setup.directory(), "accept-proxy", ECHO_HEADER, "");
        let health = "{ probe = \"http\", interval = \"60s\", fall = 1 }";
        let proxy = setup
            .with(|settings| {
                settings.backends(&[haproxy.address]).pool("health", health);
                let setting = match version {
                    "v2" => "{ tlvs = [\"unique-id\", \"authority\", \"crc32c\"] }",
                    _ => "\"v1\"",
                };
                settings.pool("proxy_protocol", setting);
                settings.listener("proxy_protocol", TRUSTED);
                settings.table(&format!(
                    "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                     certificates = {}\n",
                    site.setting()
                ));
            })
            .start()
            .await;
        let up = "moorline_backend_up{pool=\"app\"";
        proxy.wait_for_metric("the result of the health check", up, |up| up == 1.0).await;
        // The addresses of a received header are sent on to the backend.
        let request = message::get("/named", "");
        let reply = Raw::ask(proxy.web(), [LINE.as_bytes(), &request].concat()).await;
        assert_eq!(reply.header("x-src"), Some("192.0.2.7:4711"));
        assert_eq!(reply.header("x-dst"), Some("198.51.100.1:443"));
        let mut client = Raw::tls(proxy.listener("secure"), &site).await;
        client.send(message::get("/real", "")).await;
        let reply = client.response().await;
        assert_eq!(reply.header("x-src"), Some(client.local().to_string().as_str()));
        let secure = proxy.listener("secure").to_string();
        assert_eq!(reply.header("x-dst"), Some(secure.as_str()));
        let line = line_of(&proxy, "/real").await;
        let (authority, id) = match version {
            "v2" => ("app.test", line["id"].as_str().unwrap()),
            _ => ("", ""),
        };
        assert_eq!(reply.header("x-authority").unwrap_or_default(), authority);
        assert_eq!(reply.header("x-id").unwrap_or_default(), id);
        drop((client, haproxy));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn health_checks_send_unknown_or_local_headers() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", local)] {
        let backend = Backend::manual().await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]);
            settings.pool("health", "{ probe = \"http\", interval = \"60s\", timeout = \"30s\" }");
            settings.pool("proxy_protocol", &format!("\"{version}\""));
        })
        .await;
        let peer = backend.peer(0).await;
        let begins = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        eventually("the health check", || backend.bytes(0).len() >= begins.len()).await;
        let bytes = backend.bytes(0);
        assert!(bytes.starts_with(&begins), "{}", bytes.escape_ascii());
        drop((peer, backend));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn haproxy_as_backend_reads_the_header_before_tls() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let joined = setup.directory().join("joined.pem");
    ca.issue("127.0.0.1", |_| {}).write_joined(&joined);
    let bind = format!("accept-proxy ssl crt {}", joined.display());
    let haproxy = Haproxy::start(setup.directory(), &bind, ECHO_HEADER, "");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[haproxy.address]).pool("proxy_protocol", "\"v2\"");
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("the result of the health check", up, |up| up == 1.0).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "")).await;
    let reply = client.response().await;
    assert_eq!(reply.header("x-src"), Some(client.local().to_string().as_str()));
    drop((client, haproxy));
    proxy.finish().await;
}

#[tokio::test]
async fn nginx_as_backend_reads_the_header_before_tls_from_every_listener() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    ca.issue("127.0.0.1", |_| {}).write(setup.directory(), "node");
    let folder = setup.directory().display().to_string();
    let nginx = Nginx::start(
        setup.directory(),
        "ssl proxy_protocol",
        &format!(
            "    ssl_certificate {folder}/node.pem;\n    ssl_certificate_key {folder}/node.key;\n\
             location / {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }}"
        ),
    )
    .await;
    let table = |setting: &str| {
        format!(
            "backends = [\"{}\"]\nproxy_protocol = {setting}\ntls = {{ ca = {:?} }}\n\
             health = {{ probe = \"off\" }}\n",
            nginx.address, ca.file
        )
    };
    let proxy = setup
        .with(|settings| {
            settings.backends(&[nginx.address]).pool("proxy_protocol", "\"v2\"");
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"http\", interval = \"60s\", fall = 1 }");
            for (name, setting) in
                [("one", "\"v1\""), ("sum", "{ tlvs = [\"crc32c\", \"unique-id\"] }")]
            {
                settings.table(&format!(
                    "[[routes]]\nhost = \"{name}.test\"\npool = \"{name}\"\n[pools.{name}]\n{}",
                    table(setting)
                ));
            }
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("the result of the health check", up, |up| up == 1.0).await;
    for host in ["app", "one", "sum"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n");
        let mut plain = Raw::connect(proxy.web()).await;
        plain.send(&request).await;
        assert_eq!(plain.response().await.text(), plain.local().to_string(), "{host}");
        // A TLS listener adds no further TLV to the header.
        let mut secure = Raw::tls(proxy.listener("secure"), &site).await;
        secure.send(&request).await;
        assert_eq!(secure.response().await.text(), secure.local().to_string(), "{host}");
    }
    drop(nginx);
    proxy.finish().await;
}

#[tokio::test]
async fn a_reload_enables_the_header_for_running_health_checks() {
    let setup = Setup::new();
    let backend = Backend::replying("ok").await;
    let ca = Authority::make(setup.directory(), "ca");
    let front = TlsFront::before(&backend, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[front.address]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("up", up, |up| up == 1.0).await;
    within("the health check", front.handshake(0)).await;
    // The backend expects a ClientHello, so the PROXY header makes its health checks fail.
    proxy.reload(|settings| _ = settings.pool("proxy_protocol", "\"v2\"")).await;
    proxy.wait_for_metric("down", up, |up| up == 0.0).await;
    drop((front, backend));
    proxy.finish().await;
}

//! Backends that lead back to the proxy: detected in the configuration, or by looping requests.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::support::{
    Backend, Proxy, Raw,
    dns::{NameServer, ZONE},
    message,
    proxy::Setup,
    websocket, within,
};

/// Returns a port without a listener.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Two proxies, each with the other as its only backend.
async fn circle() -> (Proxy, Proxy) {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut first = Proxy::for_backends(&[nowhere]).await;
    let second = Proxy::for_backends(&[first.web()]).await;
    first.reload(|settings| _ = settings.backends(&[second.web()])).await;
    (first, second)
}

#[tokio::test]
async fn fault_135_a_circle_of_proxies_ends_with_508() {
    let (first, second) = circle().await;
    let before = first.descriptors();
    let reply = Raw::ask(first.web(), message::get("/round", "")).await;
    assert_eq!(reply.status(), 508, "{}", reply.text());
    assert!(reply.text().contains("leads back to this proxy"), "{}", reply.text());
    let ended = |line: &serde_json::Value| line["termination"] == "proxy_request_loop";
    let ends = async |proxy: &Proxy| {
        proxy.wait_for_log("508", |line| line["status"] == 508).await;
        proxy.log_lines().iter().filter(|line| ended(line)).count()
    };
    assert_eq!(ends(&first).await + ends(&second).await, 1);
    // The number of hops is bounded.
    assert!(first.log_lines().len() + second.log_lines().len() <= 12);
    assert!(first.descriptors() <= before + 32);
    first.finish().await;
    second.finish().await;
}

#[tokio::test]
async fn fault_135_an_upgrade_in_a_circle_ends_with_508() {
    let (first, second) = circle().await;
    let mut client = Raw::connect(first.web()).await;
    client.send(websocket::request("/round", "")).await;
    assert_eq!(client.response().await.status(), 508);
    drop(client);
    first.finish().await;
    second.finish().await;
}

#[tokio::test]
async fn a_connection_field_cannot_remove_the_hop_count() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let fields = "Connection: X-Moorline-Hops\r\nX-Moorline-Hops: 3\r\n";
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", fields)).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(backend.requests().last().unwrap().all("x-moorline-hops"), ["4"]);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_135_an_own_listener_as_backend_is_reported_with_its_line() {
    let port = free_port();
    for (bind, backend) in [
        (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
        (format!("0.0.0.0:{port}"), format!("127.0.0.2:{port}")),
        (format!("0.0.0.0:{port}"), format!("localhost:{port}")),
        (format!("[::]:{port}"), format!("[::1]:{port}")),
        (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")),
        (format!("127.0.0.1:{port}"), format!("[::ffff:127.0.0.1]:{port}")),
    ] {
        for protocol in ["http", "tcp"] {
            let text = format!(
                "[listeners.web]\nbind = \"{bind}\"\nprotocol = \"{protocol}\"\n[pools.app]\n\
                 backends = [\n  \"192.0.2.1:80\",\n  \"{backend}\",\n]\n"
            );
            let ended = Setup::new().text(text).fails_to_start().await;
            let stderr = ended.stderr;
            let fault = "is an address of listener `web`";
            assert!(
                stderr.contains(fault) && stderr.contains("moorline.toml:7:"),
                "{bind}: {stderr}"
            );
        }
    }
}

#[tokio::test]
async fn a_port_of_another_address_is_not_a_loop() {
    let port = free_port();
    for (bind, backend) in [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "192.0.2.1")] {
        let text = format!(
            "access_log = \"off\"\nadmin = \"127.0.0.1:0\"\n[listeners.web]\nbind = \"{bind}:{port}\"\n[pools.app]\n\
             backends = [\"{backend}:{port}\"]\nhealth = {{ probe = \"off\" }}\n"
        );
        Setup::new().text(text).start().await.finish().await;
    }
}

/// A proxy that discovers its own listener by DNS as its only backend.
async fn before_itself(server: &NameServer, protocol: &str, health: &str) -> Proxy {
    let port = free_port();
    let proxy = Proxy::with(|settings| {
        settings.listener("bind", &format!("\"127.0.0.1:{port}\""));
        settings.listener("protocol", &format!("\"{protocol}\"")).pool("health", health);
        let (address, limits) = (server.address, "min_ttl = \"100ms\", max_ttl = \"200ms\"");
        let source =
            format!("{{ dns = \"self.{ZONE}:{port}\", resolver = \"{address}\", {limits} }}");
        settings.pool("backends", &source);
        if protocol == "tcp" {
            settings.unrouted();
        }
    })
    .await;
    proxy.wait_for_stderr("the loop", |line| line.contains("is a listener of this proxy")).await;
    proxy
}

#[tokio::test]
async fn fault_135_a_discovered_own_listener_is_never_connected_to() {
    let server = NameServer::start("self 0 A 127.0.0.1").await;
    let proxy = before_itself(&server, "http", "{ probe = \"off\" }").await;
    let reply = Raw::ask(proxy.web(), message::get("/round", "")).await;
    assert_eq!(reply.status(), 508, "{}", reply.text());
    proxy.wait_for_log("508", |line| line["termination"] == "proxy_connect_loop").await;
    assert_eq!(proxy.log_lines().len(), 1, "the request was not forwarded");
    proxy.finish().await;
    // A stream gets no reply and ends.
    let proxy = before_itself(&server, "tcp", "{ probe = \"off\" }").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.assert_closed().await;
    proxy.wait_for_log("the end", |line| line["termination"] == "proxy_connect_loop").await;
    assert_eq!(proxy.log_lines().len(), 1, "the proxy did not connect to itself");
    drop(client);
    proxy.finish().await;
}

#[tokio::test]
async fn an_own_listener_marked_down_by_health_checks_still_answers_508() {
    let server = NameServer::start("self 0 A 127.0.0.1").await;
    let health = "{ probe = \"tcp\", interval = \"100ms\", fall = 1 }";
    let proxy = before_itself(&server, "http", health).await;
    within("the backend is down", async {
        loop {
            let reply = Raw::ask(proxy.web(), message::get("/round", "")).await;
            assert_eq!(reply.status(), 508, "{}", reply.text());
            if proxy.log_lines().iter().any(|line| line["termination"] == "proxy_select_loop") {
                break;
            }
        }
    })
    .await;
    proxy.finish().await;
    // A stream ends with the same reason.
    let proxy = before_itself(&server, "tcp", health).await;
    within("the backend is down", async {
        loop {
            Raw::connect(proxy.web()).await.assert_closed().await;
            if proxy.log_lines().iter().any(|line| line["termination"] == "proxy_select_loop") {
                break;
            }
        }
    })
    .await;
    proxy.finish().await;
}

//! Tests of nodes over real sockets with the polling transport.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::*;
use crate::http_client::HttpConnection;

async fn send(to: SocketAddr, method: Method, path: &str, body: &str) -> Response<String> {
    let stream = TcpStream::connect(to).await.unwrap();
    let mut client = HttpConnection::open(stream).await.unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "demo")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    let (head, body) = client.exchange(request, 1 << 20).await.unwrap().into_parts();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Response::from_parts(head, text)
}

/// A user of one node.
struct User {
    node: SocketAddr,
    path: String,
    received: String,
}

impl User {
    async fn connect(node: SocketAddr) -> Self {
        let opened =
            send(node, Method::GET, "/socket.io/?EIO=4&transport=polling", "").await.into_body();
        let open: Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
        let sid = open["sid"].as_str().unwrap();
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let user = Self { node, path, received: String::new() };
        user.post("40").await;
        user
    }

    async fn post(&self, packet: &str) {
        assert_eq!(send(self.node, Method::POST, &self.path, packet).await.body(), "ok");
    }

    /// Polls until a packet with this text arrives, and returns all packets so far.
    async fn receive(&mut self, text: &str) -> &str {
        while !self.received.contains(text) {
            let polled = send(self.node, Method::GET, &self.path, "").await;
            assert_eq!(polled.status(), 200);
            self.received.push_str(polled.body());
        }
        &self.received
    }
}

#[tokio::test]
async fn every_reply_names_its_node() {
    let nodes = Nodes::start(&["alfa", "bravo", "charlie"]).await.unwrap();
    for (address, name) in nodes.addresses().into_iter().zip(["alfa", "bravo", "charlie"]) {
        for path in ["/", "/client.js", "/missing", "/socket.io/?EIO=4&transport=polling"] {
            let reply = send(address, Method::GET, path, "").await;
            assert_eq!(reply.headers()["x-node"], name, "{path}");
            assert_eq!(reply.status() == 404, path == "/missing", "{path}");
        }
        let welcome = User::connect(address).await.receive("welcome").await.to_owned();
        assert!(welcome.contains(&format!(r#""node":"{name}","transport":"polling""#)));
    }
}

#[tokio::test]
async fn the_page_refers_to_no_other_origin() {
    let nodes = Nodes::start(&["alfa"]).await.unwrap();
    let page = send(nodes.addresses()[0], Method::GET, "/", "").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("'none'"));
    for link in page.body().split(['"', '\'']).filter(|s| s.contains("://")) {
        assert_eq!(link, "http://www.w3.org/2000/svg", "a name space, not an address");
    }
}

#[tokio::test]
async fn a_message_reaches_the_users_of_every_node() {
    let nodes = Nodes::start(&["alfa", "bravo"]).await.unwrap();
    let mut here = User::connect(nodes.addresses()[0]).await;
    let mut there = User::connect(nodes.addresses()[1]).await;
    here.receive("welcome").await;
    there.receive("welcome").await;
    here.post(r#"420["say",{"from":"Ada","text":"ahoy"}]"#).await;
    let message = r#"["message",{"id":1,"from":"Ada","text":"ahoy","node":"alfa","at":"#;
    assert!(there.receive("ahoy").await.contains(message));
    assert!(here.receive("ahoy").await.contains(message));
    assert!(here.receive("430[").await.contains(r#"430[{"node":"alfa","transport":"polling"}]"#));
}

#[tokio::test]
async fn long_messages_are_cut_and_blank_ones_are_not_sent() {
    let nodes = Nodes::start(&["alfa"]).await.unwrap();
    let mut user = User::connect(nodes.addresses()[0]).await;
    user.post(r#"42["say",{"from":"Ada","text":" \u0007 "}]"#).await;
    user.post(&format!(r#"42["say",{{"from":"Ada","text":"{}"}}]"#, "é".repeat(900))).await;
    let said = user.receive(r#"["message""#).await.to_owned();
    assert!(said.contains(r#""id":1,"#), "{said}");
    assert_eq!(said.matches('é').count(), 500);
}

#[tokio::test]
async fn people_are_counted_while_they_are_connected() {
    let nodes = Nodes::start(&["alfa", "bravo"]).await.unwrap();
    let mut user = User::connect(nodes.addresses()[0]).await;
    user.receive(r#"[{"node":"alfa","people":1},{"node":"bravo","people":0}]"#).await;
    let other = User::connect(nodes.addresses()[1]).await;
    user.receive(r#"[{"node":"alfa","people":1},{"node":"bravo","people":1}]"#).await;
    user.received.clear();
    other.post("41").await;
    user.receive(r#"[{"node":"alfa","people":1},{"node":"bravo","people":0}]"#).await;
}

#[tokio::test]
async fn a_shutdown_closes_ports_and_connections_of_users() {
    let nodes = Nodes::start(&["alfa"]).await.unwrap();
    let address = nodes.addresses()[0];
    let mut idle = TcpStream::connect(address).await.unwrap();
    User::connect(address).await.receive("crowds").await;
    nodes.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0, "the kept connection is closed");
}

#[tokio::test]
async fn a_name_that_is_not_a_header_value_is_rejected() {
    let error = Nodes::start(&["al\nfa"]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// Requests a reload from a node with these header fields, and returns the status.
async fn request_reload(to: SocketAddr, fields: &[(&str, &str)]) -> u16 {
    let stream = TcpStream::connect(to).await.unwrap();
    let mut client = HttpConnection::open(stream).await.unwrap();
    let mut request = Request::post("/demo/reload");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::new())).unwrap();
    client.send(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn actions_need_the_token_and_loopback_addresses() {
    let nodes = Nodes::start(&["alfa"]).await.unwrap();
    let node = nodes.addresses()[0];
    let mut requests = nodes.requests().unwrap();
    tokio::spawn(async move {
        while let Some(DemoRequest { action, reply }) = requests.recv().await {
            assert_eq!(action, DemoAction::Reload);
            reply.send(Ok(ActionReport::default())).unwrap();
        }
    });
    let page = send(node, Method::GET, "/", "").await.into_body();
    let (_, rest) = page.split_once("name=\"demo-token\" content=\"").unwrap();
    let token = rest.split('"').next().unwrap();
    assert_eq!(token.len(), 32);
    for (client, host, origin, token, status) in [
        ("127.0.0.1", "127.0.0.1:8443", "https://127.0.0.1:8443", token, 200),
        ("::ffff:127.0.0.1", "localhost:8443", "https://localhost:8443", token, 200),
        ("::1", "[::1]:8443", "https://[::1]:8443", token, 200),
        ("192.0.2.7", "127.0.0.1:8443", "https://127.0.0.1:8443", token, 403),
        ("127.0.0.1, 192.0.2.7", "localhost", "https://localhost", token, 403),
        ("unknown", "localhost", "https://localhost", token, 403),
        ("127.0.0.1", "demo.example", "https://demo.example", token, 403),
        ("127.0.0.1", "localhost", "https://demo.example", token, 403),
        ("127.0.0.1", "localhost", "http://localhost", token, 403),
        ("127.0.0.1", "localhost", "https://localhost", "", 403),
    ] {
        let fields = [
            ("x-forwarded-for", client),
            ("host", host),
            ("origin", origin),
            ("x-demo-token", token),
        ];
        assert_eq!(request_reload(node, &fields).await, status, "{fields:?}");
    }
    let without_origin = [("host", "localhost"), ("x-demo-token", token)];
    assert_eq!(request_reload(node, &without_origin).await, 403);
}

#[tokio::test]
async fn a_node_also_serves_below_the_plain_prefix() {
    let nodes = Nodes::start(&["alfa"]).await.unwrap();
    let node = nodes.addresses()[0];
    let opened = send(node, Method::GET, "/plain/socket.io/?EIO=4&transport=polling", "").await;
    assert!(opened.body().starts_with("0{\"sid\":"), "{}", opened.body());
    assert_eq!(send(node, Method::GET, "/plains/socket.io/", "").await.status(), 404);
}

#[tokio::test]
async fn a_killed_node_resets_its_connections_and_others_keep_running() {
    let nodes = Nodes::start(&["alfa", "bravo"]).await.unwrap();
    let [alfa, bravo] = nodes.addresses()[..] else { panic!("two nodes") };
    let mut idle = TcpStream::connect(alfa).await.unwrap();
    User::connect(alfa).await.receive("welcome").await;
    let mut other = User::connect(bravo).await;
    nodes.kill("alfa");
    let end = idle.read(&mut [0]).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    assert!(!nodes.runs("alfa") && nodes.runs("bravo"));
    other.receive(r#"[{"node":"bravo","people":1}]"#).await;
    while TcpStream::connect(alfa).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

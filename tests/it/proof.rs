//! Tests of the test support itself, without a proxy.

use std::time::Duration;

use crate::support::{
    Backend, Blackhole, End, Message, Raw, Refusing, message, process, settings::list, websocket,
};

#[tokio::test]
async fn a_backend_records_what_a_client_sends() {
    let backend = Backend::replying("hello").await;
    let reply = Raw::ask(backend.address, message::post("/a", "X-A: b\r\n", "body")).await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "hello"));
    let request = backend.request("/a").await;
    assert_eq!((request.method(), request.header("x-a")), ("POST", Some("b")));
    assert_eq!(request.body, b"body");
    assert_eq!(backend.received(), message::post("/a", "X-A: b\r\n", "body"));
    assert_eq!(backend.ended(0).await, End::Fin);
}

#[tokio::test]
async fn fin_and_rst_are_distinguished_on_both_sides() {
    let backend = Backend::manual().await;
    let mut client = Raw::connect(backend.address).await;
    backend.peer(0).await.close();
    assert_eq!(client.assert_closed().await, End::Fin);
    let mut client = Raw::connect(backend.address).await;
    backend.peer(1).await.reset();
    assert_eq!(client.assert_closed().await, End::Reset);
    Raw::connect(backend.address).await.reset();
    assert_eq!(backend.ended(2).await, End::Reset);
    let mut client = Raw::connect(backend.address).await;
    client.finish().await;
    assert_eq!(backend.ended(3).await, End::Fin);
    backend.peer(3).await.send("still").await;
    assert_eq!(client.exact(5).await, b"still");
}

#[tokio::test]
async fn a_stalled_backend_causes_backpressure_and_loses_nothing() {
    let backend = Backend::manual().await;
    let mut client = Raw::connect(backend.address).await;
    let peer = backend.peer(0).await;
    peer.stall();
    let sent = client.fill(1 << 30, Duration::from_millis(300)).await;
    assert!(sent < 1 << 28, "{sent} bytes without a reader");
    peer.check_pattern();
    peer.resume();
    client.finish().await;
    peer.ended().await;
    assert_eq!(peer.checked(), sent);
    let sent = peer.fill(1 << 22, Duration::from_millis(300)).await;
    peer.close();
    assert_eq!(client.check_pattern().await, (sent, End::Fin));
}

#[tokio::test]
async fn a_blackhole_drops_syns_and_a_refusing_port_refuses() {
    let hole = Blackhole::new();
    let connect = tokio::net::TcpStream::connect(hole.address());
    assert!(tokio::time::timeout(Duration::from_millis(300), connect).await.is_err());
    let refusing = Refusing::new();
    let address = refusing.address();
    let error = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let _backend = refusing.revive("back").await;
    assert_eq!(Raw::ask(address, message::get("/", "")).await.text(), "back");
}

#[tokio::test]
async fn the_echo_backend_accepts_upgrades_and_echoes() {
    let backend = Backend::start(websocket::echo()).await;
    let mut client = Raw::connect(backend.address).await;
    client.send(websocket::request("/chat", "")).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some(websocket::ACCEPT));
    client.send("ping").await;
    assert_eq!(client.exact(4).await, b"ping");
}

#[tokio::test]
async fn the_kernel_shows_sockets_and_memory() {
    let backend = Backend::manual().await;
    let _client = Raw::connect(backend.address).await;
    backend.peer(0).await;
    let lines = process::sockets(&format!("( sport = :{} )", backend.address.port())).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let pid = std::process::id();
    assert!(process::descriptors(pid) >= 3 && process::resident(pid) > 1 << 20);
    assert_eq!(list(&[backend.address]), format!("[\"{}\"]", backend.address));
}

#[test]
fn messages_are_read_by_their_framing() {
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\nrest";
    let (message, taken) = Message::read(chunked).unwrap();
    assert_eq!((message.text().as_str(), taken), ("abc", chunked.len() - 4));
    assert_eq!(message.trailers, [("X".to_owned(), "y".to_owned())]);
    for end in 0..chunked.len() - 4 {
        assert_eq!(Message::read(&chunked[..end]), None, "{end}");
    }
    assert_eq!(Message::read(b"HTTP/1.1 204 No Content\r\n\r\nx").unwrap().1, 27);
    assert_eq!(Message::read(b"HTTP/1.1 200 OK\r\n\r\nuntil close"), None);
    assert_eq!(message::find(b"abcabd", b"abd"), Some(3));
}

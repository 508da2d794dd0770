//! Limits of WebSocket messages.

use super::routed;
use crate::support::{
    Backend, End, Proxy, Raw,
    proxy::Setup,
    websocket::{self, tunnel},
};

/// A masked frame; the mask is zero.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        length @ 0..=125 => vec![0x80 | length as u8],
        length @ 126..=0xffff => [&[0xfe], &(length as u16).to_be_bytes()[..]].concat(),
        length => [&[0xff], &(length as u64).to_be_bytes()[..]].concat(),
    };
    [&[head], &length[..], &[0; 4], payload].concat()
}

/// The Close frame that a client gets.
fn close(status: u16, reason: &str) -> Vec<u8> {
    let length = reason.len() as u8 + 2;
    [&[0x88, length], &status.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// The Close frame that the backend gets.
fn masked_close(status: u16) -> Vec<u8> {
    frame(0x88, &status.to_be_bytes())
}

async fn assert_ended(proxy: &Proxy, termination: &str) {
    let is_it = |line: &serde_json::Value| line["termination"] == termination;
    let line = proxy.wait_for_log("the tunnel's line", is_it).await;
    assert_eq!((&line["status"], &line["kind"]), (&101.into(), &"tunnel".into()));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_forwarded() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "messages = { max_size = \"1KiB\" }\n").await;
    for large in [
        frame(0x81, &[b'x'; 1025]),
        // Fragments with a ping between them.
        [frame(0x01, &[b'x'; 1000]), frame(0x89, b"hi"), frame(0x80, &[b'y'; 25])].concat(),
        // Only the header, with a length that never comes.
        frame(0x82, &[b'z'; 70_000])[..14].to_vec(),
    ] {
        let (mut client, peer) = tunnel(&proxy, &backend).await;
        let small = frame(0x81, &[b's'; 1024]);
        client.send(&small).await;
        peer.wait_for_rest(&small).await;
        // Not between two bytes of the backend's frame.
        peer.send(b"\x81\x05he").await;
        assert_eq!(client.exact(4).await, b"\x81\x05he");
        client.send(&large).await;
        peer.send(b"llo").await;
        assert_eq!(client.exact(3).await, b"llo");
        let expected = close(1009, "message too large");
        assert_eq!(client.exact(expected.len()).await, expected);
        let fragment = if large[0] == 0x01 { large.len() - 31 } else { 0 };
        client.try_send(frame(0x88, &1009_u16.to_be_bytes())).await;
        if large.len() == 14 {
            // The answer is within the payload that the header announces.
            client.finish().await;
        }
        assert_eq!(client.assert_closed().await, End::Fin);
        assert_eq!(peer.ended().await, End::Fin);
        let seen = [&small[..], &large[..fragment], &masked_close(1009)].concat();
        assert_eq!(peer.rest(), seen);
        peer.close();
    }
    assert_ended(&proxy, "client_tunnel_message_too_large").await;
    assert_eq!(
        proxy
            .log_lines()
            .iter()
            .filter(|line| line["termination"] == "client_tunnel_message_too_large")
            .count(),
        3
    );
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_large_message_is_drained_so_that_its_client_reads_why() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "messages = { max_size = \"1KiB\" }\n").await;
    let (mut client, peer) = tunnel(&proxy, &backend).await;
    // As a browser does: all of the message first, then the answer to the Close.
    client.send(frame(0x82, &vec![b'x'; 8 << 20])).await;
    let expected = close(1009, "message too large");
    assert_eq!(client.exact(expected.len()).await, expected);
    client.send(masked_close(1009)).await;
    assert_eq!(client.assert_closed().await, End::Fin);
    assert_eq!(peer.ended().await, End::Fin);
    assert_eq!(peer.rest(), masked_close(1009));
    peer.close();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn bytes_with_the_handshake_are_limited_too() {
    let backend = Backend::start(websocket::echo()).await;
    let proxy = routed(&backend, "messages = { max_size = 4 }\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send([&websocket::request("/", "")[..], websocket::EARLY].concat()).await;
    assert_eq!(client.response().await.status(), 101);
    let expected = close(1009, "message too large");
    assert_eq!(client.exact(expected.len()).await, expected);
    client.finish().await;
    client.assert_closed().await;
    assert!(!backend.saw("early"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn invalid_frames_are_refused() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "messages = { max_size = \"1KiB\" }\n").await;
    for invalid in [&b"\x81\x05hello"[..], b"\x83\x80\0\0\0\0", b"\x80\x80\0\0\0\0"] {
        let (mut client, peer) = tunnel(&proxy, &backend).await;
        client.send(invalid).await;
        let expected = close(1002, "invalid frame");
        assert_eq!(client.exact(expected.len()).await, expected);
        client.finish().await;
        client.assert_closed().await;
        peer.ended().await;
        assert_eq!(peer.rest(), masked_close(1002));
        peer.close();
    }
    assert_ended(&proxy, "client_tunnel_malformed").await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_beyond_its_rate_is_slowed_and_at_last_refused() {
    let backend = Backend::manual().await;
    let keys = "messages = { rate = \"50/s\", burst = 5, patience = \"500ms\" }\n";
    let proxy = routed(&backend, keys).await;
    // A burst passes, and a little more only waits.
    let (mut client, peer) = tunnel(&proxy, &backend).await;
    let message = frame(0x81, b"hello");
    let ten = message.repeat(10);
    let began = std::time::Instant::now();
    client.send(&ten).await;
    peer.wait_for_rest(&ten).await;
    assert!(began.elapsed() >= std::time::Duration::from_millis(80), "{:?}", began.elapsed());
    // The other direction does not wait.
    client.send(message.repeat(1000)).await;
    peer.send(b"\x81\x02hi").await;
    assert_eq!(client.exact(4).await, b"\x81\x02hi");
    let expected = close(1008, "too many messages");
    assert_eq!(client.exact(expected.len()).await, expected);
    client.send(masked_close(1008)).await;
    assert_eq!(client.assert_closed().await, End::Fin);
    assert_eq!(peer.ended().await, End::Fin);
    let rest = peer.rest();
    peer.close();
    assert!(rest.ends_with(&masked_close(1008)));
    assert!((30..100).contains(&(rest.len() / message.len())), "{} bytes", rest.len());
    assert_ended(&proxy, "client_tunnel_message_rate").await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_drain_closes_a_limited_tunnel_between_frames() {
    let backend = Backend::start(websocket::echo()).await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]).top("drain", "\"500ms\"");
        settings.table(
            "[[routes]]\npool = \"app\"\nmessages = { max_size = 1024, rate = \"100/s\" }\n",
        );
    });
    let proxy = setup.start().await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/", "")).await;
    assert_eq!(client.response().await.status(), 101);
    let hello = frame(0x81, b"hello");
    client.send(&hello).await;
    assert_eq!(client.exact(hello.len()).await, hello);
    proxy.terminate();
    let expected = websocket::close("draining");
    assert_eq!(client.exact(expected.len()).await, expected);
    client.send(websocket::CLOSE_REPLY).await;
    client.assert_closed().await;
    drop(backend);
}

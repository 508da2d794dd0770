//! Chunked bodies with a fault, from either side: the receiver can see that the body is not complete.

use super::POST;
use crate::{
    response::assert_bad_responses,
    support::{Backend, End, Message, Proxy, Raw, eventually, message},
};

/// Valid chunks before the fault.
const BEFORE: &str = "5\r\nhello\r\n";

/// The end of the header of a message with a chunked body.
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

/// Invalid sizes of a chunk.
fn invalid_sizes() -> Vec<String> {
    let sizes = [
        "+1",
        "-1",
        "0x1",
        "0X1",
        "1_0",
        "_1",
        " 1",
        "\t1",
        "",
        "g",
        "1g",
        "1,2",
        "\u{661}",
        // 2^53 + 1, 2^64 - 1, and more digits than fit into 64 bits.
        "20000000000001",
        "ffffffffffffffff",
        "10000000000000001",
        "00000000000000001",
    ];
    sizes.iter().map(|size| format!("{size}\r\nx\r\n0\r\n\r\n")).collect()
}

/// Invalid extensions, and too many of them.
fn invalid_extensions() -> Vec<String> {
    let long = "e".repeat(17 << 10);
    vec![
        "1;a\0\r\nx\r\n0\r\n\r\n".to_owned(),
        "1;a=\"\x1b\"\r\nx\r\n0\r\n\r\n".to_owned(),
        "1;a\x7f\r\nx\r\n0\r\n\r\n".to_owned(),
        "1;a\nx\r\n0\r\n\r\n".to_owned(),
        "1;a=\"\n\"\r\nx\r\n0\r\n\r\n".to_owned(),
        "1;a\rb\r\nx\r\n0\r\n\r\n".to_owned(),
        "0;a\n\r\n".to_owned(),
        format!("1;{long}\r\nx\r\n0\r\n\r\n"),
        format!("1;{}\r\nx\r\n", &long[..600]).repeat(30),
    ]
}

/// Lines that do not end with CRLF, and invalid trailers.
fn invalid_lines() -> Vec<String> {
    let bodies = [
        "1\nx\r\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx\r0\r\n\r\n",
        "1\r\nx\r\n\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\n\r\r",
        "0\r\nX-Sum: a\n\r\n",
        "0\r\nX-Sum: a\r\n b\r\n\r\n",
        "0\r\nX-Sum : a\r\n\r\n",
        "0\r\n: a\r\n\r\n",
        "0\r\nX-Sum: \0\r\n\r\n",
        "0\r\nX-Sum: a\rb\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
    ];
    bodies.map(str::to_owned).into()
}

/// A body with the fault gets 400 and a close. If the fault arrives with the header, no byte reaches the backend.
/// Otherwise the backend gets the chunks before the fault, and then the end of the connection.
async fn assert_faults_of_a_request(faults: &[String]) {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for fault in faults.iter().filter(|fault| fault.len() < 4096) {
        let mut client = Raw::connect(proxy.web()).await;
        client.try_send(format!("{POST}{CHUNKED}{fault}")).await;
        assert_eq!(client.response().await.status(), 400, "{fault:?} with the header");
        client.finish().await;
        assert_eq!(client.assert_closed().await, End::Fin, "{fault:?} with the header");
    }
    backend.assert_untouched();
    for (n, fault) in faults.iter().enumerate() {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(format!("POST /{n} HTTP/1.1\r\nHost: app.test\r\n{CHUNKED}{BEFORE}")).await;
        let peer = backend.peer_for(&format!("/{n}")).await;
        peer.head().await.unwrap();
        eventually("the chunks before the fault", || peer.rest() == BEFORE.as_bytes()).await;
        client.try_send(fault).await;
        assert_eq!(client.response().await.status(), 400, "{fault:?} in the body");
        client.finish().await;
        client.assert_closed().await;
        peer.ended().await;
        assert!(peer.rest().starts_with(BEFORE.as_bytes()));
        let whole = [b"POST / HTTP/1.1\r\nTransfer-Encoding: a\r\n\r\n", &peer.rest()[..]].concat();
        assert!(Message::read(&whole).is_none(), "{fault:?}: the backend got a complete request");
    }
    assert!(backend.requests().is_empty());
    drop(backend);
    proxy.finish().await;
}

/// A response with the fault becomes a 502 if the fault arrives with the header. Otherwise the client gets what came
/// before, and a reset, which also ends a body that is delimited by the end of the connection.
async fn assert_faults_of_a_response(faults: &[String]) {
    let head = format!("HTTP/1.1 200 OK\r\nX-Part: secret\r\n{CHUNKED}");
    let at_once = faults.iter().filter(|fault| fault.len() < 4096);
    assert_bad_responses(
        at_once.map(|fault| (message::get("/", ""), format!("{head}{BEFORE}{fault}"))),
    )
    .await;
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let clients = [("1.1", BEFORE), ("1.0", "hello")];
    for (index, (fault, (version, before))) in
        faults.iter().flat_map(|fault| clients.map(|client| (fault, client))).enumerate()
    {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(format!("GET / HTTP/{version}\r\nHost: app.test\r\n\r\n")).await;
        let peer = backend.peer(index).await;
        peer.head().await.unwrap();
        peer.send(format!("{head}{BEFORE}")).await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.exact(before.len()).await, before.as_bytes());
        peer.send(fault).await;
        let (rest, end) = client.rest().await;
        assert_eq!(end, End::Reset, "{fault:?} to a client of {version}");
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(!rest.ends_with("0\r\n\r\n"), "{fault:?}: {rest:?} looks complete");
        peer.ended().await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_008_invalid_chunk_sizes() {
    assert_faults_of_a_request(&invalid_sizes()).await;
}

#[tokio::test]
async fn fault_008_invalid_chunk_sizes_of_a_response() {
    assert_faults_of_a_response(&invalid_sizes()).await;
}

#[tokio::test]
async fn fault_009_invalid_chunk_extensions() {
    assert_faults_of_a_request(&invalid_extensions()).await;
}

#[tokio::test]
async fn fault_009_invalid_chunk_extensions_of_a_response() {
    assert_faults_of_a_response(&invalid_extensions()).await;
}

#[tokio::test]
async fn fault_010_chunk_lines_without_crlf() {
    assert_faults_of_a_request(&invalid_lines()).await;
}

#[tokio::test]
async fn fault_010_chunk_lines_without_crlf_of_a_response() {
    assert_faults_of_a_response(&invalid_lines()).await;
}

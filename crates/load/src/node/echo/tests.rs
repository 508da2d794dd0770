use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use super::*;

async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    address
}

async fn client(path: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}{path}", echo_server().await).parse().unwrap();
    ClientBuilder::from_uri(url).connect().await.unwrap().0
}

#[tokio::test]
async fn requests_are_answered_over_one_connection() {
    let mut tcp = TcpStream::connect(echo_server().await).await.unwrap();
    // Two requests at once, the second one in two parts.
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nPOST /a HTTP/1.1\r\ncontent-le")
        .await
        .unwrap();
    let mut reply = vec![0; REPLY_HEAD.len() + REPLY_BODY.len()];
    tcp.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, [REPLY_HEAD, REPLY_BODY].concat());
    tcp.write_all(b"ngth: 2\r\nconnection: close\r\n\r\nhi").await.unwrap();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, reply);
}

#[tokio::test]
async fn body_has_the_requested_length_and_the_next_request_is_answered() {
    let mut tcp = TcpStream::connect(echo_server().await).await.unwrap();
    let requests = "GET /bulk?bytes=300000 HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n";
    tcp.write_all(requests.as_bytes()).await.unwrap();
    let mut replies = Vec::new();
    tcp.read_to_end(&mut replies).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n";
    assert!(replies.starts_with(head));
    assert_eq!(replies[head.len() + 300_000..], [REPLY_HEAD, REPLY_BODY].concat());
}

#[tokio::test]
async fn invalid_request_is_rejected() {
    let mut tcp = TcpStream::connect(echo_server().await).await.unwrap();
    tcp.write_all(b"\x16\x03\x01 hello\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    tcp.read_to_end(&mut reply).await.unwrap();
    assert_eq!(reply, BAD_REQUEST);
}

#[tokio::test]
async fn messages_of_all_sizes_are_echoed() {
    let mut client = client("/any").await;
    for size in [0, 1, 125, 126, 65_535, 65_536, 3 << 20] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        client.send(Message::binary(payload.clone())).await.unwrap();
        let echo = client.next().await.unwrap().unwrap();
        assert!(echo.is_binary() && echo.into_payload()[..] == payload[..], "{size} bytes");
    }
    client.send(Message::text("grüße")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().as_text(), Some("grüße"));
    client.send(Message::ping("p")).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_pong());
    client.close().await.unwrap();
}

#[tokio::test]
async fn slow_client_receives_all_echoes() {
    let mut client = client("/").await;
    let payload = vec![7; 1 << 20];
    let (mut sink, mut stream) = (&mut client).split();
    let sent = async {
        for _ in 0..20 {
            sink.send(Message::binary(payload.clone())).await.unwrap();
        }
    };
    let received = async {
        for _ in 0..20 {
            assert_eq!(stream.next().await.unwrap().unwrap().into_payload().len(), payload.len());
        }
    };
    tokio::join!(sent, received);
}

#[tokio::test]
async fn download_has_the_requested_length_and_a_normal_close() {
    for requested in [0, 1, 100_000, 10 << 20] {
        let mut client = client(&format!("/bulk?bytes={requested}")).await;
        let mut received = 0;
        loop {
            let message = client.next().await.unwrap().unwrap();
            if let Some((code, _)) = message.as_close() {
                assert_eq!(u16::from(code), 1000);
                break;
            }
            received += message.into_payload().len();
        }
        assert_eq!(received, requested);
    }
}

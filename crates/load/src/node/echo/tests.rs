use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use super::*;

async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    address
}

async fn client(path: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}{path}", origin().await).parse().unwrap();
    ClientBuilder::from_uri(url).connect().await.unwrap().0
}

#[tokio::test]
async fn requests_are_answered_over_one_connection() {
    let mut tcp = TcpStream::connect(origin().await).await.unwrap();
    // Two at once, the second in two parts.
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
async fn what_is_no_request_is_refused() {
    let mut tcp = TcpStream::connect(origin().await).await.unwrap();
    tcp.write_all(b"\x16\x03\x01 hello\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    tcp.read_to_end(&mut reply).await.unwrap();
    assert_eq!(reply, BAD_REQUEST);
}

#[tokio::test]
async fn messages_of_all_sizes_come_back() {
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
async fn a_client_that_does_not_read_is_waited_for() {
    let mut client = client("/").await;
    let payload = vec![7; 1 << 20];
    let (mut sink, mut stream) = (&mut client).split();
    let sent = async {
        for _ in 0..20 {
            sink.send(Message::binary(payload.clone())).await.unwrap();
        }
    };
    let heard = async {
        for _ in 0..20 {
            assert_eq!(stream.next().await.unwrap().unwrap().into_payload().len(), payload.len());
        }
    };
    tokio::join!(sent, heard);
}

#[tokio::test]
async fn a_download_has_the_wanted_length_and_a_good_end() {
    for wanted in [0, 1, 100_000, 10 << 20] {
        let mut client = client(&format!("/bulk?bytes={wanted}")).await;
        let mut got = 0;
        loop {
            let message = client.next().await.unwrap().unwrap();
            if let Some((code, _)) = message.as_close() {
                assert_eq!(u16::from(code), 1000);
                break;
            }
            got += message.into_payload().len();
        }
        assert_eq!(got, wanted);
    }
}

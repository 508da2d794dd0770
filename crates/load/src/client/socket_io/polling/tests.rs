//! A silent client with a single connection, against a scripted server.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{client::plain_tests::run_one_client, scenario::ClientKind};

/// What the server answers to each request; the poll after these is held.
const REPLIES: [&str; 5] = [
    r#"0{"sid":"x","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#,
    "ok",
    r#"40{"sid":"y"}"#,
    "2",
    "ok",
];

/// Start and end of each request, with the number of its connection.
type Requests = Arc<Mutex<Vec<(usize, String)>>>;

async fn scripted_server(requests: Requests) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for connection in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(tcp, connection, Arc::clone(&requests)));
        }
    });
    address
}

async fn answer(mut tcp: TcpStream, connection: usize, requests: Requests) {
    let mut received = [0; 4096];
    // Each request comes in one segment: head and body are written together.
    while let Ok(length @ 1..) = tcp.read(&mut received).await {
        let text = String::from_utf8_lossy(&received[..length]);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let method = head.split(' ').next().unwrap();
        let reply = {
            let mut requests = requests.lock().unwrap();
            requests.push((connection, format!("{method} {body}")));
            REPLIES.get(requests.len() - 1)
        };
        if let Some(reply) = reply {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
            tcp.write_all((head + reply).as_bytes()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn single_connection_carries_polls_and_posts_in_turns() {
    let requests = Requests::default();
    let url = format!("http://{}", scripted_server(Arc::clone(&requests)).await);
    let totals = run_one_client(
        url,
        ClientKind::Polling,
        |options| (options.silent, options.single_connection) = (true, true),
        |_| requests.lock().unwrap().len() > REPLIES.len(),
    )
    .await
    .totals;
    assert_eq!((totals.connects, totals.sent), (1, 0));
    assert_eq!((totals.finished, totals.errors), (1, 0));
    let seen = requests.lock().unwrap();
    let expected = ["GET ", "POST 40", "GET ", "GET ", "POST 3", "GET "];
    assert!(seen.iter().all(|(connection, _)| *connection == 0), "{seen:?}");
    assert!(seen.iter().map(|(_, request)| request).eq(&expected), "{seen:?}");
}

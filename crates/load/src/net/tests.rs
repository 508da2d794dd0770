//! Tests with real sockets, and with servers from other libraries.

mod http;
mod sources;
mod tls;
mod upgrade;
mod websocket;

use std::{net::SocketAddr, sync::Arc};

use ::http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Connector, Message, UpgradeError, WebSocket, accept};
use crate::{
    scenario::{ClientKind, Scenario, options::Options},
    stats::{ErrorKind, Failure},
};

/// A scenario with changed options.
fn scenario(url: String, change: impl FnOnce(&mut Options)) -> Scenario {
    let mut options =
        Options { url: Some(url), client: Some(ClientKind::Ws), ..Options::default() };
    change(&mut options);
    Scenario::check(options).unwrap()
}

fn connector(url: String, change: impl FnOnce(&mut Options)) -> Arc<Connector> {
    Arc::new(Connector::new(&scenario(url, change)).unwrap())
}

/// A server that runs `serve` for each connection.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(tcp));
        }
    });
    address
}

/// Reads the header of a request.
async fn head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A server that sends `reply` to the first request of each connection.
async fn replies(reply: &'static [u8]) -> SocketAddr {
    server(move |mut tcp| async move {
        head(&mut tcp).await;
        tcp.write_all(reply).await.unwrap();
    })
    .await
}

/// A server that accepts the upgrade and sends `frames` together with the reply, in pieces of `piece` bytes.
async fn says(frames: Vec<u8>, piece: usize) -> SocketAddr {
    server(move |mut tcp| {
        let frames = frames.clone();
        async move {
            tcp.set_nodelay(true).unwrap();
            let request = head(&mut tcp).await;
            let mut lines = request.lines();
            let key = lines.find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
            let reply = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                 connection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
                accept(key)
            );
            let bytes = [reply.into_bytes(), frames].concat();
            for piece in bytes.chunks(piece) {
                // The client may have rejected the first frame and disconnected.
                if tcp.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _ = tcp.shutdown().await;
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

async fn websocket(address: SocketAddr) -> Result<WebSocket, UpgradeError> {
    let dialer = Connector::plain(address).dialer(0);
    let (socket, _) = dialer.websocket("/path?a=b", &HeaderMap::new()).await?;
    Ok(socket)
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

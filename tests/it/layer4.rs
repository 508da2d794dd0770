//! Streams of layer 4: `tcp`, `tls` and `tls-passthrough` listeners, and `passthrough` on `https`.

mod balance;
mod bulk;
mod client_hello;
mod lifecycle;
mod redis;

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{Backend, Proxy, Raw, Settings, backend, tls::Certificate};

/// Makes `web` a `tcp` listener in front of these backends.
pub(crate) fn tcp<'s>(settings: &'s mut Settings, backends: &[SocketAddr]) -> &'s mut Settings {
    settings.unrouted().backends(backends).listener("protocol", "\"tcp\"")
}

/// Starts a proxy whose `web` forwards streams to these backends.
async fn tcp_proxy(backends: &[SocketAddr]) -> Proxy {
    Proxy::with(|settings| {
        tcp(settings, backends);
    })
    .await
}

/// A backend that sends its name on each connection and then waits for the end.
async fn named_backend(name: &'static str) -> Backend {
    let script = backend::script(move |peer| async move {
        peer.send(name).await;
        peer.ended().await;
    });
    Backend::start(script).await
}

/// Opens a stream to a backend with a name of one letter. Returns the stream and the name.
async fn connect(address: SocketAddr) -> (Raw, char) {
    let mut client = Raw::connect(address).await;
    let name = client.exact(1).await[0];
    (client, char::from(name))
}

/// Waits for the log line of a stream with this termination.
async fn stream_line(proxy: &Proxy, termination: &str) -> Value {
    let line = proxy.wait_for_log(termination, |line| line["termination"] == termination).await;
    assert_eq!(line["kind"], "stream", "{line}");
    line
}

/// An HTTPS server that answers one request on each connection.
struct App {
    address: SocketAddr,
    task: AbortHandle,
}

impl App {
    async fn start(certificate: &Certificate, text: &'static str) -> Self {
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificate.chain(), certificate.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(acceptor.clone(), tcp, text));
            }
        };
        Self { address, task: tokio::spawn(serve).abort_handle() }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(acceptor: TlsAcceptor, tcp: TcpStream, text: &'static str) {
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(count) if count > 0) {
            return;
        }
    }
    let length = text.len();
    let reply =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

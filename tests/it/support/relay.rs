//! An HTTPS relay in front of a real ACME server; it can make downloads of certificates fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::tls::Certificate;

/// A 503 response in place of a certificate.
pub(crate) const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\
     Connection: close\r\n\r\n<h1>Maintenance</h1>";

/// An ACME error response for a rejected nonce.
pub(crate) const BAD_NONCE: &str = "HTTP/1.1 400 Bad Request\r\n\
     Content-Type: application/problem+json\r\nContent-Length: 76\r\nConnection: close\r\n\r\n\
     {\"type\":\"urn:ietf:params:acme:error:badNonce\",\"detail\":\"no\",\"status\":400   }";

/// A running relay, which ends when dropped.
pub(crate) struct Relay {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    /// Number of downloads that will fail, and the response to them.
    failing: Mutex<(usize, &'static str)>,
    failed: AtomicUsize,
}

impl Relay {
    pub(super) async fn start(server: SocketAddr, certificate: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let config = ServerConfig::builder().with_no_client_auth();
        let config =
            config.with_single_cert(certificate.chain(), certificate.private_key()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.chain().remove(0)).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(config)), TlsConnector::from(Arc::new(client)));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = relay(socket, server, &acceptor, &connector, &state).await;
                });
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// Makes the next downloads fail with this response.
    pub(crate) fn fail(&self, count: usize, response: &'static str) {
        *self.state.failing.lock().unwrap() = (count, response);
    }

    /// Number of downloads that have failed so far.
    pub(crate) fn failed(&self) -> usize {
        self.state.failed.load(Ordering::SeqCst)
    }
}

impl State {
    /// The response to this download if it must fail.
    fn failure(&self) -> Option<&'static str> {
        let mut failing = self.failing.lock().unwrap();
        failing.0 = failing.0.checked_sub(1)?;
        Some(failing.1)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    socket: TcpStream,
    server: SocketAddr,
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    state: &State,
) -> std::io::Result<()> {
    let mut client = acceptor.accept(socket).await?;
    // The request line shows whether this is a download; all other bytes are relayed unchanged.
    let mut first = Vec::new();
    while !first.ends_with(b"\n") {
        first.push(client.read_u8().await?);
    }
    let download = String::from_utf8_lossy(&first).contains("/certZ/");
    if let Some(response) = download.then(|| state.failure()).flatten() {
        // Unread bytes would reset the connection at its close.
        let mut rest = vec![0; 16 * 1024];
        let _ = client.read(&mut rest).await?;
        client.write_all(response.as_bytes()).await?;
        client.shutdown().await?;
        state.failed.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    let name = ServerName::try_from("localhost").unwrap();
    let mut onward = connector.connect(name, TcpStream::connect(server).await?).await?;
    onward.write_all(&first).await?;
    copy_bidirectional(&mut client, &mut onward).await.map(drop)
}

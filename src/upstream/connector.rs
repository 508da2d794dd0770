//! Opens connections to backends as their pool requires: TCP, then a PROXY header, then TLS.
//!
//! One deadline covers all three. The connection is then ready for application data. The caller counts the
//! result towards the backend's health.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::RootCertStore;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    backend::Backend,
    connect::{ConnectError, connect},
};
use crate::{
    config,
    error::FailureKind,
    net::{
        proxy_protocol::{self, ConnectionOrigin},
        stream::BackendStream,
        tls_client::{self, HandshakeError, TlsClient},
    },
};

/// Opens the connections to the backends of a pool. A reload keeps the connector if its settings are
/// unchanged.
#[derive(Debug)]
pub struct BackendConnector {
    serial: u64,
    proxy: Option<config::ProxyOut>,
    tls: Option<Tls>,
}

/// TLS to a pool's backends.
#[derive(Debug)]
struct Tls {
    client: TlsClient,
    /// TLS state of each backend, such as sessions to resume, by serial number.
    servers: Mutex<HashMap<u64, tls_client::TlsServer>>,
}

impl Default for BackendConnector {
    /// A connector for plain TCP.
    fn default() -> Self {
        Self::with(None, None)
    }
}

impl BackendConnector {
    /// Creates the connector of a pool. `system`: the system's trusted certificates; required if the
    /// configuration uses them.
    ///
    /// # Errors
    /// The system's certificates are required and missing, or rustls rejects a certificate.
    pub fn new(
        pool: &config::PoolConfig,
        system: Option<&Arc<RootCertStore>>,
    ) -> Result<Self, rustls::Error> {
        let client = pool.tls.as_ref().map(|tls| TlsClient::new(tls, system)).transpose()?;
        Ok(Self::with(pool.proxy_protocol, client))
    }

    fn with(proxy: Option<config::ProxyOut>, client: Option<TlsClient>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let tls = client.map(|client| Tls { client, servers: Mutex::default() });
        Self { serial: COUNT.fetch_add(1, Ordering::Relaxed), proxy, tls }
    }

    /// Unique number of this connector. A request must not use connections that another connector opened.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether requests of several clients may share a connection. False if a PROXY header names the
    /// client.
    pub fn is_shared(&self) -> bool {
        self.proxy.is_none()
    }

    /// Drops the TLS state of all backends except these.
    pub fn retain(&self, backends: &[Arc<Backend>]) {
        if let Some(tls) = &self.tls {
            let mut servers = tls.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.retain(|serial, _| backends.iter().any(|b| b.serial() == *serial));
        }
    }

    /// Opens a connection. `from` is the origin for the PROXY header; `deadline` covers all steps.
    ///
    /// # Errors
    /// The step that failed. A PROXY header may have been sent, but no application data.
    pub async fn open(
        &self,
        backend: &Backend,
        from: &ConnectionOrigin,
        deadline: Duration,
    ) -> Result<BackendStream, ConnectError> {
        let until = Instant::now() + deadline;
        let mut socket = connect(backend, deadline).await?;
        if let Some(version) = self.proxy {
            send_header(&mut socket, &proxy_protocol::header(version, from), until).await?;
        }
        let Some(tls) = &self.tls else { return Ok(BackendStream::Plain(socket)) };
        let server = tls.server(backend)?;
        let left = until.saturating_duration_since(Instant::now());
        // Boxed because the future of a handshake is large, and most connections have none.
        let stream = Box::pin(server.handshake(socket, left)).await?;
        Ok(BackendStream::Tls(stream))
    }
}

impl Tls {
    fn server(&self, backend: &Backend) -> Result<tls_client::TlsServer, ConnectError> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&backend.serial()) {
            return Ok(server.clone());
        }
        let server = self.client.server(&backend.address().host).map_err(|error| {
            let source = Some(io::Error::new(io::ErrorKind::InvalidInput, error));
            HandshakeError { kind: FailureKind::CertificateName, source }
        })?;
        servers.insert(backend.serial(), server.clone());
        Ok(server)
    }
}

/// Sends a PROXY header. It always fits into the send buffer of a new connection.
async fn send_header(
    socket: &mut TcpStream,
    header: &[u8],
    until: Instant,
) -> Result<(), ConnectError> {
    match timeout_at(until, socket.write_all(header)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

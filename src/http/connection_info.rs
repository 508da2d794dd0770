//! Who sends the requests of one connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use tokio::sync::oneshot;

use crate::{
    net::{
        half_close::ClientSignal, per_address::CountedConnection, request_clock::RequestClock,
        stream::ClientStream, tls::TlsInfo,
    },
    observe::ListenerMetrics,
    shutdown,
    snapshot::ListenerSnapshot,
    tunnel::TunnelEndpoint,
};

/// The client at the other end of one connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Its address.
    pub peer: SocketAddr,
    /// What it connected to, where a backend may have to be told.
    pub destination: Option<SocketAddr>,
    /// What TLS told of it; `None`: it came in the clear.
    pub tls_info: Option<Arc<TlsInfo>>,
    /// Where it was accepted.
    pub listener: Arc<ListenerSnapshot>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Its connection's place among those of its address, where they are counted.
    pub counted: Option<Arc<CountedConnection>>,
    /// Lets it half-close.
    pub client_signal: Arc<ClientSignal>,
    /// Knows whether a request is served, and how long one has been waited for.
    pub clock: Arc<RequestClock>,
    /// Whether the request that was served last has a body, of which a part may never be read.
    pub has_body: AtomicBool,
    /// Who takes the connection once its `101` is written.
    pub tunnel: Mutex<Option<oneshot::Sender<TunnelEndpoint<ClientStream>>>>,
    /// Keeps a drain waiting for its streams.
    pub drain: shutdown::Watch,
}

impl ConnectionInfo {
    /// The connection, once its `101` is written.
    pub(super) fn upgraded(&self) -> oneshot::Receiver<TunnelEndpoint<ClientStream>> {
        let (sender, receiver) = oneshot::channel();
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Who waits for the connection as a tunnel.
    pub(super) fn take_tunnel(&self) -> Option<oneshot::Sender<TunnelEndpoint<ClientStream>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

//! Properties of a client connection that all of its requests share.

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

/// A client connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Address that the client connected to, if a backend may need it.
    pub destination: Option<SocketAddr>,
    /// TLS properties; `None` on a plain connection.
    pub tls_info: Option<Arc<TlsInfo>>,
    /// Listener that accepted the connection.
    pub listener: Arc<ListenerSnapshot>,
    /// Metrics of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Slot among the connections of the peer's address, if those are limited.
    pub counted: Option<Arc<CountedConnection>>,
    /// Allows the client to half-close the connection.
    pub client_signal: Arc<ClientSignal>,
    /// Whether a request is being served, and since when one is awaited.
    pub clock: Arc<RequestClock>,
    /// Whether the last request has a body, part of which may stay unread.
    pub has_body: AtomicBool,
    /// Receives the connection once its `101` has been written.
    pub tunnel: Mutex<Option<oneshot::Sender<TunnelEndpoint<ClientStream>>>>,
    /// Makes a shutdown wait for the connection's streams.
    pub drain: shutdown::Watch,
}

impl ConnectionInfo {
    /// Resolves to the connection once its `101` has been written.
    pub(super) fn upgraded(&self) -> oneshot::Receiver<TunnelEndpoint<ClientStream>> {
        let (sender, receiver) = oneshot::channel();
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Returns the channel of the tunnel that waits for the connection.
    pub(super) fn take_tunnel(&self) -> Option<oneshot::Sender<TunnelEndpoint<ClientStream>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

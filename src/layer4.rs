//! Layer 4: one connection, one backend, and the bytes between them.
//!
//! A [`BackendSearch`] finds a backend by the pool's balance policy, waits if
//! all connections are in use, and tries another backend if one is unreachable: no bytes have been
//! sent yet, so nothing is repeated. The result is a [tunnel] without frames. The
//! access log, the metrics and the tunnel registry treat it like an upgraded connection.
//!
//! The pool is looked up by name when the stream begins. The stream then keeps its backend only.

mod search;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::{io::Interest, net::TcpStream};

use self::search::{BackendSearch, ConnectedBackend};
use crate::{
    error::{FailureKind, Phase},
    net::{
        per_address::CountedConnection, proxy_protocol::ConnectionOrigin, stream::ClientStream,
        tls::TlsInfo,
    },
    observe::{ListenerMetrics, StreamKind, StreamRecord, StreamStart, metrics::GaugeGuard},
    shared::SharedState,
    shutdown,
    snapshot::PoolSnapshot,
    stream_log::{StreamScope, StreamSinks, TunnelGuard},
    tunnel::{self, TunnelEndpoint, TunnelOptions},
    upstream::{ConnectionGuard, Lifecycle, SessionGuard},
};

/// A connection that becomes a layer 4 stream.
pub(crate) struct NewStream {
    /// The socket, with TLS if it is terminated here.
    pub(crate) client: ClientStream,
    /// Address of the peer.
    pub(crate) peer: SocketAddr,
    /// Address that the client connected to, from a PROXY header.
    pub(crate) destination: Option<SocketAddr>,
    /// TLS properties, if known.
    pub(crate) tls_info: Option<Arc<TlsInfo>>,
    /// Pool that serves the stream.
    pub(crate) pool: Arc<PoolSnapshot>,
    /// Metrics of the listener that accepted the connection.
    pub(crate) listener: Arc<ListenerMetrics>,
    /// Slot among the connections of the peer's address, if those are limited.
    pub(crate) counted: Option<Arc<CountedConnection>>,
    /// Makes a shutdown wait for the stream.
    pub(crate) drain: shutdown::Watch,
}

/// Keeps a stream counted.
#[derive(Debug)]
struct StreamCounts {
    _hold: SessionGuard,
    _in_use: ConnectionGuard,
    _gauge: GaugeGuard,
}

/// Finds a backend and spawns the stream in a separate, small task. If no backend is found, ends the
/// stream and returns the client connection, which the caller closes.
pub(crate) async fn serve(proxy: &Arc<SharedState>, arrived: NewStream) -> Option<ClientStream> {
    let NewStream { client, peer, destination, tls_info, pool, listener, counted, mut drain } =
        arrived;
    let id: Box<str> = format!("{:032x}", fastrand::u128(..)).into();
    let mut record = StreamRecord::new(StreamStart {
        id: &id,
        client: peer,
        listener: listener.name(),
        tls_info: tls_info.as_ref(),
        host: "",
        method: "",
        target: "",
        redaction: None,
    });
    record.form = StreamKind::Stream;
    record.route_label = Some(Arc::clone(pool.route_label()));
    let sinks = StreamSinks {
        log: Arc::clone(&proxy.log),
        metrics: Arc::clone(&proxy.metrics),
        listener: Arc::clone(&listener),
        drain: drain.clone(),
    };
    let mut scope = StreamScope::open(record, Arc::new(sinks));
    let from = if pool.connector().is_shared() {
        ConnectionOrigin::Local
    } else {
        let destination = destination.or_else(|| client.local().ok());
        ConnectionOrigin::of(peer, destination, tls_info, &id)
    };
    let mut search = BackendSearch::new(proxy, &pool, peer.ip(), &mut scope);
    let outcome = tokio::select! {
        biased;
        outcome = search.run(&from) => outcome,
        () = gone(client.socket()) => {
            scope.client_lost(FailureKind::Reset);
            return None;
        }
        // The scope logs the end when it is dropped.
        () = drain.forced() => return None,
    };
    match outcome {
        Ok(reached) => {
            scope.keep_counted(counted);
            begin(proxy, &pool, (client, peer), scope, reached, listener.tunnel());
            None
        }
        Err(error) => {
            scope.fail(&error);
            Some(client)
        }
    }
}

/// Spawns the tunnel.
fn begin(
    proxy: &Arc<SharedState>,
    pool: &PoolSnapshot,
    (client, peer): (ClientStream, SocketAddr),
    mut scope: StreamScope,
    reached: ConnectedBackend,
    gauge: GaugeGuard,
) {
    let ConnectedBackend { server, hold, in_use, took } = reached;
    scope.record().connect_took(took);
    scope.enter(Phase::Tunnel);
    let backend = Arc::clone(hold.backend());
    let ticket = proxy.tunnels.enter(backend.serial(), peer, false);
    if backend.lifecycle() == Lifecycle::Evicted {
        // The backend was removed while connecting; its tunnels were cut before this one was
        // registered.
        proxy.tunnels.cut(backend.serial());
    }
    let counts = StreamCounts { _hold: hold, _in_use: in_use, _gauge: gauge };
    let guard = TunnelGuard { scope, _counts: counts };
    let client = TunnelEndpoint { stream: client, early: Bytes::new() };
    let server = TunnelEndpoint { stream: server, early: Bytes::new() };
    let timeouts = &pool.config().timeouts;
    let terms = TunnelOptions {
        idle: timeouts.tunnel_idle,
        half_closed: timeouts.half_closed,
        framed: false,
    };
    tokio::spawn(tunnel::run(client, server, guard, ticket, terms));
}

/// Resolves when the client has reset its connection. A client that has only sent FIN still waits
/// for a response.
async fn gone(socket: &TcpStream) {
    // Fails only while the runtime shuts down.
    let _ = socket.ready(Interest::ERROR).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::stream::BackendStream, tunnel::Tunnel};

    /// Cost of an open stream, apart from its sockets and the strings of its scope: the task is this
    /// future.
    #[test]
    fn a_stream_is_small() {
        let bytes = size_of::<Tunnel<ClientStream, BackendStream, TunnelGuard<StreamCounts>>>();
        assert!(bytes <= 320, "{bytes} bytes");
    }
}

//! Layer 4: one connection, one backend, and the bytes between them.
//!
//! A [`BackendSearch`](search::BackendSearch) finds a backend by the pool's own balance, waits where all
//! connections are in use, and goes elsewhere where one cannot be reached: none of its bytes were sent, so
//! nothing is done twice. What is found becomes a [tunnel](crate::tunnel) without frames. The line in
//! the access log, the metrics and the registry of tunnels treat it as they do an upgraded connection.
//!
//! The pool is the one that has the name when the stream begins; a stream keeps its backend and nothing
//! else.

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
    upstream::{Hold, InUse, Life},
};

/// A connection that is to become a stream.
pub(crate) struct NewStream {
    /// Its socket, and what TLS made of it where that is terminated here.
    pub(crate) client: ClientStream,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    /// What it connected to, where a PROXY header has told.
    pub(crate) destination: Option<SocketAddr>,
    /// What TLS told of it.
    pub(crate) tls_info: Option<Arc<TlsInfo>>,
    /// Where it goes.
    pub(crate) pool: Arc<PoolSnapshot>,
    /// Numbers of the listener that accepted it.
    pub(crate) listener: Arc<ListenerMetrics>,
    /// Its place among those of its address, where they are counted.
    pub(crate) counted: Option<Arc<CountedConnection>>,
    /// Keeps a drain waiting for it.
    pub(crate) drain: shutdown::Watch,
}

/// What keeps a stream counted.
#[derive(Debug)]
struct StreamCounts {
    _hold: Hold,
    _in_use: InUse,
    _gauge: GaugeGuard,
}

/// Finds a backend and leaves the stream to a task of its own, which is small. Without one the stream
/// has ended; its client comes back for whoever closes it.
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
    let mut scope = StreamScope::open(record, sinks);
    let from = if pool.dial().is_shared() {
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
        // The entry tells of it as it is dropped.
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

/// Lets the bytes flow.
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
    if backend.phase() == Life::Gone {
        // It went while it was connected to; its tunnels were cut before this one was entered.
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

/// Resolves when the client has reset its connection. One that has only said FIN still wants its answer.
async fn gone(socket: &TcpStream) {
    // Fails only where the runtime ends.
    let _ = socket.ready(Interest::ERROR).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::stream::BackendStream, tunnel::Tunnel};

    /// What an open stream costs beside its sockets and its entry's strings: its task is this future.
    #[test]
    fn a_stream_is_small() {
        let bytes = size_of::<Tunnel<ClientStream, BackendStream, TunnelGuard<StreamCounts>>>();
        assert!(bytes <= 320, "{bytes} bytes");
    }
}

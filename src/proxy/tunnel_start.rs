//! The start of a tunnel after a valid `101`: what it counts, and what the end of its stream records.

use std::{sync::Arc, time::Instant};

use super::{
    arrival::RequestState,
    attempt::AttemptOutcome,
    client::ClientSide,
    connection::Flow,
    websocket::{self, ReadyTunnel},
};
use crate::{
    error::{FailureKind, Phase, Side, Termination},
    gateway::ResponseFilters,
    observe::{StreamKind, metrics::GaugeGuard},
    sticky::SessionHold,
    stream_log::{SessionClient, TunnelGuard},
    tunnel::TunnelOptions,
    upstream::{ConnectionGuard, Lifecycle, SessionGuard},
};

/// Keeps a tunnel and its session counted.
#[derive(Debug)]
pub(super) struct TunnelCounts {
    _session: TunnelSession,
    _gauge: GaugeGuard,
    _connection: ConnectionGuard,
}

/// How a tunnel is counted: as the session of its sid, or as a session without sid; perhaps also in limits.
#[derive(Debug)]
enum TunnelSession {
    Sid { _hold: SessionHold },
    Other { _hold: OtherSession },
}

/// A separate type, so that the pointer within `Sid` distinguishes all variants and no tunnel is larger.
#[derive(Debug)]
enum OtherSession {
    Socket {
        _hold: SessionGuard,
    },
    /// Also in limits of the route.
    Limited {
        _session: Box<(TunnelSession, Box<ResponseFilters>)>,
    },
}

/// Writes the `101`; the connection then becomes a tunnel.
pub(super) async fn tunnel(
    state: &mut RequestState<'_>,
    client: &mut ClientSide,
    reached: AttemptOutcome,
) -> Flow {
    let AttemptOutcome { answer, reserved, .. } = reached;
    let backend = Arc::clone(answer.lease.backend());
    let (proxy, pool) = (state.proxy, &state.pool);
    let sid = state.engine.as_ref().and_then(|engine| engine.sid.as_deref());
    let known = sid.and_then(|sid| proxy.sids.hold(pool.upstream.name(), sid, Instant::now()));
    let session = match known {
        Some(hold) => TunnelSession::Sid { _hold: hold },
        None => TunnelSession::Other {
            _hold: OtherSession::Socket { _hold: reserved.unwrap_or_else(|| backend.hold()) },
        },
    };
    let gauge = state.info.metrics.tunnel();
    state.scope.keep_counted(state.info.counted.clone());
    state.scope.record().form = StreamKind::Tunnel;
    if let Some(key) = state.client_key {
        let memory = Arc::clone(&proxy.memory);
        let backend = backend.tag();
        state.scope.track_client(SessionClient { memory, key, backend, scan: None });
    }
    state.scope.enter(Phase::Tunnel);
    let ticket = proxy.tunnels.enter(backend.serial(), state.address, true);
    if backend.lifecycle() == Lifecycle::Evicted {
        // The backend was removed while it answered; its tunnels were cut before this one was
        // registered.
        proxy.tunnels.cut(backend.serial());
    }
    let identity = state.response.as_ref().and_then(|response| response.request_identity());
    let listed = identity.map(|identity| {
        let identities = &proxy.auth.identities;
        identities.enter(&identity.bound, ticket.closer(), identity.close_code)
    });
    state.scope.keep_identity(listed);
    let timeouts = state.timeouts();
    let options = TunnelOptions {
        idle: timeouts.tunnel_idle,
        half_closed: timeouts.half_closed,
        framed: true,
    };
    if websocket::switch(client, answer.head).await.is_err() {
        let lost = FailureKind::Incomplete;
        state.scope.take().end(Termination::Failed(Side::Client, Phase::Tunnel, lost));
        return Flow::Drop;
    }
    let (backend, connection) = answer.lease.into_tunnel();
    let messages = state.response.as_ref().and_then(|filters| filters.messages());
    let session = match state.response.take().and_then(ResponseFilters::into_tunnel) {
        Some(slots) => TunnelSession::Other {
            _hold: OtherSession::Limited { _session: Box::new((session, slots)) },
        },
        None => session,
    };
    let counts = TunnelCounts { _session: session, _gauge: gauge, _connection: connection };
    let guard = TunnelGuard { scope: state.scope.take(), _counts: counts };
    let early = answer.input;
    Flow::Tunnel(Box::new(ReadyTunnel { backend, early, guard, ticket, options, messages }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::stream::{BackendStream, ClientStream},
        tunnel::Tunnel,
    };

    /// Cost of an open tunnel, apart from its sockets and the strings of its scope: the task is this
    /// future.
    #[test]
    fn a_tunnel_is_small() {
        let bytes = size_of::<Tunnel<ClientStream, BackendStream, TunnelGuard<TunnelCounts>>>();
        assert!(bytes <= 320, "{bytes} bytes");
    }
}

//! The end of every stream, logged and counted once.
//!
//! A [`StreamScope`] is opened with the request and moves along with the stream: to the body of the
//! response, then perhaps to a tunnel. The code that sees the end closes it with a [`Termination`].
//! A scope that is dropped instead belongs to a client that left, to a forced shutdown, or to a task
//! that panicked.

use std::{io, sync::Arc, time::Instant};

use arc_swap::ArcSwap;

use crate::{
    auth::BoundTunnel,
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    net::per_address::CountedConnection,
    observe::{AccessLog, ListenerMetrics, Metrics, StreamEnd, StreamKind, StreamRecord},
    shutdown,
    sticky::{
        engine_io::CloseScan,
        recent_sessions::{ClientKey, RecentSessions},
    },
    tunnel::{TunnelObserver, TunnelSummary},
};

/// An open stream: its access-log line and its metrics.
#[derive(Debug)]
pub(crate) struct StreamScope(Option<Box<StreamState>>);

#[derive(Debug)]
struct StreamState {
    record: StreamRecord,
    phase: Phase,
    bytes_in: u64,
    bytes_out: u64,
    sinks: Arc<StreamSinks>,
    client: Option<SessionClient>,
    /// Slot of the connection among those of its address, for a tunnel, which outlives the
    /// connection.
    _counted: Option<Arc<CountedConnection>>,
    /// Place of a tunnel among those with an identity.
    _identity: Option<BoundTunnel>,
}

/// Client and backend of a session, in case the session ends with this stream.
#[derive(Debug)]
pub(crate) struct SessionClient {
    pub(crate) memory: Arc<RecentSessions>,
    pub(crate) key: ClientKey,
    /// [`Backend::tag`](crate::upstream::Backend::tag).
    pub(crate) backend: u64,
    /// Scans the reply for a packet that closes the session, if the stream is a poll.
    pub(crate) scan: Option<CloseScan>,
}

/// Where ends of streams are recorded; shared by the streams of a connection.
#[derive(Clone, Debug)]
pub(crate) struct StreamSinks {
    /// The access log that is current when the stream ends.
    pub(crate) log: Arc<ArcSwap<AccessLog>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listener: Arc<ListenerMetrics>,
    /// Makes a shutdown wait for the stream, and says whether it was forced.
    pub(crate) drain: shutdown::Watch,
}

impl StreamScope {
    /// Opens a scope.
    pub(crate) fn open(record: StreamRecord, sinks: Arc<StreamSinks>) -> Self {
        let phase = Phase::Request;
        let (bytes_in, bytes_out) = (0, 0);
        let (client, _counted, _identity) = (None, None, None);
        let open =
            StreamState { record, phase, bytes_in, bytes_out, sinks, client, _counted, _identity };
        Self(Some(Box::new(open)))
    }

    /// Moves the scope out; what stays is closed and records nothing.
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Record for the log line.
    pub(crate) fn record(&mut self) -> &mut StreamRecord {
        // Only methods that consume or drop the scope empty the option.
        match &mut self.0 {
            Some(open) => &mut open.record,
            None => unreachable!("a scope is open while it is borrowed"),
        }
    }

    /// Records the current phase, for the case that the client leaves.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if let Some(open) = &mut self.0 {
            open.phase = phase;
        }
    }

    /// Sets the session that ends with this stream, for a tunnel or a poll.
    pub(crate) fn track_client(&mut self, client: SessionClient) {
        if let Some(open) = &mut self.0 {
            open.client = Some(client);
        }
    }

    /// Stops scanning a compressed reply, in which a close packet cannot be seen.
    pub(crate) fn disable_close_scan(&mut self) {
        if let Some(client) = self.0.as_mut().and_then(|open| open.client.as_mut()) {
            client.scan = None;
        }
    }

    /// Counts bytes of the reply body, and scans them for a packet that closes the session.
    pub(crate) fn relayed(&mut self, bytes: &[u8]) {
        self.sent(bytes.len() as u64);
        let client = self.0.as_mut().and_then(|open| open.client.as_mut());
        if let Some(scan) = client.and_then(|client| client.scan.as_mut()) {
            scan.feed(bytes);
        }
    }

    /// Keeps the connection counted among those of its address.
    pub(crate) fn keep_counted(&mut self, counted: Option<Arc<CountedConnection>>) {
        if let Some(open) = &mut self.0 {
            open._counted = counted;
        }
    }

    /// Keeps the tunnel listed under its identity.
    pub(crate) fn keep_identity(&mut self, listed: Option<BoundTunnel>) {
        if let Some(open) = &mut self.0 {
            open._identity = listed;
        }
    }

    /// Counts bytes from the client.
    pub(crate) fn received(&mut self, bytes: u64) {
        if let Some(open) = &mut self.0 {
            open.bytes_in += bytes;
        }
    }

    /// Counts bytes to the client.
    pub(crate) fn sent(&mut self, bytes: u64) {
        if let Some(open) = &mut self.0 {
            open.bytes_out += bytes;
        }
    }

    /// Metrics of the process.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.0.as_ref().map(|open| &*open.sinks.metrics)
    }

    /// Closes the scope.
    pub(crate) fn end(mut self, termination: Termination) {
        if let Some(open) = self.0.take() {
            open.close(termination, None);
        }
    }

    /// Closes the scope of a client that has left, in the current phase.
    pub(crate) fn client_lost(mut self, kind: FailureKind) {
        if let Some(open) = self.0.take() {
            open.close(Termination::Failed(Side::Client, open.phase, kind), None);
        }
    }

    /// Closes the scope of a failed request.
    pub(crate) fn fail(mut self, error: &ProxyError) {
        if let Some(open) = self.0.take() {
            open.close(error.into(), Some(&error.to_string()));
        }
    }
}

impl StreamState {
    fn close(&self, termination: Termination, error: Option<&str>) {
        if let Some(client) = self.client.as_ref().filter(|c| self.ends_session(c, &termination)) {
            client.memory.record(client.key, client.backend, Instant::now());
        }
        let Self { bytes_in, bytes_out, .. } = *self;
        let end = StreamEnd { termination, bytes_in, bytes_out, error };
        self.sinks.listener.ended(&termination, self.record.chosen_by, bytes_in, bytes_out);
        self.sinks.log.load().write(&self.record, &end);
    }

    /// Whether the session is over and its client may return to the same node. False if the client
    /// was sent to another node.
    fn ends_session(&self, client: &SessionClient, termination: &Termination) -> bool {
        match termination {
            Termination::Drained
            | Termination::Rebalanced
            | Termination::Aged
            | Termination::BackendDown => false,
            // A client that leaves its poll leaves its session.
            Termination::Failed(Side::Client, ..) => true,
            Termination::Complete if client.scan.is_some_and(|scan| scan.closes()) => true,
            _ => self.record.form == StreamKind::Tunnel,
        }
    }
}

impl Drop for StreamScope {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let termination = if std::thread::panicking() {
            open.sinks.metrics.panics.inc();
            Termination::Panicked
        } else if open.sinks.drain.phase() == shutdown::ShutdownPhase::Forced {
            Termination::Drained
        } else {
            Termination::Failed(Side::Client, open.phase, FailureKind::Incomplete)
        };
        open.close(termination, None);
    }
}

/// Closes the scope and stops counting the session when the tunnel ends.
#[derive(Debug)]
pub(crate) struct TunnelGuard<M> {
    pub(crate) scope: StreamScope,
    /// Keeps the session counted.
    pub(crate) _counts: M,
}

impl<M: Unpin> TunnelObserver for TunnelGuard<M> {
    fn end(mut self, ended: TunnelSummary, error: Option<&io::Error>) {
        self.scope.received(ended.to_backend);
        self.scope.sent(ended.to_client);
        if let Some(open) = self.scope.0.take() {
            open.close(ended.termination, error.map(ToString::to_string).as_deref());
        }
    }
}

//! The one ending of every stream.
//!
//! An [`StreamScope`] is opened with the request and moved along with whatever carries the stream on: the
//! response's body, then perhaps a tunnel. Whoever sees the end closes it with a [`Termination`];
//! an entry that is dropped instead belongs to a client that went away, to a drain that was forced, or
//! to a task that panicked.

use std::{io, sync::Arc, time::Instant};

use arc_swap::ArcSwap;

use crate::{
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

/// An open access-log line and metric.
#[derive(Debug)]
pub(crate) struct StreamScope(Option<Box<StreamState>>);

#[derive(Debug)]
struct StreamState {
    record: StreamRecord,
    phase: Phase,
    bytes_in: u64,
    bytes_out: u64,
    sinks: StreamSinks,
    client: Option<SessionClient>,
    /// The connection's place among those of its address, for a tunnel, which outlives the connection.
    _counted: Option<Arc<CountedConnection>>,
}

/// Who has the session, and on which backend, for the case that it ends here.
#[derive(Debug)]
pub(crate) struct SessionClient {
    pub(crate) memory: Arc<RecentSessions>,
    pub(crate) key: ClientKey,
    /// [`Backend::tag`](crate::upstream::Backend::tag).
    pub(crate) backend: u64,
    /// Looks whether the reply closes the session, if the stream is a poll.
    pub(crate) scan: Option<CloseScan>,
}

/// Where endings are told.
#[derive(Clone, Debug)]
pub(crate) struct StreamSinks {
    /// The one in force when the stream ends.
    pub(crate) log: Arc<ArcSwap<AccessLog>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listener: Arc<ListenerMetrics>,
    /// Keeps a drain waiting for the stream, and tells whether it was cut by one.
    pub(crate) drain: shutdown::Watch,
}

impl StreamScope {
    /// Opens an entry.
    pub(crate) fn open(record: StreamRecord, sinks: StreamSinks) -> Self {
        let phase = Phase::Request;
        let (bytes_in, bytes_out) = (0, 0);
        let (client, _counted) = (None, None);
        let open = StreamState { record, phase, bytes_in, bytes_out, sinks, client, _counted };
        Self(Some(Box::new(open)))
    }

    /// What the line will say.
    pub(crate) fn record(&mut self) -> &mut StreamRecord {
        // The option is emptied only by what consumes or drops the entry.
        match &mut self.0 {
            Some(open) => &mut open.record,
            None => unreachable!("an entry is open while it is borrowed"),
        }
    }

    /// How far the stream has come, for the case that the client leaves.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if let Some(open) = &mut self.0 {
            open.phase = phase;
        }
    }

    /// What to remember where the session ends with this stream: it is a tunnel, or a poll.
    pub(crate) fn track_client(&mut self, client: SessionClient) {
        if let Some(open) = &mut self.0 {
            open.client = Some(client);
        }
    }

    /// The reply is compressed: a close packet in it is not seen.
    pub(crate) fn disable_close_scan(&mut self) {
        if let Some(client) = self.0.as_mut().and_then(|open| open.client.as_mut()) {
            client.scan = None;
        }
    }

    /// Counts bytes of a reply's body to the client, and reads them if they may close a session.
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

    /// Where numbers are told.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.0.as_ref().map(|open| &*open.sinks.metrics)
    }

    /// Closes the entry.
    pub(crate) fn end(mut self, termination: Termination) {
        if let Some(open) = self.0.take() {
            open.close(termination, None);
        }
    }

    /// Closes the entry of a client that has gone, in the phase that it is in.
    pub(crate) fn client_lost(mut self, kind: FailureKind) {
        if let Some(open) = self.0.take() {
            open.close(Termination::Failed(Side::Client, open.phase, kind), None);
        }
    }

    /// Closes the entry of a request that failed.
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

    /// Whether the session is over and its client may come back to the same node: not where the client
    /// was sent away to find another.
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

/// Closes the entry with the tunnel, and lets its session go.
#[derive(Debug)]
pub(crate) struct TunnelGuard<M> {
    pub(crate) scope: StreamScope,
    /// Counts the session.
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

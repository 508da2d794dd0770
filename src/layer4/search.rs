//! Finds a backend for a layer 4 stream and connects to it.
//!
//! A backend is picked as for a new HTTP session, and is held from then on, so that the next pick
//! takes the stream into account. If all allowed connections are in use, the stream waits, first
//! come first served, for a free connection to one of several backends; it counts as waiting at one
//! of them. A stream with a connection is a new session and waits for admission like one.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    observe::ChosenBy,
    shared::SharedState,
    snapshot::PoolSnapshot,
    stream_log::StreamScope,
    upstream::{AdmissionOutcome, Backend, ConnectError, ConnectionGuard, SessionGuard, source},
};

/// Maximum number of backends tried for one stream.
const MAX_TRIES: usize = 3;
/// Maximum number of backends that a stream waits for at once.
const QUEUES: usize = 8;
/// How often a waiting stream checks whether its backend still takes new sessions.
const LOOK: Duration = Duration::from_millis(500);
/// Pause before the next try if descriptors or ports are exhausted.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Search for the backend of one stream.
pub(super) struct BackendSearch<'a> {
    proxy: &'a SharedState,
    pool: &'a PoolSnapshot,
    source: [u8; 16],
    scope: &'a mut StreamScope,
    /// Backends that are not used again: unreachable, or full of new sessions.
    excluded: Vec<Arc<Backend>>,
    /// Number of backends tried.
    tries: usize,
    /// Deadline for a free connection.
    until: Instant,
    /// Deadline for admission, over all backends.
    admitted_by: Option<std::time::Instant>,
    /// Whether a backend has refused admission.
    refused: bool,
}

/// A connected backend.
pub(super) struct ConnectedBackend {
    pub(super) server: BackendStream,
    pub(super) hold: SessionGuard,
    pub(super) in_use: ConnectionGuard,
    /// Time that connecting took, over all tries.
    pub(super) took: Duration,
}

impl<'a> BackendSearch<'a> {
    pub(super) fn new(
        proxy: &'a SharedState,
        pool: &'a PoolSnapshot,
        client: IpAddr,
        scope: &'a mut StreamScope,
    ) -> Self {
        let until = Instant::now() + pool.config().timeouts.connect;
        Self {
            proxy,
            pool,
            source: source(client),
            scope,
            excluded: Vec::new(),
            tries: 0,
            until,
            admitted_by: None,
            refused: false,
        }
    }

    /// Finds a backend and connects to it; an error describes the last failure.
    pub(super) async fn run(
        &mut self,
        from: &ConnectionOrigin,
    ) -> Result<ConnectedBackend, ProxyError> {
        self.pool.upstream.note_request();
        let mut last = None;
        let mut started = None;
        loop {
            self.scope.enter(Phase::Select);
            let (hold, in_use) = match self.admitted_backend().await {
                Ok(place) => place,
                Err(error) if error.kind == FailureKind::NotAdmitted => return Err(error),
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let started = *started.get_or_insert_with(Instant::now);
            let record = self.scope.record();
            record.chosen_by = ChosenBy::Balance;
            record.backend = Some(Arc::clone(hold.backend().label()));
            self.scope.enter(Phase::Connect);
            match self.connect(hold.backend(), from).await {
                Ok(server) => {
                    return Ok(ConnectedBackend { server, hold, in_use, took: started.elapsed() });
                }
                Err(error) => {
                    self.excluded.push(Arc::clone(hold.backend()));
                    self.tries += 1;
                    if !self.may_retry() {
                        return Err(error);
                    }
                    tracing::debug!(%error, "trying another backend");
                    last = Some(error);
                }
            }
        }
    }

    /// Finds a backend that admits the stream, and acquires a connection slot there.
    async fn admitted_backend(&mut self) -> Result<(SessionGuard, ConnectionGuard), ProxyError> {
        loop {
            let (hold, in_use) = match self.backend_with_capacity().await {
                Ok(room) => room,
                Err(_) if self.refused => {
                    self.proxy.metrics.admission_refused.inc();
                    return Err(ProxyError::new(
                        Side::Proxy,
                        Phase::Select,
                        FailureKind::NotAdmitted,
                    ));
                }
                Err(error) => return Err(error),
            };
            if self.admitted(hold.backend()).await {
                return Ok((hold, in_use));
            }
        }
    }

    /// Waits until the backend admits the stream; false if another backend must be picked.
    async fn admitted(&mut self, backend: &Arc<Backend>) -> bool {
        let pool = self.pool;
        let Some(terms) = &pool.config().admission else { return true };
        let latest = || std::time::Instant::now() + terms.deadline;
        match backend.admit(terms, *self.admitted_by.get_or_insert_with(latest)) {
            AdmissionOutcome::Admitted => true,
            AdmissionOutcome::Queued(turn) => {
                self.proxy.metrics.admission_queued.inc();
                let comes = wait_for_turn(backend, turn.at().into()).await;
                if !comes {
                    self.excluded.push(Arc::clone(backend));
                }
                comes
            }
            AdmissionOutcome::Rejected(_) => {
                self.refused = true;
                self.excluded.push(Arc::clone(backend));
                false
            }
        }
    }

    /// Picks a backend and acquires a connection slot there.
    async fn backend_with_capacity(&self) -> Result<(SessionGuard, ConnectionGuard), ProxyError> {
        loop {
            let picked = self.pool.upstream.pick(&self.source, &self.excluded);
            if let Some(backend) = &picked {
                let hold = backend.hold();
                if let Some(in_use) = backend.connection() {
                    return Ok((hold, in_use));
                }
            } else if !self.pool.upstream.is_full() {
                return Err(ProxyError::new(Side::Backend, Phase::Select, FailureKind::NoBackend));
            }
            let Some(in_use) = self.queue(picked).await else {
                return Err(ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Saturated));
            };
            let backend = Arc::clone(in_use.backend());
            // The backend may have begun to drain or gone down meanwhile.
            if accepts_new(&backend) {
                return Ok((backend.hold(), in_use));
            }
        }
    }

    /// Waits for a free connection; `None` if too many streams wait or the deadline passes.
    async fn queue(&self, picked: Option<Arc<Backend>>) -> Option<ConnectionGuard> {
        let waits = |backend: &&Arc<Backend>| backend.is_only_full() && !self.has_excluded(backend);
        let mut full: Vec<&Arc<Backend>> =
            self.pool.upstream.backends().iter().filter(waits).collect();
        if full.is_empty() {
            full.extend(&picked);
        }
        full.sort_by_key(|backend| backend.requests_pending());
        // Counted once per stream; released after the turns.
        let _place = full.first()?.pending()?;
        let mut turns: Vec<Pin<Box<_>>> = full
            .iter()
            .take(QUEUES)
            .map(|backend| Box::pin(backend.wait_for_connection()))
            .collect();
        let first = poll_fn(|cx| {
            let ready = turns.iter_mut().find_map(|turn| match turn.as_mut().poll(cx) {
                Poll::Ready(in_use) => Some(in_use),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        timeout_at(self.until, first).await.ok()
    }

    /// Connects once and updates the backend's health by the outcome.
    async fn connect(
        &self,
        backend: &Arc<Backend>,
        from: &ConnectionOrigin,
    ) -> Result<BackendStream, ProxyError> {
        let began = Instant::now();
        let until = began + self.pool.config().timeouts.connect;
        let outcome = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.pool.connector().open(backend, from, left).await {
                Err(ConnectError::Exhausted) if left > SHORTAGE_PAUSE => {
                    sleep(SHORTAGE_PAUSE).await;
                }
                outcome => break outcome.map_err(ProxyError::from),
            }
        };
        match &outcome {
            Ok(_) => self.proxy.note(backend, false),
            Err(error) if error.side == Side::Backend => {
                self.proxy.note(backend, true);
                let health = &self.pool.config().health;
                self.proxy.record_failure(backend, health, error, began.into_std());
            }
            Err(_) => {}
        }
        outcome
    }

    /// Whether another backend can be tried within the retry budget; spends the budget.
    fn may_retry(&self) -> bool {
        let other = |backend: &Arc<Backend>| accepts_new(backend) && !self.has_excluded(backend);
        self.tries < MAX_TRIES
            && self.pool.upstream.backends().iter().any(other)
            && self.pool.upstream.retry_allowed()
            && {
                self.proxy.metrics.retries.inc();
                true
            }
    }

    fn has_excluded(&self, backend: &Arc<Backend>) -> bool {
        self.excluded.iter().any(|left| Arc::ptr_eq(left, backend))
    }
}

/// Whether the backend takes new sessions, at once or when a connection is free.
fn accepts_new(backend: &Backend) -> bool {
    backend.accepts_new() || backend.is_only_full()
}

/// Waits until `at`; false if the backend takes no new sessions any more.
async fn wait_for_turn(backend: &Backend, at: Instant) -> bool {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        sleep(left.min(LOOK)).await;
        // The stream's own connection may be the one that makes the backend full.
        if !accepts_new(backend) || left <= LOOK {
            return accepts_new(backend);
        }
    }
}

//! Finds a backend for a layer 4 stream and connects to it.
//!
//! A backend is picked as for a new HTTP session, and is held from then on, so that the next pick
//! takes the stream into account. If all allowed connections are in use, the stream waits, first
//! come first served, for a free connection to one of several backends; it counts as waiting at one
//! of them. A stream with a connection is a new session and waits for admission like one. Which
//! backends are tried, and how often, is decided in [`reach`].

use std::{
    future::{Future, pending, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    observe::ChosenBy,
    shared::SharedState,
    snapshot::PoolSnapshot,
    stream_log::StreamScope,
    upstream::{
        Backend, ConnectionGuard, SessionGuard,
        reach::{self, AdmissionWait, RetryPlan, WhenFull},
    },
};

/// Maximum number of backends that a stream waits for at once.
const QUEUES: usize = 8;

/// Search for the backend of one stream.
pub(super) struct BackendSearch<'a> {
    proxy: &'a SharedState,
    pool: &'a PoolSnapshot,
    client: IpAddr,
    scope: &'a mut StreamScope,
    plan: RetryPlan,
    /// Deadline for a free connection.
    until: Instant,
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
        Self { proxy, pool, client, scope, plan: RetryPlan::any(WhenFull::Wait), until }
    }

    /// Finds a backend and connects to it; an error describes the last failure.
    pub(super) async fn run(
        &mut self,
        from: &ConnectionOrigin,
    ) -> Result<ConnectedBackend, ProxyError> {
        let outcome = self.find(from).await;
        if outcome.as_ref().is_err_and(|error| error.kind == FailureKind::NotAdmitted) {
            self.proxy.metrics.admission_refused.inc();
        }
        outcome
    }

    async fn find(&mut self, from: &ConnectionOrigin) -> Result<ConnectedBackend, ProxyError> {
        let pool = &self.pool.upstream;
        pool.note_request();
        let mut started = None;
        loop {
            self.scope.enter(Phase::Select);
            let (hold, in_use) = self.admitted_backend().await?;
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
                    tracing::debug!(%error, "trying another backend, if there is one");
                    self.plan.record_failure(pool, Arc::clone(hold.backend()), error)?;
                    self.proxy.metrics.retries.inc();
                }
            }
        }
    }

    /// Finds a backend that admits the stream, and acquires a connection slot there.
    async fn admitted_backend(&mut self) -> Result<(SessionGuard, ConnectionGuard), ProxyError> {
        loop {
            let (hold, in_use) = self.backend_with_capacity().await?;
            let queued = || _ = self.proxy.metrics.admission_queued.inc();
            // The whole search is dropped if the client leaves.
            let admission = self.plan.admit(&self.pool.upstream, hold.backend(), queued, pending());
            if admission.await == AdmissionWait::Admitted {
                return Ok((hold, in_use));
            }
        }
    }

    /// Picks a backend and acquires a connection slot there.
    async fn backend_with_capacity(
        &mut self,
    ) -> Result<(SessionGuard, ConnectionGuard), ProxyError> {
        let pool = &self.pool.upstream;
        loop {
            let picked = self.plan.next(pool, self.client);
            if let Some(backend) = &picked {
                let hold = backend.hold();
                if let Some(in_use) = backend.connection() {
                    return Ok((hold, in_use));
                }
            } else if !pool.is_full() {
                return Err(self.plan.no_backend_left(pool));
            }
            let Some(in_use) = self.queue(picked).await else {
                let saturated = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Saturated);
                return Err(self.plan.failure_or(saturated));
            };
            let backend = Arc::clone(in_use.backend());
            // The backend may have begun to drain or gone down meanwhile.
            if self.plan.can_use(&backend) {
                return Ok((backend.hold(), in_use));
            }
        }
    }

    /// Waits for a free connection; `None` if too many streams wait or the deadline passes.
    async fn queue(&self, picked: Option<Arc<Backend>>) -> Option<ConnectionGuard> {
        let waits =
            |backend: &&Arc<Backend>| backend.is_only_full() && !self.plan.has_excluded(backend);
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
        let deadline = self.pool.config().timeouts.connect;
        let outcome = reach::connect(self.pool.connector(), backend, from, deadline)
            .await
            .map_err(ProxyError::from);
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
}

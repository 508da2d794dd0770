//! Backends that a request is tried on, and the wait of new sessions for admission.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{attempt::RequestAttempt, client::ClientSide};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    observe::ChosenBy,
    upstream::{AdmissionOutcome, AdmissionTurn, Backend, source},
};

/// How often a waiting session checks whether its backend still takes new sessions.
const LOOK: Duration = Duration::from_millis(500);

/// Backends that a request has been tried on, and the next one.
#[derive(Debug)]
pub(super) struct RetryPlan {
    /// Backend to use first.
    pub(super) bound: Option<Arc<Backend>>,
    /// How the next backend is chosen.
    pub(super) by: ChosenBy,
    /// Backends that are not used again: tried, or full of new sessions.
    excluded: Vec<Arc<Backend>>,
    /// Number of backends tried.
    pub(super) tries: usize,
    /// Seconds until the first of the full backends would admit the session.
    retry_after: Option<u32>,
    /// Serial of the backend that has admitted the session.
    pub(super) admitted: Option<u64>,
    /// Deadline for admission, over all backends.
    pub(super) until: Option<Instant>,
}

impl RetryPlan {
    pub(super) fn to(backend: Arc<Backend>, by: ChosenBy) -> Self {
        Self { bound: Some(backend), by, ..Self::any() }
    }

    pub(super) fn any() -> Self {
        let by = ChosenBy::Balance;
        let excluded = Vec::new();
        Self { bound: None, by, excluded, tries: 0, retry_after: None, admitted: None, until: None }
    }

    /// Records a failed try on `backend`.
    pub(super) fn mark_tried(&mut self, backend: Arc<Backend>) {
        self.tries += 1;
        self.exclude(backend);
    }

    /// Records that `backend` admits the session only after `seconds`.
    fn mark_refused(&mut self, backend: Arc<Backend>, seconds: u32) {
        self.retry_after = Some(self.retry_after.map_or(seconds, |least| least.min(seconds)));
        self.exclude(backend);
    }

    fn exclude(&mut self, backend: Arc<Backend>) {
        self.excluded.push(backend);
        self.by = ChosenBy::Balance;
    }
}

impl RequestAttempt<'_, '_> {
    /// Returns the next backend.
    pub(super) fn next(&self, plan: &mut RetryPlan) -> Option<Arc<Backend>> {
        let source = source(self.state.address.ip());
        plan.bound.take().or_else(|| self.state.pool.upstream.pick(&source, &plan.excluded))
    }

    /// Explains why no backend is left: the last failure, if there was one.
    pub(super) fn no_backend_left(&self, plan: &RetryPlan, last: Option<ProxyError>) -> ProxyError {
        if let Some(seconds) = plan.retry_after {
            self.state.proxy.metrics.admission_refused.inc();
            return ProxyError::new(Side::Proxy, Phase::Select, FailureKind::NotAdmitted)
                .with_retry_after(seconds);
        }
        // If every backend is this process, health checks mark it down as well; report the loop.
        let backends = self.state.pool.upstream.backends();
        let loops = || !backends.is_empty() && backends.iter().all(|backend| backend.is_loop());
        last.unwrap_or_else(|| match self.state.pool.upstream.is_full() {
            true => ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Saturated),
            false if loops() => ProxyError::new(Side::Proxy, Phase::Select, FailureKind::Loop),
            false => ProxyError::new(Side::Backend, Phase::Select, FailureKind::NoBackend),
        })
    }

    /// Waits until the backend admits a new session; other requests pass. False if another backend
    /// must be picked: this one takes no new sessions any more, or admits none at present.
    pub(super) async fn admitted(
        &mut self,
        backend: &Arc<Backend>,
        plan: &mut RetryPlan,
    ) -> Result<bool, ProxyError> {
        let pool = &self.state.pool;
        let terms = pool.config().admission.as_ref().filter(|_| self.begins_session());
        let Some(terms) = terms.filter(|_| plan.admitted != Some(backend.serial())) else {
            return Ok(true);
        };
        let until = *plan.until.get_or_insert_with(|| Instant::now() + terms.deadline);
        match backend.admit(terms, until) {
            AdmissionOutcome::Admitted => {}
            AdmissionOutcome::Queued(turn) => {
                self.state.proxy.metrics.admission_queued.inc();
                match wait(&turn, backend, self.client).await {
                    TurnOutcome::Reached => {}
                    TurnOutcome::BackendUnavailable => {
                        plan.by = ChosenBy::Balance;
                        return Ok(false);
                    }
                    TurnOutcome::ClientLeft => {
                        let left =
                            ProxyError::new(Side::Client, Phase::Select, FailureKind::Incomplete);
                        return Err(left);
                    }
                }
            }
            AdmissionOutcome::Rejected(seconds) => {
                plan.mark_refused(Arc::clone(backend), seconds);
                return Ok(false);
            }
        }
        plan.admitted = Some(backend.serial());
        Ok(true)
    }
}

/// Outcome of a wait for a turn.
enum TurnOutcome {
    /// The turn has come.
    Reached,
    /// The backend takes no new sessions any more.
    BackendUnavailable,
    /// The client has left.
    ClientLeft,
}

async fn wait(turn: &AdmissionTurn<'_>, backend: &Backend, client: &mut ClientSide) -> TurnOutcome {
    loop {
        let left = turn.at().saturating_duration_since(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            // A client may close its sending side and still want its response, but not before its
            // request has been sent.
            () = self::left(client) => return TurnOutcome::ClientLeft,
        }
        if !backend.accepts_new() {
            return TurnOutcome::BackendUnavailable;
        }
        if left <= LOOK {
            return TurnOutcome::Reached;
        }
    }
}

/// Resolves once the client has left or closed its sending side.
pub(super) async fn left(client: &mut ClientSide) {
    poll_fn(|cx| client.poll_left(cx)).await;
    client.has_left = true;
}

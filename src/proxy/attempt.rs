//! Sending a request to a backend, with retries.
//!
//! The rules that keep sessions alive are here. A request of a known session goes to the
//! [backend](super::session) of the session. A request with an unknown sid starts an [owner
//! search](super::owner_search). Any other request is tried on another backend if nothing was sent
//! or the request can safely be repeated, as [`reach`](crate::upstream::reach) allows.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use super::{
    affinity::{self, Destination},
    arrival::RequestState,
    backend::SendOptions,
    client::ClientSide,
    exchange::{BackendResponse, SendError, send_request},
    outgoing::Outgoing,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::proxy_protocol::ConnectionOrigin,
    observe::ChosenBy,
    stream_log::SessionClient,
    upstream::{
        Backend, SessionGuard,
        reach::{AdmissionWait, RetryPlan, WhenFull},
    },
};

/// How long a backend may hold a poll if the session's `pingInterval` is unknown.
pub(super) const UNKNOWN_POLL: Duration = Duration::from_secs(300);

/// Sends one request until a backend answers.
#[derive(Debug)]
pub(super) struct RequestAttempt<'a, 'p> {
    pub(super) state: &'a mut RequestState<'p>,
    pub(super) outgoing: &'a mut Outgoing,
    pub(super) client: &'a mut ClientSide,
    /// Client address that is announced to the backend, if the pool sends PROXY headers.
    pub(super) from: &'a ConnectionOrigin,
    /// The session is known to be on one backend; no other backend can serve the request.
    pub(super) bound: bool,
    /// A kept-alive connection was closed during the request; use only new connections from here on.
    pub(super) fresh: bool,
}

/// Response of a backend, and how it was obtained.
#[derive(Debug)]
pub(super) struct AttemptOutcome {
    pub(super) answer: BackendResponse,
    /// Counts the session that this request may open, until the session is counted itself.
    pub(super) reserved: Option<SessionGuard>,
    /// The backend says that the session is unknown.
    pub(super) unknown: bool,
}

impl RequestAttempt<'_, '_> {
    /// Sends the request to the chosen destination.
    pub(super) fn run(
        &mut self,
        destination: Destination,
    ) -> impl Future<Output = Result<AttemptOutcome, ProxyError>> + Send {
        async move {
            match destination {
                Destination::Session(backend, lifetime) => {
                    self.send_to_owner(&backend, lifetime).await
                }
                Destination::Gone { .. } => Err(self.session_gone()),
                // Boxed: rare, and larger than the others.
                Destination::Search(first, split) => {
                    Box::pin(self.search_owner(first, split.as_deref())).await
                }
                Destination::Preferred(backend, by) => {
                    self.set_chosen_by(by);
                    self.send_balanced(RetryPlan::to(backend, WhenFull::Skip)).await
                }
                Destination::Balanced => self.send_balanced(RetryPlan::any(WhenFull::Skip)).await,
            }
        }
    }

    /// Sends the request to the backends that the plan and the balance policy choose.
    pub(super) fn send_balanced(
        &mut self,
        mut plan: RetryPlan,
    ) -> impl Future<Output = Result<AttemptOutcome, ProxyError>> + Send {
        async move {
            self.bound = false;
            let header = self.state.timeouts().response_header;
            let header = if self.is_poll() { header.max(UNKNOWN_POLL) } else { header };
            loop {
                if plan.is_balanced() {
                    self.set_chosen_by(ChosenBy::Balance);
                }
                let pool = &self.state.pool.upstream;
                let Some(backend) = plan.next(pool, self.state.address.ip()) else {
                    let error = plan.no_backend_left(pool);
                    return Err(self.counted(error));
                };
                // Counted from here on, queued or not, so that the next pick takes this session into
                // account.
                let reserved = self.opens_session().then(|| backend.hold());
                // Boxed: few pools limit new sessions.
                if self.config().admission.is_some()
                    && !Box::pin(self.admitted(&backend, &mut plan)).await?
                {
                    continue;
                }
                let failure = match self.send_once(&backend, header).await {
                    Ok(answer) => return Ok(AttemptOutcome { answer, reserved, unknown: false }),
                    Err(failure) => failure,
                };
                self.try_again(failure, backend, &mut plan)?;
            }
        }
    }

    /// Waits until the backend admits a new session; other requests pass. False if another backend must be picked.
    async fn admitted(
        &mut self,
        backend: &Arc<Backend>,
        plan: &mut RetryPlan,
    ) -> Result<bool, ProxyError> {
        if !self.begins_session() {
            return Ok(true);
        }
        let queued = || _ = self.state.proxy.metrics.admission_queued.inc();
        let pool = &self.state.pool.upstream;
        // A client may close its sending side and still want its response, but not before its request has been sent.
        match plan.admit(pool, backend, queued, self.client.left()).await {
            AdmissionWait::Admitted => Ok(true),
            AdmissionWait::PickAnother => Ok(false),
            AdmissionWait::Cancelled => {
                Err(ProxyError::new(Side::Client, Phase::Select, FailureKind::Incomplete))
            }
        }
    }

    /// Decides whether and where a failed request is sent again.
    fn try_again(
        &mut self,
        failure: SendError,
        backend: Arc<Backend>,
        plan: &mut RetryPlan,
    ) -> Result<(), ProxyError> {
        let SendError { kept, error, .. } = failure;
        if kept && self.may_be_stale(&error) {
            tracing::debug!(%error, "trying the same backend on a new connection");
            self.state.proxy.metrics.retries.inc();
            self.fresh = true;
            plan.again(backend);
            return Ok(());
        }
        if !self.is_retriable(&error) {
            return Err(error);
        }
        tracing::debug!(%error, "trying another backend, if there is one");
        let pool = &self.state.pool.upstream;
        plan.record_failure(pool, backend, error).map_err(|error| self.counted(error))?;
        self.state.proxy.metrics.retries.inc();
        Ok(())
    }

    /// Sends the request once and updates the backend's health by the outcome.
    pub(super) fn send_once(
        &mut self,
        backend: &Arc<Backend>,
        header: Duration,
    ) -> impl Future<Output = Result<BackendResponse, SendError>> + Send {
        async move {
            self.track_client(backend);
            self.state.scope.record().backend = Some(Arc::clone(backend.label()));
            self.state.scope.enter(Phase::ResponseHeader);
            let timeouts = self.state.timeouts();
            let options = SendOptions {
                backend,
                pool: &self.state.pool,
                from: self.from,
                timeouts,
                began: Instant::now(),
                header: match self.state.long_poll {
                    true => timeouts.stream_idle,
                    false => Some(header),
                },
                upgrade: self.state.upgrade,
                once: !self.replayable(),
                fresh: self.fresh,
                bound: self.bound,
            };
            let upload = self.outgoing.upload(options.began);
            let mut outcome = send_request(&options, &self.state.method, upload, self.client).await;
            let early = matches!(&outcome, Err(failure) if self.is_early(header, &failure.error));
            if !early {
                self.record_outcome(backend, &mut outcome);
            }
            match &outcome {
                Ok(answer) => {
                    backend.record_response(answer.at.into_std());
                    let record = self.state.scope.record();
                    record.first_byte_seen(answer.at.into_std());
                    if let Some(time) = answer.connected {
                        record.connect_took(time);
                    }
                }
                Err(_) if early => {}
                Err(failure) => self.report_failure(backend, failure),
            }
            outcome
        }
    }

    /// Whether the backend missed a limit of the route that is shorter than that of the pool, which says nothing about its
    /// health.
    fn is_early(&self, header: Duration, error: &ProxyError) -> bool {
        let limits = &self.config().timeouts;
        match (error.side, error.phase, error.kind) {
            (Side::Backend, Phase::ResponseHeader, FailureKind::TimedOut) => {
                header < limits.response_header
            }
            (Side::Backend, Phase::RequestBody, FailureKind::TimedOut) => {
                self.state.timeouts().body_idle < limits.body_idle
            }
            _ => false,
        }
    }

    /// Counts a failure towards the backend's health.
    fn report_failure(&self, backend: &Backend, failure: &SendError) {
        let SendError { error, began, .. } = failure;
        match (error.phase, error.kind) {
            (
                Phase::Connect,
                FailureKind::Refused | FailureKind::Reset | FailureKind::TimedOut | FailureKind::Io,
            )
            | (Phase::Handshake, _) => {}
            // A poll that is held for too long says nothing about the health of the backend.
            (Phase::ResponseHeader, FailureKind::TimedOut)
                if !self.is_poll() && !self.state.long_poll => {}
            _ => return,
        }
        if matches!(error.kind, FailureKind::TimedOut | FailureKind::Io) {
            backend.record_no_response(*began);
        }
        self.state.proxy.record_failure(backend, &self.config().health, error, *began);
    }

    /// Counts failures that are the backend's fault towards an ejection.
    fn record_outcome(
        &self,
        backend: &Arc<Backend>,
        outcome: &mut Result<BackendResponse, SendError>,
    ) {
        let failed = match outcome {
            // A response is counted when its body is complete or has failed.
            Ok(answer) => match answer.head.status.as_u16() {
                500 | 502..=504 => {
                    answer.lease.failed();
                    true
                }
                _ => return,
            },
            Err(SendError { error, kept, .. }) => match (error.side, error.phase) {
                (Side::Backend, Phase::Connect | Phase::Handshake) => true,
                // The backend may have closed a kept-alive connection meanwhile, and it may hold a
                // poll for as long as it likes.
                (Side::Backend, Phase::ResponseHeader)
                    if !*kept && !self.is_poll() && !self.state.long_poll =>
                {
                    true
                }
                (Side::Backend, Phase::RequestBody) => true,
                _ => return,
            },
        };
        self.state.proxy.note(backend, failed);
    }

    /// Associates the stream with the client's key, so that the session is remembered on this
    /// backend if the client leaves the poll or the reply closes the session.
    fn track_client(&mut self, backend: &Backend) {
        if let Some(key) = self.state.client_key.filter(|_| self.is_poll()) {
            let (memory, backend) = (Arc::clone(&self.state.proxy.memory), backend.tag());
            let scan = self.state.engine.as_ref().map(|engine| engine.framing.reply());
            self.state.scope.track_client(SessionClient { memory, key, backend, scan });
        }
    }

    /// Whether the request may be sent to another backend after this failure.
    fn is_retriable(&self, error: &ProxyError) -> bool {
        match (error.side, error.phase, error.kind) {
            (Side::Client, ..) => false,
            // After a timeout on one backend, do not make the next backend do the same work.
            (_, Phase::ResponseHeader, FailureKind::TimedOut) => false,
            _ => !self.outgoing.has_written() || self.replayable(),
        }
    }

    /// Counts a rejected admission.
    fn counted(&self, error: ProxyError) -> ProxyError {
        if error.kind == FailureKind::NotAdmitted {
            self.state.proxy.metrics.admission_refused.inc();
        }
        error
    }

    /// Whether the backend closed a kept-alive connection meanwhile, so that the request can be sent
    /// once more.
    fn may_be_stale(&self, error: &ProxyError) -> bool {
        let closed = error.side == Side::Backend && error.kind != FailureKind::TimedOut;
        closed && !self.fresh && self.replayable()
    }

    fn replayable(&self) -> bool {
        let session = self.state.engine.as_ref().is_some_and(|engine| engine.sid.is_some());
        !session && !self.state.upgrade && self.outgoing.replayable()
    }

    pub(super) fn forget(&self) {
        if let Some(sid) = self.sid() {
            self.state.proxy.sids.forget(self.state.pool.upstream.name(), sid);
        }
    }

    pub(super) fn sid(&self) -> Option<&str> {
        self.state.engine.as_ref().and_then(|engine| engine.sid.as_deref())
    }

    /// Whether this is a GET that a backend may hold until it has data.
    pub(super) fn is_poll(&self) -> bool {
        let session =
            self.state.engine.as_ref().is_some_and(|engine| engine.polling && engine.sid.is_some());
        session && self.state.method == Method::GET && !self.state.upgrade
    }

    fn opens_session(&self) -> bool {
        self.state.upgrade || self.state.engine.as_ref().is_some_and(|engine| engine.sid.is_none())
    }

    pub(super) fn begins_session(&self) -> bool {
        affinity::begins_session(self.state.engine.as_ref(), &self.state.method, self.state.upgrade)
    }

    pub(super) fn set_chosen_by(&mut self, by: ChosenBy) {
        self.state.scope.record().chosen_by = by;
    }

    pub(super) fn config(&self) -> &crate::config::PoolConfig {
        self.state.pool.config()
    }

    pub(super) fn session_gone(&self) -> ProxyError {
        ProxyError::new(Side::Backend, Phase::Select, FailureKind::SessionGone)
    }
}

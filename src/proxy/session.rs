//! Requests of a known session: sent to the backend of the session only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;

use super::{
    attempt::{AttemptOutcome, RequestAttempt},
    exchange::{BackendResponse, SendError},
    owner_search::is_perhaps_unknown,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    observe::ChosenBy,
    upstream::{
        Backend, Lifecycle,
        reach::{RetryPlan, WhenFull},
    },
};

/// Time for late replies, in addition to `pingInterval`, for which a backend holds a poll.
const POLL_SLACK: Duration = Duration::from_secs(5);

/// Average pause between two connects to the unreachable backend of a known session; varies by half
/// of it.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Effect of a failed try on a known session.
enum SessionFailure {
    /// The session has ended with its backend.
    Gone,
    /// The backend is unreachable and may still have the session.
    Retry,
    /// The request has failed.
    Failed,
}

impl SessionFailure {
    fn of(error: &ProxyError) -> Self {
        match (error.side, error.phase, error.kind) {
            // Nothing listens there any more: the process has ended, and its sessions with it.
            (_, Phase::Connect | Phase::Handshake, FailureKind::Refused | FailureKind::Reset) => {
                Self::Gone
            }
            // The backend was silent for longer than the session lives.
            (Side::Backend, Phase::ResponseHeader, FailureKind::TimedOut) => Self::Gone,
            (
                _,
                Phase::Connect,
                FailureKind::TimedOut | FailureKind::Io | FailureKind::Exhausted,
            )
            | (_, Phase::Handshake, FailureKind::TimedOut) => Self::Retry,
            _ => Self::Failed,
        }
    }
}

impl RequestAttempt<'_, '_> {
    /// Sends the request to the backend that owns the session, whatever its health checks say.
    ///
    /// A backend that is hung, slow or unreachable keeps its sessions: requests wait for as long as a
    /// session lives without a request. While no connection can be opened, nothing has been sent,
    /// and connecting is repeated. Requests that the backend has not read are sent again. A session
    /// ends if its backend refuses or resets connections, is silent for longer than the session
    /// lives, or is removed.
    pub(super) fn send_to_owner(
        &mut self,
        backend: &Arc<Backend>,
        lifetime: Duration,
    ) -> impl Future<Output = Result<AttemptOutcome, ProxyError>> + Send {
        async move {
            self.set_chosen_by(ChosenBy::Sid);
            self.bound = true;
            let header = self.state.timeouts().response_header.max(lifetime + POLL_SLACK);
            if self.state.engine.as_ref().is_some_and(|engine| engine.polling) {
                self.outgoing.keep_copy();
            }
            let mut until = None;
            loop {
                // Boxed: rare. A held poll must not pay for what follows.
                let follow_up = match self.send_once(backend, header).await {
                    Ok(answer) if !is_perhaps_unknown(&answer) => {
                        return Ok(AttemptOutcome { answer, reserved: None, unknown: false });
                    }
                    sent => Box::pin(self.follow_up(backend, lifetime, sent, &mut until)),
                };
                if let Some(outcome) = follow_up.await {
                    return outcome;
                }
            }
        }
    }

    /// Decides what follows after a response that may say that the session is unknown, or after a failure; `None`:
    /// send the request again. `until`: how long connecting is repeated.
    async fn follow_up(
        &mut self,
        backend: &Arc<Backend>,
        lifetime: Duration,
        sent: Result<BackendResponse, SendError>,
        until: &mut Option<Instant>,
    ) -> Option<Result<AttemptOutcome, ProxyError>> {
        let failure = match sent {
            Ok(answer) => return Some(self.answered(answer).await),
            Err(failure) => failure,
        };
        if failure.unread && self.outgoing.again() {
            tracing::debug!(error = %failure.error, "request not read by a hung node; sending it again");
            self.state.proxy.metrics.retries.inc();
            // On a new connection, where `unread` is never set: it happens only once.
            self.fresh = true;
            return None;
        }
        let SendError { error, .. } = failure;
        let unsent = !self.outgoing.has_written();
        // Any backend can answer a preflight.
        if self.state.method == Method::OPTIONS && unsent {
            return Some(self.send_balanced(RetryPlan::any(WhenFull::Skip)).await);
        }
        match (SessionFailure::of(&error), unsent) {
            (SessionFailure::Retry, true) => {}
            (SessionFailure::Gone, _) => return Some(Err(self.ended(error))),
            (SessionFailure::Retry | SessionFailure::Failed, _) => return Some(Err(error)),
        }
        let silent = || backend.unresponsive_since().unwrap_or_else(Instant::now);
        let until = *until.get_or_insert_with(|| silent() + lifetime);
        if Instant::now() >= until || backend.lifecycle() == Lifecycle::Evicted {
            return Some(Err(self.ended(error)));
        }
        tracing::debug!(%error, backend = backend.name(), "connecting again for a known session");
        if let Err(left) = self.pause().await {
            return Some(Err(left));
        }
        self.state.proxy.metrics.retries.inc();
        None
    }

    /// Turns the response of the session's backend into the outcome, even if the session is unknown.
    async fn answered(
        &mut self,
        mut answer: BackendResponse,
    ) -> Result<AttemptOutcome, ProxyError> {
        let unknown = self.is_unknown(&mut answer).await?;
        if unknown {
            self.forget();
        }
        Ok(AttemptOutcome { answer, reserved: None, unknown })
    }

    /// Waits before the next connect. Fails if the client leaves: a client may close its sending
    /// side and still want its response, but not before its request has been sent.
    async fn pause(&mut self) -> Result<(), ProxyError> {
        tokio::select! {
            () = tokio::time::sleep(CONNECT_PAUSE.mul_f64(0.5 + fastrand::f64())) => Ok(()),
            () = self.client.left() => Err(Self::left()),
        }
    }

    fn left() -> ProxyError {
        ProxyError::new(Side::Client, Phase::Select, FailureKind::Incomplete)
    }

    /// Forgets the session and returns the error for the client.
    fn ended(&self, error: ProxyError) -> ProxyError {
        self.forget();
        self.session_gone().with_source(error)
    }
}

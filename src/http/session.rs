//! A request of a session that is known here: to its one backend, whatever that takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request};

use super::{
    attempt::{AttemptOutcome, RequestAttempt},
    body::RequestBody,
    forward::{BackendResponse, ForwardError},
    retry_plan::{RetryPlan, end},
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    observe::ChosenBy,
    upstream::{Backend, Life},
};

/// A poll is held for `pingInterval`; late replies are given this much more.
const POLL_SLACK: Duration = Duration::from_secs(5);

/// Pause between two connects to a known session's node that is out of reach, half of it or half as
/// much again.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// What a failed try means to a known session.
enum SessionFailure {
    /// The session has ended with its node.
    Gone,
    /// Its node could not be reached, and may have it still.
    Waits,
    /// The request has failed.
    Fails,
}

impl SessionFailure {
    fn of(error: &ProxyError) -> Self {
        match (error.side, error.phase, error.kind) {
            // Nobody listens there any more: the process is gone, and its sessions with it.
            (_, Phase::Connect | Phase::Handshake, FailureKind::Refused | FailureKind::Reset) => {
                Self::Gone
            }
            // The node was silent for longer than the session lives.
            (Side::Backend, Phase::ResponseHeader, FailureKind::TimedOut) => Self::Gone,
            (
                _,
                Phase::Connect,
                FailureKind::TimedOut | FailureKind::Io | FailureKind::Exhausted,
            )
            | (_, Phase::Handshake, FailureKind::TimedOut) => Self::Waits,
            _ => Self::Fails,
        }
    }
}

impl RequestAttempt<'_> {
    /// To the one backend that holds the session, whatever its health checks say.
    ///
    /// A node that is hung, slow or out of reach keeps its sessions: their requests wait for as long as
    /// a session lives without being heard. While no connection can be opened nothing has been sent,
    /// and it is tried again and again; what a node has not read is sent again. A session ends if its
    /// node refuses or resets connections, is silent for longer than the session lives, or is removed.
    pub(super) async fn send_to_owner(
        &mut self,
        backend: Arc<Backend>,
        lifetime: Duration,
    ) -> Result<AttemptOutcome, ProxyError> {
        self.set_chosen_by(ChosenBy::Sid);
        self.bound = true;
        let header = self.config().timeouts.response_header.max(lifetime + POLL_SLACK);
        if self.engine.is_some_and(|engine| engine.polling) {
            self.outgoing.keep_copy();
        }
        let mut request = self.outgoing.request();
        let mut until = None;
        loop {
            let failure = match self.send_once(&backend, header, request).await {
                Ok(answer) => return self.answered(answer).await,
                Err(failure) => failure,
            };
            if failure.unread
                && let Some(again) = self.outgoing.again()
            {
                tracing::debug!(error = %failure.error, "a hung node has not read the request");
                self.proxy.metrics.retries.inc();
                // On a new connection, and so once: what is sent on that is not `unread`.
                self.fresh = true;
                request = again;
                continue;
            }
            let ForwardError { error, unsent, .. } = failure;
            // Any node answers a preflight.
            if self.method == Method::OPTIONS && unsent.is_some() {
                return self.send_balanced(RetryPlan::any()).await;
            }
            let unsent = match (SessionFailure::of(&error), unsent) {
                (SessionFailure::Waits, Some(unsent)) => unsent,
                (SessionFailure::Gone, _) => return Err(self.ended(error)),
                (SessionFailure::Waits | SessionFailure::Fails, _) => return Err(error),
            };
            let silent = || backend.silent_since().unwrap_or_else(Instant::now);
            let until = *until.get_or_insert_with(|| silent() + lifetime);
            if Instant::now() >= until || backend.phase() == Life::Gone {
                return Err(self.ended(error));
            }
            tracing::debug!(%error, backend = backend.name(), "connecting again for a known session");
            request = self.pause(*unsent).await?;
            self.proxy.metrics.retries.inc();
        }
    }

    /// The session's backend has answered, if only that it does not know the session.
    async fn answered(&self, mut answer: BackendResponse) -> Result<AttemptOutcome, ProxyError> {
        let (unknown, head) = self.is_unknown(&mut answer).await?;
        if unknown {
            self.forget();
        }
        Ok(AttemptOutcome { answer, head, reserved: None, unknown })
    }

    /// Waits a moment before the next connect. A client that leaves meanwhile ends the wait: it may end
    /// its stream and still want an answer, but not to what has not been sent yet.
    async fn pause(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Request<RequestBody>, ProxyError> {
        tokio::select! {
            () = tokio::time::sleep(CONNECT_PAUSE.mul_f64(0.5 + fastrand::f64())) => Ok(request),
            () = end(self.client_signal) => Err(Self::left()),
            () = request.body_mut().left() => Err(Self::left()),
        }
    }

    fn left() -> ProxyError {
        ProxyError::new(Side::Client, Phase::Select, FailureKind::Incomplete)
    }

    /// The session is gone: it is forgotten, and its client is told.
    fn ended(&self, error: ProxyError) -> ProxyError {
        self.forget();
        self.session_gone().with_source(error)
    }
}

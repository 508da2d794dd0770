//! Owner search: finds the backend of a sid that the table does not have.
//!
//! The request is sent to one backend after the other until a backend does not answer "unknown".
//! That backend is stored only if its response is one that only the owner of the session sends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    affinity::candidates,
    attempt::{AttemptOutcome, RequestAttempt, UNKNOWN_POLL},
    exchange::{BackendResponse, SendError},
    inspect::inspect,
    session_detect::{self, Detection, UnknownSidDetection},
};
use crate::{
    error::{FailureKind, ProxyError, Side},
    observe::ChosenBy,
    sticky::Opener,
    upstream::Backend,
};

/// Lifetime of a session found by a search, whose own lifetime is unknown. Afterwards the session is
/// searched again.
const FOUND_LIFETIME: Duration = UNKNOWN_POLL;

/// Whether the response may say that the session is unknown, by its head.
pub(super) fn is_perhaps_unknown(answer: &BackendResponse) -> bool {
    UnknownSidDetection::of(&answer.head).is_some()
}

impl RequestAttempt<'_, '_> {
    /// Sends the request to the backend that knows the sid.
    pub(super) async fn search_owner(
        &mut self,
        first: Option<Arc<Backend>>,
    ) -> Result<AttemptOutcome, ProxyError> {
        let pause = self.config().timeouts.body_idle;
        self.outgoing.buffer(self.client, pause, &self.state.proxy.search_memory).await?;
        // Clients can invent sids: requests of known sessions must not queue behind such requests.
        self.bound = false;
        let header = self.config().timeouts.response_header;
        let header = if self.is_poll() { header.max(UNKNOWN_POLL) } else { header };
        let mut no_answer = None;
        let mut unknown: Option<AttemptOutcome> = None;
        for backend in candidates(&self.state.pool, first.as_ref(), self.sid().unwrap_or_default())
        {
            let cookie = first.as_ref().is_some_and(|first| Arc::ptr_eq(first, &backend));
            self.set_chosen_by(if cookie { ChosenBy::Cookie } else { ChosenBy::OwnerSearch });
            match self.send_once(&backend, header).await {
                Ok(mut answer) => {
                    let unknown_here = self.is_unknown(&mut answer).await?;
                    let status = answer.head.status;
                    let not_owner = unknown_here || session_detect::is_other_service(status);
                    if !not_owner {
                        self.learn_owner(&backend, &answer);
                    }
                    let reached = AttemptOutcome { answer, reserved: None, unknown: unknown_here };
                    if !not_owner {
                        return Ok(reached);
                    }
                    // The body of the last such response is unread: its connection is closed.
                    unknown = Some(reached);
                }
                Err(SendError { error, .. }) if error.side == Side::Client => return Err(error),
                // A backend that refuses connections has no sessions; a silent one may own this
                // session.
                Err(SendError { error, .. }) if error.kind == FailureKind::Refused => {}
                Err(SendError { error, .. }) => no_answer = Some(error),
            }
        }
        self.state.proxy.metrics.owner_unknown.inc();
        match (no_answer, unknown) {
            (Some(error), _) => Err(error),
            (None, Some(reached)) => Ok(reached),
            (None, None) => Err(self.session_gone()),
        }
    }

    /// Whether the backend says that the session is unknown.
    pub(super) async fn is_unknown(
        &mut self,
        answer: &mut BackendResponse,
    ) -> Result<bool, ProxyError> {
        if !is_perhaps_unknown(answer) {
            return Ok(false);
        }
        let pause = self.config().timeouts.body_idle;
        let inspected =
            inspect(
                answer,
                self.client,
                pause,
                |head, body, complete| match UnknownSidDetection::of(head) {
                    Some(detection) => detection.decide(body, complete),
                    None => Detection::Decided(false),
                },
            );
        let outcome = inspected.await;
        if outcome.is_err() {
            answer.lease.aborted(&self.state.proxy.metrics);
        }
        outcome
    }

    /// Stores the backend of the session if only the owner can have sent this response: a client must not
    /// be able to add invented sids to the table.
    fn learn_owner(&self, backend: &Arc<Backend>, answer: &BackendResponse) {
        let owns =
            session_detect::proves_owner(&answer.head, &self.state.method, self.state.upgrade);
        if let (true, Some(sid)) = (owns, self.sid()) {
            self.state.proxy.metrics.owner_found.inc();
            // The user agent of an upgrade may differ from the handshake's; a poll's does not.
            let client = self.state.client_key.filter(|_| !self.state.upgrade);
            let opener = Opener { key: client, address: Some(self.state.address.ip()) };
            self.state.proxy.sids.learn_from(opener, sid, backend, FOUND_LIFETIME, Instant::now());
        }
    }
}

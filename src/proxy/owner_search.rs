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
    snapshot::SplitTarget,
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

/// What the search in a pool has found.
struct SearchResult {
    /// The owner has answered.
    found: bool,
    /// The owner's response, or the last one that says that the session is unknown.
    answered: Option<AttemptOutcome>,
    /// Why a backend that may be the owner has not answered.
    no_answer: Option<ProxyError>,
}

impl SearchResult {
    /// The result of a search in this pool and then in another one.
    fn or(self, other: Self) -> Self {
        Self {
            found: other.found,
            answered: other.answered.or(self.answered),
            no_answer: other.no_answer.or(self.no_answer),
        }
    }
}

impl RequestAttempt<'_, '_> {
    /// Sends the request to the backend that knows the sid, in the pool of the request or in another one of the split.
    pub(super) async fn search_owner(
        &mut self,
        first: Option<Arc<Backend>>,
        split: Option<&SplitTarget>,
    ) -> Result<AttemptOutcome, ProxyError> {
        let own = Arc::clone(&self.state.pool);
        let mut missing = self.search_pool(first).await?;
        let others = split.into_iter().flat_map(|split| &split.shares);
        for share in others.filter(|share| !Arc::ptr_eq(&share.pool, &own)) {
            if missing.found {
                break;
            }
            self.state.use_share(share);
            let id = self.state.scope.record().id().to_owned();
            let from = self.state.connection_origin(&id);
            let Self { state, outgoing, client, fresh, bound, .. } = self;
            let (state, outgoing, client) = (&mut **state, &mut **outgoing, &mut **client);
            let (fresh, bound) = (*fresh, *bound);
            let mut attempt = RequestAttempt { state, outgoing, client, from: &from, fresh, bound };
            let more = attempt.search_pool(None).await?;
            missing = missing.or(more);
        }
        if !missing.found {
            self.state.proxy.metrics.owner_unknown.inc();
        }
        match missing {
            SearchResult { no_answer: Some(error), found: false, .. } => Err(error),
            SearchResult { answered: Some(reached), .. } => Ok(reached),
            SearchResult { .. } => Err(self.session_gone()),
        }
    }

    /// Asks the backends of the pool.
    async fn search_pool(
        &mut self,
        first: Option<Arc<Backend>>,
    ) -> Result<SearchResult, ProxyError> {
        let pause = self.state.timeouts().body_idle;
        self.outgoing.buffer(self.client, pause, &self.state.proxy.search_memory).await?;
        // Clients can invent sids: requests of known sessions must not queue behind such requests.
        self.bound = false;
        let header = self.state.timeouts().response_header;
        let header = if self.is_poll() { header.max(UNKNOWN_POLL) } else { header };
        let mut missing = SearchResult { found: false, answered: None, no_answer: None };
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
                    } else if !self.outgoing.is_written() {
                        // This may be the response for the client, but the rest of its request is not sent any more.
                        answer.lease.keep = None;
                    }
                    let reached = AttemptOutcome { answer, reserved: None, unknown: unknown_here };
                    // The body of the last such response is unread: its connection is closed.
                    missing.answered = Some(reached);
                    if !not_owner {
                        missing.found = true;
                        return Ok(missing);
                    }
                }
                Err(SendError { error, .. }) if error.side == Side::Client => return Err(error),
                // A backend that refuses connections has no sessions; a silent one may own this
                // session.
                Err(SendError { error, .. }) if error.kind == FailureKind::Refused => {}
                Err(SendError { error, .. }) => missing.no_answer = Some(error),
            }
            // Its rest must not follow on the connection of an earlier backend, whose response the client may get.
            self.outgoing.end_try();
        }
        Ok(missing)
    }

    /// Whether the backend says that the session is unknown.
    pub(super) async fn is_unknown(
        &mut self,
        answer: &mut BackendResponse,
    ) -> Result<bool, ProxyError> {
        if !is_perhaps_unknown(answer) {
            return Ok(false);
        }
        let pause = self.state.timeouts().body_idle;
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

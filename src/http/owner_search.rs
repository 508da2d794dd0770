//! Owner search: finds the backend of a sid that the table does not have.
//!
//! The request is sent to one backend after the other until a backend does not answer "unknown".
//! That backend is stored only if its response is one that only the owner of the session sends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use hyper::body::Incoming;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    attempt::{AttemptOutcome, RequestAttempt, UNKNOWN_POLL},
    forward::{BackendResponse, ForwardError},
    session_detection,
};
use crate::{
    error::{FailureKind, ProxyError, Side},
    observe::ChosenBy,
    snapshot::PoolSnapshot,
    sticky::Opener,
    upstream::Backend,
};

/// Lifetime of a session found by a search, whose own lifetime is unknown. Afterwards the session is
/// searched again.
const FOUND_LIFETIME: Duration = UNKNOWN_POLL;

impl RequestAttempt<'_> {
    /// Sends the request to the backend that knows the sid.
    pub(super) async fn search_owner(
        &mut self,
        first: Option<Arc<Backend>>,
    ) -> Result<AttemptOutcome, ProxyError> {
        self.outgoing.buffer(&self.proxy.search_memory).await?;
        // Clients can invent sids: requests of known sessions must not queue behind such requests.
        self.bound = false;
        let header = self.config().timeouts.response_header;
        let header = if self.is_poll() { header.max(UNKNOWN_POLL) } else { header };
        let mut no_answer = None;
        let mut unknown: Option<AttemptOutcome> = None;
        for backend in candidates(self.pool, first.as_ref(), self.sid().unwrap_or_default()) {
            let cookie = first.as_ref().is_some_and(|first| Arc::ptr_eq(first, &backend));
            self.set_chosen_by(if cookie { ChosenBy::Cookie } else { ChosenBy::OwnerSearch });
            let request = self.outgoing.request();
            match self.send_once(&backend, header, request).await {
                Ok(mut answer) => {
                    let (unknown_here, head) = self.is_unknown(&mut answer).await?;
                    let not_owner = unknown_here || is_other_service(answer.response.status());
                    let reached =
                        AttemptOutcome { answer, head, reserved: None, unknown: unknown_here };
                    if !not_owner {
                        self.learn_owner(&backend, &reached.answer.response);
                        return Ok(reached);
                    }
                    if let Some(AttemptOutcome { answer, .. }) = unknown.replace(reached) {
                        answer.lease.give_back();
                    }
                }
                Err(ForwardError { error, .. }) if error.side == Side::Client => return Err(error),
                // A backend that refuses connections has no sessions; a silent one may own this
                // session.
                Err(ForwardError { error, .. }) if error.kind == FailureKind::Refused => {}
                Err(ForwardError { error, .. }) => no_answer = Some(error),
            }
        }
        self.proxy.metrics.owner_unknown.inc();
        match (no_answer, unknown) {
            (Some(error), _) => Err(error),
            (None, Some(reached)) => Ok(reached),
            (None, None) => Err(self.session_gone()),
        }
    }

    /// Whether the backend says that the session is unknown, and the bytes that were read to find
    /// out.
    pub(super) async fn is_unknown(
        &self,
        answer: &mut BackendResponse,
    ) -> Result<(bool, Option<Bytes>), ProxyError> {
        let pause = self.config().timeouts.body_idle;
        let (unknown, head) = match session_detection::unknown_sid(answer, pause).await {
            Ok(read) => read,
            Err(error) => {
                answer.lease.aborted(&self.proxy.metrics);
                return Err(error);
            }
        };
        Ok((unknown, (!head.is_empty()).then_some(head)))
    }

    /// Stores the backend of the session if only the owner can have sent this response: a client must not
    /// be able to add invented sids to the table.
    fn learn_owner(&self, backend: &Arc<Backend>, response: &Response<Incoming>) {
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let owns = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => self.upgrade,
            // Servers answer a poll with packets and a POST with `ok`.
            StatusCode::OK if self.method == Method::POST => {
                response.headers().get(CONTENT_LENGTH).is_some_and(|length| length == "2")
            }
            StatusCode::OK => !kind.is_some_and(|kind| kind.starts_with(b"text/html")),
            _ => false,
        };
        if let (true, Some(sid)) = (owns, self.sid()) {
            self.proxy.metrics.owner_found.inc();
            // The user agent of an upgrade may differ from the handshake's; a poll's does not.
            let client = self.client_key.filter(|_| !self.upgrade);
            let opener = Opener { key: client, address: Some(self.client) };
            self.proxy.sids.learn_from(opener, sid, backend, FOUND_LIFETIME, Instant::now());
        }
    }
}

/// Returns the backends to ask for an unknown sid: the cookie's first, then the others from a start
/// that depends on the sid. All proxies thus ask in the same order, and the load is spread.
pub(crate) fn candidates(
    pool: &PoolSnapshot,
    first: Option<&Arc<Backend>>,
    sid: &str,
) -> Vec<Arc<Backend>> {
    let others = pool.holders(xxh3_64(sid.as_bytes()) as usize);
    let others = others.filter(|b| first.is_none_or(|first| !Arc::ptr_eq(first, b)));
    let mut candidates: Vec<Arc<Backend>> = Vec::new();
    for backend in first.into_iter().chain(others).filter(|b| b.keeps_sessions()) {
        if candidates.len() >= pool.config().sticky.owner_search {
            break;
        }
        // A renamed backend is listed twice and must be asked once.
        if !candidates.iter().any(|known| known.address() == backend.address()) {
            candidates.push(Arc::clone(backend));
        }
    }
    candidates
}

/// Whether the response comes from something other than a running Engine.IO server, such as a
/// starting backend or another application. It says nothing about the session.
fn is_other_service(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
    )
}

//! From a decision to a backend's answer: tries and retries.
//!
//! The rules that keep sessions alive are here. A request of a session goes to one backend and, once
//! sent, is never sent again; an unknown sid's is the one that is [searched](super::search) for. What is
//! free to go anywhere is tried elsewhere where nothing was sent or nothing can be done twice, within
//! the pool's retry budget.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request};

use super::{
    body::RequestBody,
    decision::{self, Destination},
    forward::{Answer, Failure, Terms, exchange},
    outgoing::Outgoing,
    way::{Way, end},
};
use crate::{
    entry::{Client, Entry},
    error::{Kind, Phase, ProxyError, Side},
    net::{half_close::Patience, proxy_protocol::Introduction},
    observe::ChosenBy,
    proxy::Proxy,
    snapshot::Pool,
    sticky::{Choice, engine_io::Framing, memory::Key},
    upstream::{Backend, Hold},
};

/// Backends tried for a request that is free to go anywhere.
const MAX_TRIES: usize = 3;

/// A poll is held for `pingInterval`; late replies are given this much more.
const POLL_SLACK: Duration = Duration::from_secs(5);

/// Pause between two connects to a known session's node that is out of reach, half of it or half as
/// much again.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// How long a poll may be held whose session's `pingInterval` is not known here.
pub(super) const UNKNOWN_POLL: Duration = Duration::from_secs(300);

/// An Engine.IO request, by its query.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) sid: Option<Box<str>>,
    pub(super) polling: bool,
    pub(super) framing: Framing,
}

/// One request's way to an answer.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) pool: &'a Pool,
    pub(super) outgoing: &'a mut Outgoing,
    pub(super) entry: &'a mut Entry,
    pub(super) method: &'a Method,
    pub(super) engine: Option<&'a Engine>,
    pub(super) upgrade: bool,
    pub(super) client: IpAddr,
    /// Whom the backend is told of, where it is.
    pub(super) from: Introduction,
    /// What the memory of ended sessions calls the client.
    pub(super) known_as: Option<Key>,
    /// Knows when the client has ended its stream.
    pub(super) patience: &'a Patience,
    /// The session is known to be on one backend: no other will do.
    pub(super) bound: bool,
    /// The backend may hold the request for as long as it likes: a long poll other than Engine.IO's.
    pub(super) long_poll: bool,
    /// A kept connection was closed under us: no other kept one is tried.
    pub(super) fresh: bool,
}

/// What a failed try means to a known session.
enum Fate {
    /// The session has ended with its node.
    Gone,
    /// Its node could not be reached, and may have it still.
    Waits,
    /// The request has failed.
    Fails,
}

impl Fate {
    fn of(error: &ProxyError) -> Self {
        match (error.side, error.phase, error.kind) {
            // Nobody listens there any more: the process is gone, and its sessions with it.
            (_, Phase::Connect | Phase::Handshake, Kind::Refused | Kind::Reset) => Self::Gone,
            // The node was silent for longer than the session lives.
            (Side::Backend, Phase::ResponseHeader, Kind::TimedOut) => Self::Gone,
            (_, Phase::Connect, Kind::TimedOut | Kind::Io | Kind::Exhausted)
            | (_, Phase::Handshake, Kind::TimedOut) => Self::Waits,
            _ => Self::Fails,
        }
    }
}

/// A backend's answer and how it was come by.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) answer: Answer,
    /// Read from the body already; comes first in the reply.
    pub(super) head: Option<Bytes>,
    /// Counts the session that this request may open, until it counts itself.
    pub(super) reserved: Option<Hold>,
    /// The backend says that it does not know the session.
    pub(super) unknown: bool,
}

impl Attempt<'_> {
    /// Carries the decision out.
    pub(super) async fn run(&mut self, choice: Choice) -> Result<Reached, ProxyError> {
        match decision::destination(choice, self.method, self.config().sticky.owner_search) {
            Destination::Session(backend, lifetime) => self.session(backend, lifetime).await,
            Destination::Gone => Err(self.gone()),
            Destination::Search(first) => self.search(first).await,
            Destination::Preferred(backend, by) => self.free(Way::to(backend, by)).await,
            Destination::Balanced => self.free(Way::any()).await,
        }
    }

    /// To the one backend that holds the session, whatever its health checks say.
    ///
    /// A node that is hung, slow or out of reach keeps its sessions: their requests wait for as long as
    /// a session lives without being heard. While no connection can be opened nothing has been sent,
    /// and it is tried again and again. A session ends if its node refuses or resets connections, or
    /// is silent for longer than the session lives.
    async fn session(
        &mut self,
        backend: Arc<Backend>,
        lifetime: Duration,
    ) -> Result<Reached, ProxyError> {
        self.chosen(ChosenBy::Sid);
        self.bound = true;
        let header = self.config().timeouts.response_header.max(lifetime + POLL_SLACK);
        let mut request = self.outgoing.request();
        let mut until = None;
        loop {
            let Failure { error, unsent, .. } = match self.once(&backend, header, request).await {
                Ok(answer) => return self.answered(answer).await,
                Err(failure) => failure,
            };
            // Any node answers a preflight.
            if self.method == Method::OPTIONS && unsent.is_some() {
                return self.free(Way::any()).await;
            }
            let unsent = match (Fate::of(&error), unsent) {
                (Fate::Waits, Some(unsent)) => unsent,
                (Fate::Gone, _) => return Err(self.ended(error)),
                (Fate::Waits | Fate::Fails, _) => return Err(error),
            };
            let silent = || backend.silent_since().unwrap_or_else(Instant::now);
            if Instant::now() >= *until.get_or_insert_with(|| silent() + lifetime) {
                return Err(self.ended(error));
            }
            tracing::debug!(%error, backend = backend.name(), "connecting again for a known session");
            request = self.pause(*unsent).await?;
            self.proxy.metrics.retries.inc();
        }
    }

    /// The session's backend has answered, if only that it does not know the session.
    async fn answered(&self, mut answer: Answer) -> Result<Reached, ProxyError> {
        let (unknown, head) = self.unknown(&mut answer).await?;
        if unknown {
            self.forget();
        }
        Ok(Reached { answer, head, reserved: None, unknown })
    }

    /// Waits a moment before the next connect. A client that leaves meanwhile ends the wait: it may end
    /// its stream and still want an answer, but not to what has not been sent yet.
    async fn pause(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Request<RequestBody>, ProxyError> {
        tokio::select! {
            () = tokio::time::sleep(CONNECT_PAUSE.mul_f64(0.5 + fastrand::f64())) => Ok(request),
            () = end(self.patience) => Err(Self::left()),
            () = request.body_mut().left() => Err(Self::left()),
        }
    }

    fn left() -> ProxyError {
        ProxyError::new(Side::Client, Phase::Select, Kind::Incomplete)
    }

    /// The session is gone: it is forgotten, and its client is told.
    fn ended(&self, error: ProxyError) -> ProxyError {
        self.forget();
        self.gone().because(error)
    }

    /// To the backend that the way names, or wherever the balance policy says.
    async fn free(&mut self, mut way: Way) -> Result<Reached, ProxyError> {
        self.bound = false;
        let header = self.config().timeouts.response_header;
        let header = if self.polls() { header.max(UNKNOWN_POLL) } else { header };
        let mut request: Option<Box<Request<RequestBody>>> = None;
        let mut last = None;
        loop {
            self.chosen(way.by);
            let Some(backend) = self.next(&mut way) else {
                return Err(self.nobody(&way, last));
            };
            // From here on it counts, so that who is picked next sees it, waiting or not.
            let reserved = self.opens_session().then(|| backend.hold());
            if !self.admitted(&backend, &mut way).await? {
                continue;
            }
            let sent = request.take().map_or_else(|| self.outgoing.request(), |unsent| *unsent);
            match self.once(&backend, header, sent).await {
                Ok(answer) => return Ok(Reached { answer, head: None, reserved, unknown: false }),
                Err(Failure { kept: true, error, .. }) if self.may_be_stale(&error) => {
                    tracing::debug!(%error, "trying the same backend on a new connection");
                    self.proxy.metrics.retries.inc();
                    self.fresh = true;
                    way.bound = Some(backend);
                }
                Err(Failure { error, unsent, .. }) => {
                    way.leave(backend);
                    if !self.may_retry(&error, unsent.is_some(), way.tries) {
                        return Err(error);
                    }
                    tracing::debug!(%error, "trying another backend");
                    request = unsent;
                    last = Some(error);
                }
            }
        }
    }

    /// One try, with what it tells about the backend's health.
    pub(super) async fn once(
        &mut self,
        backend: &Arc<Backend>,
        header: Duration,
        request: Request<RequestBody>,
    ) -> Result<Answer, Failure> {
        self.recognise(backend);
        self.entry.record().backend = Some(Arc::clone(backend.label()));
        self.entry.enter(Phase::ResponseHeader);
        let config = self.pool.config();
        let terms = Terms {
            backend,
            dial: self.pool.dial(),
            from: &self.from,
            connect: config.timeouts.connect,
            header: match self.long_poll {
                true => config.timeouts.stream_idle,
                false => Some(header),
            },
            body_idle: config.timeouts.body_idle,
            limits: config.response_header,
            keep: config.reuse.idle_timeout,
            progress: self.outgoing.progress(),
            upgrade: self.upgrade,
            once: !self.replayable(),
            fresh: self.fresh,
            bound: self.bound,
        };
        let outcome = exchange(&terms, request).await;
        self.note(backend, &outcome);
        match &outcome {
            Ok(answer) => {
                backend.heard();
                let record = self.entry.record();
                record.first_byte_seen();
                if let Some(time) = answer.connected {
                    record.connect_took(time);
                }
            }
            Err(failure) => self.blame(backend, failure),
        }
        outcome
    }

    /// Counts a failure towards the backend's health.
    fn blame(&self, backend: &Backend, failure: &Failure) {
        let Failure { error, began, .. } = failure;
        match (error.phase, error.kind) {
            (Phase::Connect, Kind::Refused | Kind::Reset | Kind::TimedOut | Kind::Io)
            | (Phase::Handshake, _) => {}
            // A poll that is held for too long says nothing about the backend.
            (Phase::ResponseHeader, Kind::TimedOut) if !self.polls() && !self.long_poll => {}
            _ => return,
        }
        if matches!(error.kind, Kind::TimedOut | Kind::Io) {
            backend.fell_silent(*began);
        }
        self.proxy.mark_failed(backend, &self.config().health, *began);
    }

    /// Counts towards an ejection what the backend is to blame for.
    fn note(&self, backend: &Arc<Backend>, outcome: &Result<Answer, Failure>) {
        let failed = match outcome {
            // An answer counts once its body has come, or has not.
            Ok(answer) => match answer.response.status().as_u16() {
                500 | 502..=504 => {
                    answer.lease.failed();
                    true
                }
                _ => return,
            },
            Err(Failure { error, kept, .. }) => match (error.side, error.phase) {
                (Side::Backend, Phase::Connect | Phase::Handshake) => true,
                // A kept connection may have been closed under us, and a poll is held for as long as
                // its node likes.
                (Side::Backend, Phase::ResponseHeader)
                    if !kept && !self.polls() && !self.long_poll =>
                {
                    true
                }
                (Side::Backend, Phase::RequestBody) => true,
                _ => return,
            },
        };
        self.proxy.note(backend, failed);
    }

    /// Lets the session be remembered on this backend, should its client leave this poll, or the reply
    /// close the session.
    fn recognise(&mut self, backend: &Backend) {
        if let Some(key) = self.known_as.filter(|_| self.polls()) {
            let (memory, backend) = (Arc::clone(&self.proxy.memory), backend.tag());
            let scan = self.engine.map(|engine| engine.framing.reply());
            self.entry.belongs_to(Client { memory, key, backend, scan });
        }
    }

    fn may_retry(&self, error: &ProxyError, unsent: bool, tries: usize) -> bool {
        let elsewhere = match (error.side, error.phase, error.kind) {
            (Side::Client, ..) => false,
            // What one backend could not do in time, the next must not be made to do as well.
            (_, Phase::ResponseHeader, Kind::TimedOut) => false,
            _ => unsent || self.replayable(),
        };
        elsewhere && tries < MAX_TRIES && self.pool.upstream.retry_allowed() && {
            self.proxy.metrics.retries.inc();
            true
        }
    }

    /// Whether a kept connection was closed under us, and the request can be sent once more.
    fn may_be_stale(&self, error: &ProxyError) -> bool {
        let closed = error.side == Side::Backend && error.kind != Kind::TimedOut;
        closed && !self.fresh && self.replayable()
    }

    fn replayable(&self) -> bool {
        let session = self.engine.is_some_and(|engine| engine.sid.is_some());
        !session && !self.upgrade && self.outgoing.replayable()
    }

    fn forget(&self) {
        if let Some(sid) = self.sid() {
            self.proxy.sids.forget(self.pool.upstream.name(), sid);
        }
    }

    pub(super) fn sid(&self) -> Option<&str> {
        self.engine.and_then(|engine| engine.sid.as_deref())
    }

    /// Whether this is a GET that a backend may hold until it has something to say.
    pub(super) fn polls(&self) -> bool {
        let session = self.engine.is_some_and(|engine| engine.polling && engine.sid.is_some());
        session && self.method == Method::GET && !self.upgrade
    }

    fn opens_session(&self) -> bool {
        self.upgrade || self.engine.is_some_and(|engine| engine.sid.is_none())
    }

    pub(super) fn begins_session(&self) -> bool {
        decision::begins_session(self.engine, self.method, self.upgrade)
    }

    pub(super) fn chosen(&mut self, by: ChosenBy) {
        self.entry.record().chosen_by = by;
    }

    pub(super) fn config(&self) -> &crate::config::Pool {
        self.pool.config()
    }

    pub(super) fn gone(&self) -> ProxyError {
        ProxyError::new(Side::Backend, Phase::Select, Kind::SessionGone)
    }
}

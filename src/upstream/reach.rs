//! How a request or a stream gets to a backend: pick, admit, connect, and try another backend after a failure.
//!
//! A [`RetryPlan`] belongs to one HTTP request or one layer 4 stream. It owns which backends are excluded, how many
//! were tried, the admission of the session, and the last failure. The caller takes the steps, and decides what a
//! failed try means: whether the backend may have read something, and whether that can be sent again.
//!
//! Invariants:
//!
//! - A backend that has failed, or has rejected the session, is not picked again. Only
//!   [`again`](RetryPlan::again) returns to a backend.
//! - At most [`MAX_TRIES`] backends are tried. Each try after the first takes one retry from the budget of the pool, and
//!   takes none if no other backend can be tried.
//! - A backend admits a session once. One deadline covers the admission by all backends.
//! - A wait for admission ends when its backend takes no new sessions any more, or when the caller's future resolves.
//!
//! This module does not know HTTP, the client's socket, metrics or the log.

use std::{
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    AdmissionOutcome, AdmissionTurn, Backend, BackendConnector, ConnectError, Pool, source,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
};

/// Maximum number of backends tried.
const MAX_TRIES: u8 = 3;

/// How often a session that waits for admission checks whether its backend still takes new sessions.
const LOOK: Duration = Duration::from_millis(500);

/// Pause before the next connect if descriptors or ports are exhausted.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Whether the caller can use a backend whose connections are all in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// No: a new session does not wait for a connection. It holds none while it waits for admission, so a backend that
    /// is full then has no connection for it, and another backend may have one.
    Skip,
    /// Yes: the caller waits for a connection, and holds it while it waits for admission. The backend may be full
    /// because of the caller's own connection.
    Wait,
}

/// The backends that a request or a stream has been tried on, and the next one.
#[derive(Debug)]
pub struct RetryPlan {
    /// Backend to use next; `None`: the pool picks.
    first: Option<Arc<Backend>>,
    when_full: WhenFull,
    /// Backends that are not picked again.
    excluded: Vec<Arc<Backend>>,
    /// Number of backends tried.
    tries: u8,
    /// Seconds until the first of the backends that have rejected the session would admit it.
    retry_after: Option<u32>,
    /// Serial of the backend that has admitted the session.
    admitted: Option<u64>,
    /// Deadline for admission, over all backends.
    admitted_by: Option<Instant>,
    /// The last failure.
    last: Option<Box<ProxyError>>,
}

/// Outcome of [`RetryPlan::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionWait {
    /// The session may begin.
    Admitted,
    /// Another backend must be picked: this one has rejected the session, or takes no new sessions any more.
    PickAnother,
    /// The caller has ended the wait.
    Cancelled,
}

impl RetryPlan {
    /// Plans for a pool's choice of backends.
    pub fn any(when_full: WhenFull) -> Self {
        Self {
            first: None,
            when_full,
            excluded: Vec::new(),
            tries: 0,
            retry_after: None,
            admitted: None,
            admitted_by: None,
            last: None,
        }
    }

    /// Plans to use `backend` first, whatever the pool would pick.
    pub fn to(backend: Arc<Backend>, when_full: WhenFull) -> Self {
        Self { first: Some(backend), ..Self::any(when_full) }
    }

    /// Uses `backend` once more, in any state. Does not count as another try.
    pub fn again(&mut self, backend: Arc<Backend>) {
        self.first = Some(backend);
    }

    /// Whether the pool picks the next backend.
    pub fn is_balanced(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the next backend for this client; `None` if no other backend has a free connection for a new session.
    pub fn next(&mut self, pool: &Pool, client: IpAddr) -> Option<Arc<Backend>> {
        self.first.take().or_else(|| pool.pick(&source(client), &self.excluded))
    }

    /// Whether `backend` is not picked again.
    pub fn has_excluded(&self, backend: &Arc<Backend>) -> bool {
        self.excluded.iter().any(|other| Arc::ptr_eq(other, backend))
    }

    /// Whether the caller can use `backend` for a new session, at once or after a wait for a connection.
    pub fn can_use(&self, backend: &Backend) -> bool {
        let waits = self.when_full == WhenFull::Wait;
        backend.accepts_new() || (waits && backend.is_only_full())
    }

    /// Waits until `backend` admits the new session. Calls `queued` if the session has to wait; the wait ends when
    /// `leaves` resolves.
    pub async fn admit(
        &mut self,
        pool: &Pool,
        backend: &Arc<Backend>,
        queued: impl FnOnce(),
        leaves: impl Future<Output = ()>,
    ) -> AdmissionWait {
        let terms = pool.config().admission.as_ref();
        let Some(terms) = terms.filter(|_| self.admitted != Some(backend.serial())) else {
            return AdmissionWait::Admitted;
        };
        let until = *self.admitted_by.get_or_insert_with(|| Instant::now() + terms.deadline);
        match backend.admit(terms, until) {
            AdmissionOutcome::Admitted => {}
            AdmissionOutcome::Queued(turn) => {
                queued();
                match self.turn(&turn, backend, leaves).await {
                    AdmissionWait::Admitted => {}
                    other => return other,
                }
            }
            AdmissionOutcome::Rejected(seconds) => {
                let least = self.retry_after.map_or(seconds, |least| least.min(seconds));
                self.retry_after = Some(least);
                self.excluded.push(Arc::clone(backend));
                return AdmissionWait::PickAnother;
            }
        }
        self.admitted = Some(backend.serial());
        AdmissionWait::Admitted
    }

    async fn turn(
        &self,
        turn: &AdmissionTurn<'_>,
        backend: &Backend,
        leaves: impl Future<Output = ()>,
    ) -> AdmissionWait {
        let mut leaves = pin!(leaves);
        loop {
            let left = turn.at().saturating_duration_since(Instant::now());
            tokio::select! {
                () = sleep(left.min(LOOK)) => {}
                () = &mut leaves => return AdmissionWait::Cancelled,
            }
            if !self.can_use(backend) {
                return AdmissionWait::PickAnother;
            }
            if left <= LOOK {
                return AdmissionWait::Admitted;
            }
        }
    }

    /// Records a failed try on `backend`. If another backend can be tried, takes a retry from the budget of the pool.
    ///
    /// # Errors
    /// The failure to report, if no other backend is tried.
    pub fn record_failure(
        &mut self,
        pool: &Pool,
        backend: Arc<Backend>,
        error: ProxyError,
    ) -> Result<(), ProxyError> {
        self.tries += 1;
        self.excluded.push(backend);
        if self.tries >= MAX_TRIES {
            return Err(error);
        }
        let other = |backend: &Arc<Backend>| {
            (self.can_use(backend) || backend.can_stand_in()) && !self.has_excluded(backend)
        };
        if !pool.backends().iter().any(other) {
            return Err(self.not_admitted().unwrap_or(error));
        }
        if !pool.retry_allowed() {
            return Err(error);
        }
        self.last = Some(Box::new(error));
        Ok(())
    }

    /// Explains why [`next`](Self::next) has returned no backend.
    pub fn no_backend_left(&mut self, pool: &Pool) -> ProxyError {
        // If every backend is this process, health checks mark it down as well; report the loop.
        let backends = pool.backends();
        let loops = || !backends.is_empty() && backends.iter().all(|backend| backend.is_loop());
        let (side, kind) = match pool.is_full() {
            true => (Side::Proxy, FailureKind::Saturated),
            false if loops() => (Side::Proxy, FailureKind::Loop),
            false => (Side::Backend, FailureKind::NoBackend),
        };
        self.failure_or(ProxyError::new(side, Phase::Select, kind))
    }

    /// Returns the failure to report when no backend is left: a rejected admission, or the last failed try, or
    /// `otherwise`.
    pub fn failure_or(&mut self, otherwise: ProxyError) -> ProxyError {
        let last = self.last.take().map(|last| *last);
        self.not_admitted().or(last).unwrap_or(otherwise)
    }

    fn not_admitted(&self) -> Option<ProxyError> {
        let error = ProxyError::new(Side::Proxy, Phase::Select, FailureKind::NotAdmitted);
        self.retry_after.map(|seconds| error.with_retry_after(seconds))
    }
}

/// Opens a connection to `backend`. Tries again within `deadline` if descriptors or ports are exhausted.
///
/// # Errors
/// See [`BackendConnector::open`].
pub async fn connect(
    connector: &BackendConnector,
    backend: &Backend,
    from: &ConnectionOrigin,
    deadline: Duration,
) -> Result<BackendStream, ConnectError> {
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match connector.open(backend, from, left).await {
            Err(ConnectError::Exhausted) if left > SHORTAGE_PAUSE => sleep(SHORTAGE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests;

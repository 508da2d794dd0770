//! Where a request that is free to go anywhere goes, and the wait of a new session to be admitted there.

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use super::attempt::Attempt;
use crate::{
    error::{Kind, Phase, ProxyError, Side},
    net::half_close::Patience,
    observe::ChosenBy,
    upstream::{Admitted, Backend, Turn},
};

/// How often one that waits to be admitted looks whether its backend still takes new sessions.
const LOOK: Duration = Duration::from_millis(500);

/// Where a request that is free to go anywhere has been and goes next.
#[derive(Debug)]
pub(super) struct Way {
    /// Goes there first.
    pub(super) bound: Option<Arc<Backend>>,
    /// How the next one is chosen.
    pub(super) by: ChosenBy,
    pub(super) tried: Vec<Arc<Backend>>,
    /// Serial of the backend that has admitted it.
    pub(super) admitted: Option<u64>,
    /// How long it waits to be admitted, at all of them together.
    pub(super) until: Option<Instant>,
}

impl Way {
    pub(super) fn to(backend: Arc<Backend>, by: ChosenBy) -> Self {
        Self { bound: Some(backend), by, ..Self::any() }
    }

    pub(super) fn any() -> Self {
        let by = ChosenBy::Balance;
        Self { bound: None, by, tried: Vec::new(), admitted: None, until: None }
    }

    /// Does not go there again.
    pub(super) fn leave(&mut self, backend: Arc<Backend>) {
        self.tried.push(backend);
        self.by = ChosenBy::Balance;
    }
}

impl Attempt<'_> {
    /// Waits until the backend admits the new session, where this is one. False where another is to be
    /// picked: it takes no new ones any more, or admits none and was only preferred.
    pub(super) async fn admitted(
        &self,
        backend: &Arc<Backend>,
        way: &mut Way,
    ) -> Result<bool, ProxyError> {
        let terms = self.config().admission.as_ref().filter(|_| self.begins_session());
        let Some(terms) = terms.filter(|_| way.admitted != Some(backend.serial())) else {
            return Ok(true);
        };
        let until = *way.until.get_or_insert_with(|| Instant::now() + terms.deadline);
        match backend.admit(terms, until) {
            Admitted::Now => {}
            Admitted::Then(turn) => {
                self.proxy.metrics.admission_queued.inc();
                match wait(&turn, backend, self.patience).await {
                    Waited::Its => {}
                    Waited::Elsewhere => {
                        way.by = ChosenBy::Balance;
                        return Ok(false);
                    }
                    Waited::Left => {
                        let left = ProxyError::new(Side::Client, Phase::Select, Kind::Incomplete);
                        return Err(left);
                    }
                }
            }
            Admitted::No(_) if way.by != ChosenBy::Balance => {
                way.leave(Arc::clone(backend));
                return Ok(false);
            }
            Admitted::No(seconds) => {
                self.proxy.metrics.admission_refused.inc();
                let refused = ProxyError::new(Side::Proxy, Phase::Select, Kind::NotAdmitted);
                return Err(refused.after(seconds));
            }
        }
        way.admitted = Some(backend.serial());
        Ok(true)
    }
}

/// How a wait for a turn ended.
enum Waited {
    /// It has come.
    Its,
    /// The backend takes no new sessions any more.
    Elsewhere,
    /// The client has gone.
    Left,
}

async fn wait(turn: &Turn<'_>, backend: &Backend, patience: &Patience) -> Waited {
    loop {
        let left = turn.at().saturating_duration_since(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            // A client may end its stream and still want its answer, but not one that has yet to speak.
            () = end(patience) => return Waited::Left,
        }
        if !backend.takes_new() {
            return Waited::Elsewhere;
        }
        if left <= LOOK {
            return Waited::Its;
        }
    }
}

async fn end(patience: &Patience) {
    poll_fn(|cx| {
        if patience.ended() {
            return Poll::Ready(());
        }
        patience.wake_at_end(cx);
        Poll::Pending
    })
    .await;
}

//! The predecessors of this process: what they report, and the directives that are sent to them.

use std::{collections::HashMap, future::pending};

use tokio::sync::watch;

use super::{
    BackendDirective, BackendIdentity, HeldTunnels, PredecessorState, message::FromNew,
    wire::ChannelSender,
};
use crate::{api::Predecessor, upstream::Backend};

/// The processes that this one has taken over from and that still have connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Predecessors {
    report: watch::Sender<PredecessorReport>,
    /// The directives for the tunnels of the predecessors.
    directives: watch::Sender<Vec<BackendDirective>>,
}

/// The last report of the predecessors.
#[derive(Clone, Debug, Default)]
struct PredecessorReport {
    /// Whether the process that handed over to this one still runs.
    alive: bool,
    list: Vec<Predecessor>,
    /// Open tunnels by backend; `None`: not reported yet.
    tunnels: Option<HashMap<BackendIdentity, u64>>,
}

impl Predecessors {
    /// Returns the predecessors in the last report.
    pub fn list(&self) -> Vec<Predecessor> {
        self.report.borrow().list.clone()
    }

    /// Number of open tunnels to a backend in the predecessors, as far as reported.
    pub fn tunnels_of(&self, backend: &Backend) -> u64 {
        let report = self.report.borrow();
        let Some(tunnels) = &report.tunnels else { return 0 };
        tunnels.get(&BackendIdentity::of(backend)).copied().unwrap_or(0)
    }

    /// Number of open tunnels in the predecessors, as far as reported.
    pub fn tunnels(&self) -> u64 {
        self.report.borrow().tunnels.iter().flat_map(HashMap::values).sum()
    }

    /// Whether the predecessors have tunnels to a backend, or have not reported yet.
    pub fn may_hold(&self, backend: &Backend) -> bool {
        let report = self.report.borrow();
        match &report.tunnels {
            None => report.alive,
            Some(tunnels) => tunnels.contains_key(&BackendIdentity::of(backend)),
        }
    }

    /// Number of open tunnels in the predecessors by backend; `None`: not reported yet.
    pub fn held_tunnels(&self) -> Option<HashMap<BackendIdentity, u64>> {
        let report = self.report.borrow();
        match report.alive {
            true => report.tunnels.clone(),
            false => Some(HashMap::new()),
        }
    }

    /// Resolves when all predecessors have ended. Cancel-safe.
    pub async fn ended(&self) {
        // The sender is in `self`, so that this cannot fail.
        let _ = self.report.subscribe().wait_for(|report| !report.alive).await;
    }

    /// Sends the predecessors the directives for their tunnels, in place of the last ones.
    pub fn send(&self, directives: Vec<BackendDirective>) {
        self.directives.send_if_modified(|current| {
            let changed = *current != directives;
            *current = directives;
            changed
        });
    }

    /// Records that there is a predecessor, which has not reported yet.
    pub fn begin(&self) {
        self.report.send_replace(PredecessorReport { alive: true, ..PredecessorReport::default() });
    }

    /// Stores a report.
    pub(super) fn set(&self, PredecessorState { processes, tunnels }: PredecessorState) {
        let by_backend = |list: Vec<HeldTunnels>| {
            list.into_iter().map(|HeldTunnels { backend, tunnels }| (backend, tunnels)).collect()
        };
        let tunnels = tunnels.map(by_backend);
        self.report.send_replace(PredecessorReport { alive: true, list: processes, tunnels });
    }

    /// Records that all predecessors have ended.
    pub(super) fn end(&self) {
        self.report.send_replace(PredecessorReport::default());
    }

    /// Forwards directives to the old process, beginning with the current ones; never ends.
    pub(super) async fn forward(&self, sender: ChannelSender) {
        let mut directives = self.directives.subscribe();
        directives.mark_changed();
        while directives.changed().await.is_ok() {
            let current = directives.borrow_and_update().clone();
            if sender.send(&FromNew::Directives(current)).await.is_err() {
                // The old process is ending. The receiver of its messages notices that too.
                break;
            }
        }
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn backend(name: &str) -> std::sync::Arc<Backend> {
        let address = config::Address { host: "127.0.0.1".to_owned(), port: 80 };
        let known =
            config::BackendConfig { name: name.to_owned(), address, weight: 1, backup: false };
        Backend::new("chat", &known, &config::Reuse::default())
    }

    #[tokio::test]
    async fn predecessors_may_hold_tunnels_until_they_have_reported() {
        let (one, other, predecessors) =
            (backend("one"), backend("other"), Predecessors::default());
        assert!(
            !predecessors.may_hold(&one) && predecessors.held_tunnels().is_some(),
            "there is no predecessor"
        );
        predecessors.begin();
        assert!(predecessors.may_hold(&one) && predecessors.held_tunnels().is_none());
        let tunnels = vec![HeldTunnels { backend: BackendIdentity::of(&one), tunnels: 3 }];
        predecessors.set(PredecessorState { processes: Vec::new(), tunnels: Some(tunnels) });
        assert!(predecessors.may_hold(&one) && !predecessors.may_hold(&other));
        assert_eq!((predecessors.tunnels_of(&one), predecessors.tunnels_of(&other)), (3, 0));
        assert_eq!(predecessors.tunnels(), 3);
        // A predecessor of the predecessor has not reported.
        predecessors.set(PredecessorState { processes: Vec::new(), tunnels: None });
        assert!(predecessors.may_hold(&other) && predecessors.held_tunnels().is_none());
        predecessors.end();
        assert!(!predecessors.may_hold(&one) && predecessors.held_tunnels().is_some());
    }
}

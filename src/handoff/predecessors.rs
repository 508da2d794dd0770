//! The processes before this one: what was heard of them, and what they are told to do.

use std::{collections::HashMap, future::pending};

use tokio::sync::watch;

use super::{
    BackendDirective, BackendIdentity, HeldTunnels, PredecessorState, message::FromNew,
    wire::ChannelSender,
};
use crate::{api::Predecessor, upstream::Backend};

/// The processes that this one has taken over from and that still hold connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Predecessors {
    heard: watch::Sender<PredecessorReport>,
    /// What is to become of the backends' tunnels there.
    directives: watch::Sender<Vec<BackendDirective>>,
}

/// What was heard of them.
#[derive(Clone, Debug, Default)]
struct PredecessorReport {
    /// The one that handed over to this process lives.
    alive: bool,
    list: Vec<Predecessor>,
    /// Open tunnels by backend; `None`: nobody has said yet.
    tunnels: Option<HashMap<BackendIdentity, u64>>,
}

impl Predecessors {
    /// As they were last heard of.
    pub fn list(&self) -> Vec<Predecessor> {
        self.heard.borrow().list.clone()
    }

    /// Open tunnels of a backend there, as far as is known.
    pub fn tunnels_of(&self, backend: &Backend) -> u64 {
        let heard = self.heard.borrow();
        let Some(tunnels) = &heard.tunnels else { return 0 };
        tunnels.get(&BackendIdentity::of(backend)).copied().unwrap_or(0)
    }

    /// Open tunnels there, as far as is known.
    pub fn tunnels(&self) -> u64 {
        self.heard.borrow().tunnels.iter().flat_map(HashMap::values).sum()
    }

    /// Whether they may hold tunnels of a backend: they do, or have not said yet.
    pub fn may_hold(&self, backend: &Backend) -> bool {
        let heard = self.heard.borrow();
        match &heard.tunnels {
            None => heard.alive,
            Some(tunnels) => tunnels.contains_key(&BackendIdentity::of(backend)),
        }
    }

    /// All that they hold; `None`: they have not said yet.
    pub fn holdings(&self) -> Option<HashMap<BackendIdentity, u64>> {
        let heard = self.heard.borrow();
        match heard.alive {
            true => heard.tunnels.clone(),
            false => Some(HashMap::new()),
        }
    }

    /// Resolves when all of them have ended. Cancel-safe.
    pub async fn gone(&self) {
        // An error would mean that nobody can tell any more.
        let _ = self.heard.subscribe().wait_for(|heard| !heard.alive).await;
    }

    /// Tells them what is to become of the backends' tunnels; each such word takes the place of the
    /// one before.
    pub fn order(&self, directives: Vec<BackendDirective>) {
        self.directives.send_if_modified(|told| {
            let new = *told != directives;
            *told = directives;
            new
        });
    }

    /// There is one; nothing was heard of it yet.
    pub fn begin(&self) {
        self.heard.send_replace(PredecessorReport { alive: true, ..PredecessorReport::default() });
    }

    pub(super) fn set(&self, PredecessorState { processes, tunnels }: PredecessorState) {
        let by_backend = |list: Vec<HeldTunnels>| {
            list.into_iter().map(|HeldTunnels { backend, tunnels }| (backend, tunnels)).collect()
        };
        let tunnels = tunnels.map(by_backend);
        self.heard.send_replace(PredecessorReport { alive: true, list: processes, tunnels });
    }

    pub(super) fn end(&self) {
        self.heard.send_replace(PredecessorReport::default());
    }

    /// Passes orders on, the newest first of all; never ends.
    pub(super) async fn pass_on(&self, sender: ChannelSender) {
        let mut directives = self.directives.subscribe();
        directives.mark_changed();
        while directives.changed().await.is_ok() {
            let newest = directives.borrow_and_update().clone();
            if sender.send(&FromNew::Directives(newest)).await.is_err() {
                // It is ending; whoever listens hears that.
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
        let known = config::BackendConfig { name: name.to_owned(), address, weight: 1 };
        Backend::new("chat", &known, &config::Reuse::default())
    }

    #[tokio::test]
    async fn what_was_not_said_may_be_anything() {
        let (one, other, before) = (backend("one"), backend("other"), Predecessors::default());
        assert!(!before.may_hold(&one) && before.holdings().is_some(), "there is nobody");
        before.begin();
        assert!(before.may_hold(&one) && before.holdings().is_none());
        let tunnels = vec![HeldTunnels { backend: BackendIdentity::of(&one), tunnels: 3 }];
        before.set(PredecessorState { processes: Vec::new(), tunnels: Some(tunnels) });
        assert!(before.may_hold(&one) && !before.may_hold(&other));
        assert_eq!((before.tunnels_of(&one), before.tunnels_of(&other)), (3, 0));
        assert_eq!(before.tunnels(), 3);
        // One further back has not said.
        before.set(PredecessorState { processes: Vec::new(), tunnels: None });
        assert!(before.may_hold(&other) && before.holdings().is_none());
        before.end();
        assert!(!before.may_hold(&one) && before.holdings().is_some());
    }
}

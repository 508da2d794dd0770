//! One backend, several processes: after an upgrade the old ones still hold tunnels of it. What becomes
//! of those is said by the newest process, in which operators and files are heard.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{ControlTask, drain::DrainEnd};
use crate::{
    config::DrainConfig,
    handoff::{
        BackendDirective, BackendIdentity, DrainDirective, DrainUntil, HeldTunnels, Predecessors,
    },
    shared::SharedState,
    upstream::{Backend, Lifecycle},
};

impl ControlTask {
    /// Tells the processes before this one what becomes of the backends.
    pub(super) fn tell_before(&self) {
        let directives = self.backends.iter().map(|backend| BackendDirective {
            backend: BackendIdentity::of(backend),
            directive: self.drains.directive(backend),
        });
        self.handoff.predecessors.order(directives.collect());
    }

    /// Does with the tunnels here as the newest process says, and so do those before this one. Backends
    /// that it does not name it does not know: they go on as they were.
    pub(super) async fn follow(&mut self, directives: Vec<BackendDirective>) {
        let by_backend: HashMap<_, _> =
            directives.iter().map(|directive| (&directive.backend, directive.directive)).collect();
        for backend in
            self.backends.iter().filter(|backend| backend.lifecycle() != Lifecycle::Evicted)
        {
            let Some(directive) = by_backend.get(&BackendIdentity::of(backend)) else { continue };
            // What drained to its end here does so by the newest process's terms now.
            self.drains.cancel(backend.serial(), DrainEnd::Goes).await;
            match directive {
                DrainDirective::Serve => {
                    self.drains.cancel(backend.serial(), DrainEnd::Stays).await;
                    backend.set_lifecycle(Lifecycle::Serving);
                }
                DrainDirective::Drain(until) => {
                    let terms = until.map(remaining);
                    self.drains.start(backend, &self.proxy, terms, DrainEnd::Stays);
                }
            }
        }
        self.handoff.predecessors.order(directives);
    }
}

/// What is left of a drain that has begun.
fn remaining(until: DrainUntil) -> DrainConfig {
    let within = until.deadline.saturating_duration_since(Instant::now());
    DrainConfig { within, spread: until.spread.min(within) }
}

/// What this process and those before it hold of each backend, where that is anything; `None`: one of
/// those has not said yet.
pub(super) fn holdings(
    backends: &[Arc<Backend>],
    proxy: &SharedState,
    before: &Predecessors,
) -> Option<Vec<HeldTunnels>> {
    let mut all = before.holdings()?;
    for backend in backends {
        let tunnels = proxy.tunnels.of(backend.serial()) as u64;
        if tunnels > 0 {
            *all.entry(BackendIdentity::of(backend)).or_default() += tunnels;
        }
    }
    Some(all.into_iter().map(|(backend, tunnels)| HeldTunnels { backend, tunnels }).collect())
}

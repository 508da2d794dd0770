//! Tunnels in the predecessors: after an upgrade, the old processes still have tunnels to the backends.
//!
//! The newest process reads the configuration and gets the commands of operators. It sends the
//! predecessors what to do with these tunnels.

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
    /// Sends the predecessors what to do with their tunnels to each backend.
    pub(super) fn send_directives(&self) {
        let directives = self.backends.iter().map(|backend| BackendDirective {
            backend: BackendIdentity::of(backend),
            directive: self.drains.directive(backend),
        });
        self.handoff.predecessors.send(directives.collect());
    }

    /// Applies the directives of the newest process to the tunnels here, and sends them on to the
    /// predecessors. Backends without a directive are not known to the newest process and stay as they are.
    pub(super) async fn apply_directives(&mut self, directives: Vec<BackendDirective>) {
        let by_backend: HashMap<_, _> =
            directives.iter().map(|directive| (&directive.backend, directive.directive)).collect();
        for backend in
            self.backends.iter().filter(|backend| backend.lifecycle() != Lifecycle::Evicted)
        {
            let Some(directive) = by_backend.get(&BackendIdentity::of(backend)) else { continue };
            // A drain of this process is replaced by that of the newest process.
            self.drains.cancel(backend.serial(), DrainEnd::Remove).await;
            match directive {
                DrainDirective::Serve => {
                    self.drains.cancel(backend.serial(), DrainEnd::Stay).await;
                    backend.set_lifecycle(Lifecycle::Serving);
                }
                DrainDirective::Drain(until) => {
                    let config = until.map(remaining);
                    self.drains.start(backend, &self.proxy, config, DrainEnd::Stay);
                }
            }
        }
        self.handoff.predecessors.send(directives);
    }
}

/// Returns the settings for the rest of a drain.
fn remaining(until: DrainUntil) -> DrainConfig {
    let within = until.deadline.saturating_duration_since(Instant::now());
    DrainConfig { within, spread: until.spread.min(within) }
}

/// Returns the open tunnels of this process and its predecessors by backend; `None`: a predecessor has not
/// reported yet.
pub(super) fn held_tunnels(
    backends: &[Arc<Backend>],
    proxy: &SharedState,
    predecessors: &Predecessors,
) -> Option<Vec<HeldTunnels>> {
    let mut all = predecessors.held_tunnels()?;
    for backend in backends {
        let tunnels = proxy.tunnels.of(backend.serial()) as u64;
        if tunnels > 0 {
            *all.entry(BackendIdentity::of(backend)).or_default() += tunnels;
        }
    }
    Some(all.into_iter().map(|(backend, tunnels)| HeldTunnels { backend, tunnels }).collect())
}

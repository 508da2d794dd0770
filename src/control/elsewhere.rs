//! One backend, several processes: after an upgrade the old ones still hold tunnels of it. What becomes
//! of those is said by the newest process, in which operators and files are heard.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Control, drain::End};
use crate::{
    config::Drain,
    handoff::{Course, Fate, Holding, Identity, Predecessors, Until},
    shared::Proxy,
    upstream::{Backend, Life},
};

impl Control {
    /// Tells the processes before this one what becomes of the backends.
    pub(super) fn tell_before(&self) {
        let fates = self.backends.iter().map(|backend| Fate {
            backend: Identity::of(backend),
            course: self.drains.course(backend),
        });
        self.handover.predecessors.order(fates.collect());
    }

    /// Does with the tunnels here as the newest process says, and so do those before this one. Backends
    /// that it does not name it does not know: they go on as they were.
    pub(super) async fn follow(&mut self, fates: Vec<Fate>) {
        let courses: HashMap<_, _> =
            fates.iter().map(|fate| (&fate.backend, fate.course)).collect();
        for backend in self.backends.iter().filter(|backend| backend.phase() != Life::Gone) {
            let Some(course) = courses.get(&Identity::of(backend)) else { continue };
            // What drained to its end here does so by the newest process's terms now.
            self.drains.cancel(backend.serial(), End::Goes).await;
            match course {
                Course::Serves => {
                    self.drains.cancel(backend.serial(), End::Stays).await;
                    backend.set_life(Life::Serving);
                }
                Course::Drains(until) => {
                    let terms = until.map(remaining);
                    self.drains.start(backend, &self.proxy, terms, End::Stays);
                }
            }
        }
        self.handover.predecessors.order(fates);
    }
}

/// What is left of a drain that has begun.
fn remaining(until: Until) -> Drain {
    let within = until.deadline.saturating_duration_since(Instant::now());
    Drain { within, spread: until.spread.min(within) }
}

/// What this process and those before it hold of each backend, where that is anything; `None`: one of
/// those has not said yet.
pub(super) fn holdings(
    backends: &[Arc<Backend>],
    proxy: &Proxy,
    before: &Predecessors,
) -> Option<Vec<Holding>> {
    let mut all = before.holdings()?;
    for backend in backends {
        let tunnels = proxy.tunnels.of(backend.serial()) as u64;
        if tunnels > 0 {
            *all.entry(Identity::of(backend)).or_default() += tunnels;
        }
    }
    Some(all.into_iter().map(|(backend, tunnels)| Holding { backend, tunnels }).collect())
}

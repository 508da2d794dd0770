//! Backends that the configuration no longer has, until they have gone.
//!
//! A removed backend drains by the terms of its pool. If the configuration has its address elsewhere, in
//! another pool or under another name, its sessions go on: nothing is closed. The terms count from the
//! moment at which the address leaves too.

use std::sync::Arc;

use super::{ControlTask, plan};
use crate::{
    config::{self, Config},
    upstream::Backend,
};

impl ControlTask {
    /// Drains the backends that the configuration no longer has; they go after that.
    pub(super) fn drain_others(&mut self, config: &Config) -> usize {
        let mut removed = 0;
        for backend in &self.backends {
            if has(config, backend) {
                continue;
            }
            let Some(terms) = self.terms_of(backend) else { continue };
            let goes_on_as = plan::elsewhere(backend.address(), config);
            removed += usize::from(self.drains.leave(backend, &self.proxy, terms, goes_on_as));
        }
        removed
    }

    /// The terms by which a backend drains once its address has left the configuration.
    pub(super) fn terms_of(&self, backend: &Backend) -> Option<config::DrainConfig> {
        let mut pools = self.config.pools.iter().chain(&self.removed_pools);
        pools.find(|pool| pool.name == backend.pool()).map(|pool| pool.drain)
    }

    /// Backends of pools that a configuration does not have.
    pub(super) fn backends_without_pool(&self, config: &Config) -> Vec<Arc<Backend>> {
        let has_pool =
            |backend: &&Arc<Backend>| config.pools.iter().any(|pool| pool.name == backend.pool());
        self.backends.iter().filter(|backend| !has_pool(backend)).cloned().collect()
    }

    /// Keeps what the next configuration has no more, as far as there are backends of it.
    pub(super) fn keep_left(&mut self, next: &Config) {
        self.removed_pools.extend(self.config.pools.iter().cloned());
        self.removed_pools.retain(|pool| {
            let has_backends = self.backends.iter().any(|backend| backend.pool() == pool.name);
            has_backends && !next.pools.iter().any(|other| other.name == pool.name)
        });
    }

    /// Takes backends that have gone out of the books.
    pub(super) fn forget_gone(&mut self) {
        for serial in self.drains.finished() {
            self.backends.retain(|backend| backend.serial() != serial);
            self.probes.remove(&serial);
        }
        self.removed_pools
            .retain(|pool| self.backends.iter().any(|backend| backend.pool() == pool.name));
    }
}

/// Whether a configuration has this backend.
pub(super) fn has(config: &Config, backend: &Backend) -> bool {
    let mut pools = config.pools.iter().filter(|pool| pool.name == backend.pool());
    pools.any(|pool| pool.backends.iter().any(|wanted| backend.is(&pool.name, wanted)))
}

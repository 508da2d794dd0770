//! Backends that have left the configuration, until they are removed.
//!
//! They drain with the `drain` settings of their pool. If the configuration has the address in
//! another pool or under another name, its sessions continue and nothing is closed. The deadline then counts
//! from the time when the address has left too.

use std::sync::Arc;

use super::{ControlTask, plan};
use crate::{
    config::{self, Config},
    upstream::Backend,
};

impl ControlTask {
    /// Drains the backends that `config` does not have; returns how many drains begin.
    pub(super) fn drain_removed(&mut self, config: &Config) -> usize {
        let mut removed = 0;
        for backend in &self.backends {
            if has(config, backend) {
                continue;
            }
            let Some(drain) = self.drain_config(backend) else { continue };
            let continues_as = plan::backend_at(backend.address(), config);
            removed += usize::from(self.drains.leave(backend, &self.proxy, drain, continues_as));
        }
        removed
    }

    /// Returns the `drain` settings of a backend's pool.
    pub(super) fn drain_config(&self, backend: &Backend) -> Option<config::DrainConfig> {
        let mut pools = self.config.pools.iter().chain(&self.removed_pools);
        pools.find(|pool| pool.name == backend.pool()).map(|pool| pool.drain)
    }

    /// Returns the backends whose pool `config` does not have.
    pub(super) fn backends_without_pool(&self, config: &Config) -> Vec<Arc<Backend>> {
        let has_pool =
            |backend: &&Arc<Backend>| config.pools.iter().any(|pool| pool.name == backend.pool());
        self.backends.iter().filter(|backend| !has_pool(backend)).cloned().collect()
    }

    /// Keeps the pools that the next configuration does not have, while they have backends.
    pub(super) fn keep_removed_pools(&mut self, next: &Config) {
        self.removed_pools.extend(self.config.pools.iter().cloned());
        self.removed_pools.retain(|pool| {
            let has_backends = self.backends.iter().any(|backend| backend.pool() == pool.name);
            has_backends && !next.pools.iter().any(|other| other.name == pool.name)
        });
    }

    /// Forgets the backends whose drain has ended, and pools without backends.
    pub(super) fn forget_removed(&mut self) {
        for serial in self.drains.take_removed() {
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

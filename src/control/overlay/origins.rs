//! Which layer named each live backend: the file, the pool's source, or a command.
//!
//! A removed backend keeps its origin until it is gone, after the layer that named it has forgotten it.

use std::collections::HashMap;

use super::Overlay;
use crate::{
    api::BackendOrigin,
    config::{self, Address, Config},
    upstream,
};

/// Origins by pool, name and address.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(pub(super) HashMap<(String, String, String), BackendOrigin>);

impl Overlay {
    /// Returns the layer that named a live backend; if several do, the first one.
    pub(in crate::control) fn origin(
        &self,
        pool: &str,
        name: &str,
        address: &Address,
    ) -> BackendOrigin {
        let key = (pool.to_owned(), name.to_owned(), address.to_string());
        self.origins.0.get(&key).copied().unwrap_or(BackendOrigin::Configured)
    }

    /// Updates the origins of the live backends. Backends that no layer names any more keep theirs.
    pub(in crate::control) fn update_origins<'b>(
        &mut self,
        file_config: &Config,
        live: impl Iterator<Item = &'b upstream::Backend>,
    ) {
        let before = std::mem::take(&mut self.origins.0);
        for backend in live {
            let (pool, name) = (backend.pool().to_owned(), backend.name().to_owned());
            let key = (pool, name, backend.address().to_string());
            let origin = self.named_by(file_config, backend).or_else(|| before.get(&key).copied());
            self.origins.0.extend(origin.map(|origin| (key, origin)));
        }
    }

    fn named_by(&self, file_config: &Config, backend: &upstream::Backend) -> Option<BackendOrigin> {
        let has =
            |list: &[config::BackendConfig]| list.iter().any(|b| backend.is(backend.pool(), b));
        let pool = file_config.pools.iter().find(|pool| pool.name == backend.pool())?;
        let discovered = self.discovered.get(&pool.name).filter(|_| pool.source.is_some());
        if has(&pool.backends) {
            Some(BackendOrigin::Configured)
        } else if discovered.is_some_and(|known| has(&known.backends)) {
            Some(BackendOrigin::Discovered)
        } else {
            self.added.get(&pool.name).filter(|added| has(added)).map(|_| BackendOrigin::Added)
        }
    }
}

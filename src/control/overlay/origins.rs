//! Who named each live backend: the file, the pool's source, or an order.
//!
//! A backend keeps its origin while it leaves, after the layer that named it has forgotten it.

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
    /// Who named a live backend; the first layer that names it as it is in force.
    pub(in crate::control) fn origin(
        &self,
        pool: &str,
        name: &str,
        address: &Address,
    ) -> BackendOrigin {
        let key = (pool.to_owned(), name.to_owned(), address.to_string());
        self.origins.0.get(&key).copied().unwrap_or(BackendOrigin::Configured)
    }

    /// Notes who names each live backend where `file_config` is what the file says. Backends that nobody
    /// names any more keep their origin.
    pub(in crate::control) fn note_origins<'b>(
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
        let found = self.found.get(&pool.name).filter(|_| pool.source.is_some());
        if has(&pool.backends) {
            Some(BackendOrigin::Configured)
        } else if found.is_some_and(|found| has(&found.backends)) {
            Some(BackendOrigin::Discovered)
        } else {
            self.added.get(&pool.name).filter(|added| has(added)).map(|_| BackendOrigin::Added)
        }
    }
}

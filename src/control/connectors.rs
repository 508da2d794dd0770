//! Connectors of the pools: how their backends are reached. Unchanged connectors are reused.

use std::sync::Arc;

use rustls::RootCertStore;

use super::{ControlTask, apply::ApplyError};
use crate::{
    config::{self, BackendTls, Config},
    net::tls_client,
    snapshot::Snapshot,
    upstream::{Backend, BackendConnector},
};

impl ControlTask {
    /// Returns a connector for each pool, in the order of the configuration. A connector whose settings
    /// have not changed is reused, with its TLS sessions. `roots`: the system's root certificates, if they
    /// were read.
    ///
    /// # Errors
    /// rustls rejects a certificate, or the system has no root certificates.
    pub(super) fn connectors(
        current: &Snapshot,
        config: &Config,
        roots: Option<Arc<RootCertStore>>,
    ) -> Result<Vec<Arc<BackendConnector>>, ApplyError> {
        let roots = match roots {
            Some(roots) => Some(roots),
            None => system_roots(current, config)?,
        };
        let connectors = config.pools.iter().map(|pool| match unchanged(current, pool) {
            Some(connector) => Ok(Arc::clone(connector)),
            None => Ok(Arc::new(BackendConnector::new(pool, roots.as_ref())?)),
        });
        connectors.collect()
    }

    /// Makes `connector` the only one for the backends of a pool.
    pub(super) fn use_connector(
        before: &Snapshot,
        pool: &config::PoolConfig,
        connector: &BackendConnector,
        backends: &[Arc<Backend>],
    ) {
        connector.retain(backends);
        let same = |live: &BackendConnector| live.serial() == connector.serial();
        if before.pool(&pool.name).is_some_and(|live| !same(live.connector())) {
            // Idle connections were opened with the old settings.
            backends.iter().for_each(|backend| backend.idle().clear());
        }
    }
}

/// Returns the connector of a pool whose settings have not changed.
fn unchanged<'s>(
    current: &'s Snapshot,
    pool: &config::PoolConfig,
) -> Option<&'s Arc<BackendConnector>> {
    let live = current.pool(&pool.name)?;
    let known = live.config();
    let same = known.tls == pool.tls && known.proxy_protocol == pool.proxy_protocol;
    same.then(|| live.connector())
}

/// Reads the system's root certificates, if the new connector of a pool uses them. Blocks.
pub(super) fn system_roots(
    current: &Snapshot,
    config: &Config,
) -> Result<Option<Arc<RootCertStore>>, ApplyError> {
    let uses =
        |pool: &&config::PoolConfig| pool.tls.as_ref().is_some_and(BackendTls::uses_system_roots);
    if !config.pools.iter().filter(uses).any(|pool| unchanged(current, pool).is_none()) {
        return Ok(None);
    }
    Ok(Some(Arc::new(tls_client::system_roots()?)))
}

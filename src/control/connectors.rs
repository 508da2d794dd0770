//! Connectors of the pools: how their backends are reached. Unchanged connectors are reused.

use std::sync::Arc;

use rustls::RootCertStore;
use tokio::task::spawn_blocking;

use super::{ControlTask, apply::ApplyError};
use crate::{
    config::{self, BackendTls, Config},
    net::tls_client,
    snapshot::Snapshot,
    upstream::{Backend, BackendConnector},
};

impl ControlTask {
    /// Returns a connector for each pool, in the order of the configuration. A connector whose settings
    /// have not changed is reused, with its TLS sessions.
    ///
    /// # Errors
    /// rustls rejects a certificate, or the system has no root certificates.
    pub(super) async fn connectors(
        current: Arc<Snapshot>,
        config: &Config,
    ) -> Result<Vec<Arc<BackendConnector>>, ApplyError> {
        let same = |pool: &config::PoolConfig| {
            let live = current.pool(&pool.name)?;
            let known = live.config();
            let same = known.tls == pool.tls && known.proxy_protocol == pool.proxy_protocol;
            same.then(|| Arc::clone(live.connector()))
        };
        let new: Vec<_> = config.pools.iter().filter(|pool| same(pool).is_none()).collect();
        let system = system_roots(&new).await?;
        let connectors = config.pools.iter().map(|pool| match same(pool) {
            Some(connector) => Ok(connector),
            None => Ok(Arc::new(BackendConnector::new(pool, system.as_ref())?)),
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

/// Reads the system's root certificates once, if any of these pools uses them.
async fn system_roots(
    pools: &[&config::PoolConfig],
) -> Result<Option<Arc<RootCertStore>>, ApplyError> {
    let uses =
        |pool: &&config::PoolConfig| pool.tls.as_ref().is_some_and(BackendTls::uses_system_roots);
    if !pools.iter().any(uses) {
        return Ok(None);
    }
    let read = spawn_blocking(tls_client::system_roots).await;
    let roots = read.map_err(|error| rustls::Error::General(error.to_string()))??;
    Ok(Some(Arc::new(roots)))
}

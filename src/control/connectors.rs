//! How the backends of each pool are reached, from one configuration to the next.

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
    /// One for each pool, in the order of the configuration. Those of pools that are reached as before are
    /// carried over, with what they remember.
    ///
    /// # Errors
    /// Certificates that rustls refuses, or a system that trusts nobody.
    pub(super) async fn connectors(
        current: Arc<Snapshot>,
        config: &Config,
    ) -> Result<Vec<Arc<BackendConnector>>, ApplyError> {
        let same = |pool: &config::PoolConfig| {
            let live = current.pool(&pool.name)?;
            let terms = live.config();
            let same = terms.tls == pool.tls && terms.proxy_protocol == pool.proxy_protocol;
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

    /// Lets the backends of a pool be reached by `connector` alone from here on.
    pub(super) fn settle(
        before: &Snapshot,
        pool: &config::PoolConfig,
        connector: &BackendConnector,
        backends: &[Arc<Backend>],
    ) {
        connector.retain(backends);
        let same = |live: &BackendConnector| live.serial() == connector.serial();
        if before.pool(&pool.name).is_some_and(|live| !same(live.connector())) {
            // What was opened by other terms is not to serve by these.
            backends.iter().for_each(|backend| backend.idle().clear());
        }
    }
}

/// Whom the system trusts, where any of these pools asks for that; read once for all of them.
async fn system_roots(
    pools: &[&config::PoolConfig],
) -> Result<Option<Arc<RootCertStore>>, ApplyError> {
    let asks =
        |pool: &&config::PoolConfig| pool.tls.as_ref().is_some_and(BackendTls::uses_system_roots);
    if !pools.iter().any(asks) {
        return Ok(None);
    }
    let read = spawn_blocking(tls_client::system_roots).await;
    let roots = read.map_err(|error| rustls::Error::General(error.to_string()))??;
    Ok(Some(Arc::new(roots)))
}

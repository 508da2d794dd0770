//! How the backends of each pool are reached, from one configuration to the next.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{Control, apply::Refused};
use crate::{
    config::{self, Config},
    snapshot::Snapshot,
    upstream::{Backend, Dial},
};

impl Control {
    /// One for each pool, in the order of the configuration. Those of pools that are reached as before are
    /// carried over, with what they remember.
    ///
    /// # Errors
    /// Certificates that rustls refuses, or a system that trusts nobody.
    pub(super) async fn dials(
        current: Arc<Snapshot>,
        config: &Config,
    ) -> Result<Vec<Arc<Dial>>, Refused> {
        let mut dials = Vec::with_capacity(config.pools.len());
        for pool in &config.pools {
            let same = current.pool(&pool.name).filter(|live| {
                let live = live.config();
                live.tls == pool.tls && live.proxy_protocol == pool.proxy_protocol
            });
            dials.push(match same {
                Some(live) => Arc::clone(live.dial()),
                None => Arc::new(dial(pool).await?),
            });
        }
        Ok(dials)
    }

    /// Lets the backends of a pool be reached by `dial` alone from here on.
    pub(super) fn settle(
        before: &Snapshot,
        pool: &config::Pool,
        dial: &Dial,
        backends: &[Arc<Backend>],
    ) {
        dial.keep(backends);
        let same = |live: &Dial| live.serial() == dial.serial();
        if before.pool(&pool.name).is_some_and(|live| !same(live.dial())) {
            // What was opened by other terms is not to serve by these.
            backends.iter().for_each(|backend| backend.idle().clear());
        }
    }

    /// Says of which pools the backends are believed whatever they show, where that was not so before.
    pub(super) fn warn_of_strangers(&self, config: &Config) {
        let before = self.proxy.snapshot.load();
        let believes = |pool: &config::Pool| pool.tls.as_ref().is_some_and(|tls| !tls.verify);
        for pool in config.pools.iter().filter(|pool| believes(pool)) {
            if !before.pool(&pool.name).is_some_and(|live| believes(live.config())) {
                tracing::warn!(
                    pool = pool.name,
                    "`tls.verify` is off: anybody can stand in for the backends of this pool"
                );
            }
        }
    }
}

/// The system's certificates are read from files.
async fn dial(pool: &config::Pool) -> Result<Dial, Refused> {
    if !pool.tls.as_ref().is_some_and(|tls| tls.verify && tls.ca.is_none()) {
        return Ok(Dial::new(pool)?);
    }
    let pool = pool.clone();
    let made = spawn_blocking(move || Dial::new(&pool)).await;
    Ok(made.map_err(|error| rustls::Error::General(error.to_string()))??)
}

//! What a configuration needs before it is applied and what may take long to get: addresses of names, stored
//! certificates, the system's root certificates, the access log.
//!
//! [`ResourceLoader`] gets them outside of the control task, which stays free for commands and signals.

use std::{collections::HashSet, io, sync::Arc};

use rustls::RootCertStore;
use tokio::task::spawn_blocking;

use super::{ControlTask, apply::ApplyError, connectors, resolve::ResolvedNames};
use crate::{
    acme::{ManagedCertificate, ManagedCertificates},
    config::{AccessLogConfig, Address, Config},
    observe::{AccessLog, metrics::Counter},
    snapshot::Snapshot,
};

/// What a configuration needs. What is missing is made when the configuration is applied.
#[derive(Default)]
pub(super) struct Resources {
    /// Addresses of the names of new backends.
    pub(super) names: ResolvedNames,
    /// Certificates that ACME manages, with their stored files.
    pub(super) issued: Vec<Arc<ManagedCertificate>>,
    /// The system's root certificates, if a new connector uses them.
    pub(super) roots: Option<Arc<RootCertStore>>,
    /// The access log, if its settings change.
    pub(super) log: Option<AccessLog>,
}

/// Gets what a configuration needs in addition to what the process has already.
pub(super) struct ResourceLoader {
    /// Addresses of the live backends.
    live: HashSet<Address>,
    issued: Vec<Arc<ManagedCertificate>>,
    snapshot: Arc<Snapshot>,
    /// The settings of the current access log.
    log: AccessLogConfig,
    dropped: Counter,
}

impl ControlTask {
    /// Returns a loader that knows what the process has now.
    pub(super) fn resource_loader(&self) -> ResourceLoader {
        ResourceLoader {
            live: self.backends.iter().map(|backend| backend.address().clone()).collect(),
            issued: self.acme.members(),
            snapshot: self.proxy.snapshot.load_full(),
            log: self.config.access_log.clone(),
            dropped: self.proxy.metrics.access_log_dropped.clone(),
        }
    }
}

impl ResourceLoader {
    /// Gets what `config` needs.
    ///
    /// # Errors
    /// The access log cannot be opened, or the system has no root certificates.
    pub(super) async fn load(self, config: &Config) -> Result<Resources, ApplyError> {
        let Self { live, issued, snapshot, log, dropped } = self;
        let backends = config.pools.iter().flat_map(|pool| &pool.backends);
        let new = backends.map(|backend| &backend.address).filter(|new| !live.contains(new));
        let names = ResolvedNames::look_up(new.cloned());
        let config = config.clone();
        let blocking = move || {
            let terms = config.listeners.iter().filter_map(|listener| listener.protocol.acme());
            let issued = ManagedCertificates::load(&issued, terms);
            let roots = connectors::system_roots(&snapshot, &config)?;
            let log = match config.access_log == log {
                true => None,
                false => Some(AccessLog::open(&config.access_log, dropped)?),
            };
            Ok(Resources { names: ResolvedNames::default(), issued, roots, log })
        };
        let (names, rest) = tokio::join!(names, spawn_blocking(blocking));
        let rest: Result<Resources, ApplyError> = rest.map_err(io::Error::other)?;
        Ok(Resources { names, ..rest? })
    }
}

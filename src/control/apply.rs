//! Applies a planned configuration with one swap of the snapshot, or changes nothing.
//!
//! Two steps: [`prepare`](ControlTask::prepare) does everything that can fail, and
//! [`commit`](ControlTask::commit) cannot fail. What takes long was done before, outside of the control task
//! ([`Resources`]). Backends, pools and TLS configurations that do not change
//! are reused, with their health, counters, sessions and tunnels. An equal configuration changes nothing.

pub(super) mod error;
mod pools;

use std::{collections::HashMap, fmt, sync::Arc};

pub(crate) use self::error::ApplyError;
use self::pools::Members;
use super::{
    ControlTask, drain::DrainEnd, health::Probing, listeners::BoundSockets, plan::PlannedConfig,
    resolve::ResolvedNames, resources::Resources, warnings,
};
use crate::{
    acme::{ManagedCertificate, ManagedCertificates},
    config::{Config, ListenerProtocol},
    observe::AccessLog,
    snapshot::ListenerSnapshot,
    sticky::CookieKeys,
    upstream::{Backend, BackendConnector, Lifecycle},
};

/// What applying a configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Number of new backends.
    pub added: usize,
    /// Number of backends that were removed and drain now.
    pub removed: usize,
    /// Whether anything changed, backends included.
    pub other: bool,
}

/// A configuration whose sockets, keys and files are ready.
struct PreparedConfig {
    config: Config,
    bound: BoundSockets,
    issued: Vec<Arc<ManagedCertificate>>,
    /// A connector for each pool, in the order of the configuration.
    connectors: Vec<Arc<BackendConnector>>,
    /// The new access log, if its settings have changed.
    log: Option<AccessLog>,
    listeners: HashMap<Arc<str>, Arc<ListenerSnapshot>>,
    names: ResolvedNames,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} backends added, {} removed", self.added, self.removed)
    }
}

impl ControlTask {
    /// Applies a planned configuration with its resources, or changes nothing.
    ///
    /// # Errors
    /// As for `new`, and if a new certificate is not valid now.
    pub(super) async fn apply(
        &mut self,
        planned: PlannedConfig,
        resources: Resources,
    ) -> Result<Changes, ApplyError> {
        let PlannedConfig { file_config, overlay, config, plan: _ } = planned;
        let changes = match config == self.config {
            true => Changes::default(),
            false => {
                let prepared = self.prepare(config, resources)?;
                self.commit(prepared).await
            }
        };
        self.file_config = file_config;
        self.overlay = overlay;
        let live = self.backends.iter().map(AsRef::as_ref);
        self.overlay.update_origins(&self.file_config, live);
        self.discovery.follow(&self.file_config.pools, |pool| self.overlay.last_good(pool));
        self.apply_drains().await;
        Ok(changes)
    }

    /// Does everything that can fail. On an error nothing has changed.
    fn prepare(
        &mut self,
        config: Config,
        resources: Resources,
    ) -> Result<PreparedConfig, ApplyError> {
        let Resources { names, issued, roots, log } = resources;
        let bound = self.listeners.bind(&config.listeners)?;
        warnings::check_certificates(&config, &self.config)?;
        let acme = config.listeners.iter().filter_map(|listener| listener.protocol.acme());
        let known = [self.acme.members(), issued].concat();
        let issued = ManagedCertificates::load(&known, acme);
        let connectors = Self::connectors(&self.proxy.snapshot.load(), &config, roots)?;
        let log = match (config.access_log == self.config.access_log, log) {
            (true, _) => None,
            (false, Some(log)) => Some(log),
            (false, None) => {
                let dropped = self.proxy.metrics.access_log_dropped.clone();
                Some(AccessLog::open(&config.access_log, dropped)?)
            }
        };
        // After the other steps: this may create a key log file, or restrict access to an existing one.
        let listeners = self.listener_snapshots(&config, &issued)?;
        // Last: this takes effect at once.
        self.tickets.exchange(&config.ticket_keys)?;
        Ok(PreparedConfig { config, bound, issued, connectors, log, listeners, names })
    }

    /// Swaps the snapshot and starts or ends what depends on it. Cannot fail.
    async fn commit(&mut self, prepared: PreparedConfig) -> Changes {
        let PreparedConfig { config, bound, issued, connectors, log, listeners, names } = prepared;
        warnings::log(&config, &self.config);
        let new_keys = config.cookie_keys != self.config.cookie_keys;
        if new_keys {
            self.keys = CookieKeys::new(&config.cookie_keys);
        }
        let own = config.listeners.iter().flat_map(|listener| listener.bind.iter().copied());
        let current = self.addresses().into_iter().map(|(_, own)| own);
        self.resolver.set_own_addresses(own.chain(current).collect());
        let (members, added) = self.members_of(&config);
        self.resolver.resolve_new(&added, &names);
        self.restore(&members).await;
        let pools = self.pools_of(&config, &members, &connectors, new_keys);
        let snapshot = self.snapshot_of(&config, pools, listeners);
        self.proxy.snapshot.store(Arc::new(snapshot));
        self.proxy.sids.resize(&config.sessions).await;
        self.proxy.limits.change(config.limits.connections, config.limits.handshakes);
        if let Some(log) = log {
            self.replace_log(log);
        }
        let removed = self.drain_removed(&config);
        self.keep_removed_pools(&config);
        self.backends.extend(added.iter().cloned());
        self.probe(&added);
        let has_http = config.listeners.iter().any(|l| l.protocol == ListenerProtocol::Http);
        self.acme.replace(issued, has_http);
        self.listeners.replace(&config.listeners, bound, &self.proxy);
        let own = self.listeners.addresses(&config.listeners).into_iter().map(|(_, own)| own);
        self.resolver.set_own_addresses(own.collect());
        self.config = config;
        self.upkeep.hasten();
        Changes { added: added.len(), removed, other: true }
    }

    /// Ends the drains of removed backends that the configuration has again.
    async fn restore(&mut self, members: &Members) {
        for backend in members.values() {
            if self.drains.cancel(backend.serial(), DrainEnd::Remove).await {
                backend.set_lifecycle(Lifecycle::Serving);
            }
        }
    }

    /// Starts probes of new backends, and restarts probes whose settings have changed.
    fn probe(&mut self, added: &[Arc<Backend>]) {
        let snapshot = self.proxy.snapshot.load_full();
        for backend in &self.backends {
            let Some(pool) = snapshot.pool(backend.pool()) else { continue };
            let (health, connector) = (&pool.config().health, pool.connector());
            let serial = backend.serial();
            if self.probes.get(&serial).is_some_and(|probe| probe.uses(health, connector)) {
                continue;
            }
            let new = added.iter().any(|added| added.serial() == serial);
            // Dropping the old probe ends it.
            self.probes.insert(serial, Probing::start(backend, connector, health, new));
        }
    }
}

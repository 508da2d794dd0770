//! The control task at start: everything that outlives a configuration, then the first configuration.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    ControlTask, apply::ApplyError, discovery::Discovery, drain::Drains, handoff::HandoffState,
    heap::HeapRelease, listeners::Listeners, on_down::OnDown, overlay::Overlay,
    rebalance::Rebalancer, reload::Reloads, report::StartTime, resolve::NameResolver,
    upkeep::Upkeep,
};
use crate::{
    acme::ManagedCertificates,
    config::{self, Config},
    gateway::{AuthState, CacheStore},
    handoff::Inheritance,
    net::{client_limits::ClientLimits, tls::TicketKeys},
    observe::{AccessLog, Metrics, Redaction},
    route,
    shared::SharedState,
    snapshot::{Current, Snapshot},
    sticky::{CookieKeys, RecentSessions, SessionTable},
    systemd::Notifier,
};

/// Memory in KiB for request bodies that wait for owner searches, for the whole process.
const SEARCH_MEMORY: usize = 256 * 1024;

/// Memory in KiB for bodies that are changed as a whole, for the whole process.
const BODY_MEMORY: usize = 256 * 1024;

impl ControlTask {
    /// Applies the first configuration. Connections are accepted from here on, or from
    /// [`open`](Self::open) on if this process takes over from another one. `workers` run them.
    ///
    /// # Errors
    /// An address is not available, the access log cannot be opened, or rustls rejects a certificate.
    pub(crate) async fn new(
        config: Config,
        from: Inheritance,
        workers: Handle,
    ) -> Result<Self, ApplyError> {
        let keys = CookieKeys::adopt(&config.cookie_keys, from.secrets.cookie());
        let tickets = TicketKeys::new(&config.ticket_keys, from.secrets.tickets())?;
        let proxy = shared_state(&config)?;
        // Nothing runs yet. Only listeners and pools are compared with the first configuration.
        let nothing = Config { listeners: Vec::new(), pools: Vec::new(), ..config.clone() };
        let handoff = HandoffState::default();
        let acme =
            ManagedCertificates::new(Arc::clone(&proxy.challenges), Arc::clone(&proxy.metrics));
        let mut control = Self {
            proxy,
            file_config: nothing.clone(),
            config: nothing,
            removed_pools: Vec::new(),
            overlay: Self::inherited_overlay(from.values),
            discovery: Discovery::new(config.admin.clone()),
            resolver: NameResolver::new(config.admin.clone()),
            file: None,
            watcher: None,
            started: StartTime::now(),
            reload: None,
            reloads: Reloads::default(),
            upkeep: Upkeep::new(),
            heap: HeapRelease::default(),
            keys,
            tickets,
            listeners: Listeners::new(from.sockets, from.takes_over, workers),
            backends: Self::restore_backends(&from.backends, &config),
            probes: HashMap::new(),
            drains: Drains::new(handoff.predecessors.clone()),
            rebalance: Rebalancer::default(),
            on_down: OnDown::default(),
            handoff,
            acme,
            old_logs: Vec::new(),
            shutting_down: false,
            notifier: Notifier::new(from.takes_over),
        };
        // Inherited backends that this configuration does not have drain like removed backends.
        if !control.backends.is_empty() {
            control.config.pools.clone_from(&config.pools);
        }
        control.apply_first(config).await?;
        Ok(control)
    }

    /// Applies the first configuration with the first answers of its sources.
    async fn apply_first(&mut self, config: Config) -> Result<(), ApplyError> {
        self.overlay.prune(&config);
        let overlay = self.discover(&config).await;
        self.file_config = config;
        let planned = self.plan_overlay(overlay);
        let resources = self.resource_loader().load(&planned.config).await?;
        self.apply(planned, resources).await?;
        self.listeners.close_unclaimed();
        Ok(())
    }

    /// Starts to accept connections, if that was held back.
    pub(crate) fn open(&mut self) {
        self.listeners.open(&self.proxy);
    }

    /// State that the control task shares with the data path.
    pub(crate) fn proxy(&self) -> &Arc<SharedState> {
        &self.proxy
    }

    /// Returns the bound addresses, by listener name.
    pub(crate) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.addresses(&self.config.listeners)
    }

    /// Returns the overlay with the first answers of the pools' sources.
    async fn discover(&self, config: &Config) -> Overlay {
        let mut overlay = self.overlay.clone();
        let first = self.discovery.first(&config.pools, |pool| self.overlay.last_good(pool)).await;
        for (pool, outcome) in first {
            overlay.record_answer(pool, outcome);
        }
        overlay
    }
}

/// Shared state with a snapshot that has no listener and no pool.
fn shared_state(config: &Config) -> Result<Arc<SharedState>, ApplyError> {
    let metrics = Arc::new(Metrics::new());
    let log = AccessLog::open(&config.access_log, metrics.access_log_dropped.clone())?;
    let empty = Snapshot {
        routes: route::Routes::new(&[]),
        pools: Vec::new(),
        removed: Vec::new(),
        listeners: HashMap::new(),
        trusted: Vec::new(),
        redaction: Redaction::default(),
        forwarded_always: false,
        logins: false,
        error_pages: None,
        sends_proxy_headers: false,
    };
    let config::ProcessLimits { connections, handshakes } = config.limits;
    Ok(Arc::new(SharedState {
        snapshot: Current::from_pointee(empty),
        sids: SessionTable::new(&config.sessions),
        memory: RecentSessions::new(),
        tunnels: Arc::default(),
        cache: ArcSwap::from_pointee(CacheStore::new(&config.cache, metrics.cache.clone())),
        auth: AuthState::default(),
        limits: ClientLimits::new(connections, handshakes, metrics.client_limits.clone()),
        metrics,
        log: Arc::new(ArcSwap::from_pointee(log)),
        search_memory: Arc::new(Semaphore::new(SEARCH_MEMORY)),
        body_memory: Arc::new(Semaphore::new(BODY_MEMORY)),
        challenges: Arc::default(),
        limiters: Default::default(),
        engine_paths: Default::default(),
        not_ready: AtomicBool::new(false),
    }))
}

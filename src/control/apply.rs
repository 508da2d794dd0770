//! From a checked configuration to one swap.
//!
//! Backends, pools and TLS configurations that do not change are carried over as they are, so that
//! health, counters, stickiness and tunnels do not notice; an equivalent configuration changes
//! nothing at all.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::{
    ControlTask,
    discovery::Discovery,
    drain::{DrainEnd, Drains},
    handoff::HandoffState,
    health::Probing,
    listeners::Listeners,
    on_down::OnDown,
    overlay::Overlay,
    rebalance::Rebalancer,
    report::StartTime,
    resolve::NameResolver,
    warnings,
};
use crate::{
    acme::ManagedCertificates,
    config::{self, Config, ListenerProtocol, SharedKeys},
    handoff::Inheritance,
    net::tls::{self, TicketKeys},
    observe::{AccessLog, Metrics, Redaction, RouteLabel},
    route,
    shared::SharedState,
    snapshot::{self, Current, Snapshot},
    sticky::{CookieKeys, RecentSessions, SessionTable},
    systemd::Notifier,
    upstream::{self, Backend, BackendConnector, Lifecycle},
};

/// Why a configuration that is right in itself could not be put in force.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// An address could not be listened on, or the access log not be opened.
    Io(io::Error),
    /// TLS cannot be served or spoken as it is set.
    Tls(tls::TerminatorError),
    /// A certificate that would take the place of another is not valid now; the sentence says which.
    Lapsed(String),
}

/// KiB of bodies that may wait in memory for an owner search to end.
const SEARCH_MEMORY: usize = 256 * 1024;

/// Backends by the names of their pool and their own.
type Members = HashMap<(String, String), Arc<Backend>>;

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Backends that are new.
    pub added: usize,
    /// Backends that take no new session any more.
    pub removed: usize,
    /// Anything else changed.
    pub other: bool,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Lapsed(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ApplyError {}

impl From<io::Error> for ApplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for ApplyError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}

impl From<tls::TerminatorError> for ApplyError {
    fn from(error: tls::TerminatorError) -> Self {
        Self::Tls(error)
    }
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
    /// Binds and builds everything for the first configuration; connections are accepted from here on,
    /// unless what it begins with holds that back until [`open`](Self::open).
    ///
    /// # Errors
    /// An address that cannot be listened on, an access log that cannot be opened, a certificate that
    /// rustls refuses.
    pub(crate) async fn new(config: Config, from: Inheritance) -> Result<Self, ApplyError> {
        let keys = CookieKeys::adopt(&config.cookie_keys, from.secrets.cookie());
        let tickets = TicketKeys::new(&config.ticket_keys, from.secrets.tickets())?;
        let metrics = Arc::new(Metrics::new());
        let log = AccessLog::open(&config.access_log, metrics.access_log_dropped.clone())?;
        let empty = Snapshot {
            routes: route::Routes::new(&[]),
            pools: Vec::new(),
            left: Vec::new(),
            listeners: HashMap::new(),
            trusted: Vec::new(),
            redaction: Redaction::default(),
            forwarded_always: false,
            error_pages: None,
            introduces: false,
        };
        let proxy = Arc::new(SharedState {
            snapshot: Current::from_pointee(empty),
            sids: SessionTable::new(&config.sessions),
            memory: RecentSessions::new(),
            tunnels: Arc::default(),
            metrics,
            log: Arc::new(ArcSwap::from_pointee(log)),
            search_memory: Arc::new(Semaphore::new(SEARCH_MEMORY)),
            challenges: Arc::default(),
            not_ready: AtomicBool::new(false),
        });
        // In force is nothing yet but what is never compared.
        let nothing = Config { listeners: Vec::new(), pools: Vec::new(), ..config.clone() };
        let handoff = HandoffState::default();
        let orders =
            ManagedCertificates::new(Arc::clone(&proxy.challenges), Arc::clone(&proxy.metrics));
        let mut control = Self {
            proxy,
            file_config: nothing.clone(),
            config: nothing,
            removed_pools: Vec::new(),
            overlay: Overlay::default(),
            discovery: Discovery::new(config.admin.clone()),
            resolver: NameResolver::new(config.admin.clone()),
            file: None,
            watcher: None,
            since: StartTime::now(),
            reload: None,
            keys,
            tickets,
            listeners: Listeners::new(from.sockets, from.takes_over),
            backends: Self::restore_backends(&from.backends, &config),
            probes: HashMap::new(),
            drains: Drains::new(handoff.predecessors.clone()),
            rebalance: Rebalancer::default(),
            on_down: OnDown::default(),
            handoff,
            acme: orders,
            shutting_down: false,
            notifier: Notifier::new(from.takes_over),
        };
        // Backends that lived in another process and are wanted no more leave as if they had left this
        // one's configuration.
        if !control.backends.is_empty() {
            control.config.pools.clone_from(&config.pools);
        }
        let mut overlay = Self::inherited_overlay(from.values);
        overlay.settle(&config);
        let first = control.discovery.first(&config.pools, |pool| overlay.last_good(pool)).await;
        for (pool, outcome) in first {
            overlay.found(pool, outcome);
        }
        control.compose(config, overlay).await?;
        control.listeners.close_given();
        Ok(control)
    }

    /// Begins to accept, where that was held back.
    pub(crate) fn open(&mut self) {
        self.listeners.open(&self.proxy);
    }

    /// Puts what a new file says in force, in one swap, or changes nothing. Orders that have no place
    /// in it any more are forgotten.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) async fn apply(&mut self, file_config: Config) -> Result<Changes, ApplyError> {
        let mut overlay = self.overlay.clone();
        overlay.settle(&file_config);
        self.compose(file_config, overlay).await
    }

    /// Puts a file's configuration in force with these layers upon it, or changes nothing.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(super) async fn compose(
        &mut self,
        file_config: Config,
        overlay: Overlay,
    ) -> Result<Changes, ApplyError> {
        let config = overlay.over(&file_config);
        let changes = match config == self.config {
            true => Changes::default(),
            false => self.put_in_force(config).await?,
        };
        self.file_config = file_config;
        self.overlay = overlay;
        let live = self.backends.iter().map(AsRef::as_ref);
        self.overlay.note_origins(&self.file_config, live);
        self.discovery.follow(&self.file_config.pools, |pool| self.overlay.last_good(pool));
        self.apply_drains().await;
        Ok(changes)
    }

    async fn put_in_force(&mut self, config: Config) -> Result<Changes, ApplyError> {
        // Everything that can fail, first.
        let bound = self.listeners.bind(&config.listeners)?;
        warnings::certificates(&config, &self.config)?;
        let terms = config.listeners.iter().filter_map(|listener| listener.protocol.acme());
        let issued = self.acme.prepare(terms).await?;
        let connectors = Self::connectors(self.proxy.snapshot.load_full(), &config).await?;
        let log = if config.access_log == self.config.access_log {
            None
        } else {
            let dropped = self.proxy.metrics.access_log_dropped.clone();
            Some(AccessLog::open(&config.access_log, dropped)?)
        };
        // Last: it may make a file, and close one that was there to others.
        let listeners = self.policies(&config, &issued)?;
        self.tickets.exchange(&config.ticket_keys)?;
        self.warn(&config);
        warnings::of_listeners(&config, &self.config);
        let new_keys = config.cookie_keys != self.config.cookie_keys;
        if new_keys {
            self.keys = CookieKeys::new(&config.cookie_keys);
        }
        let own = config.listeners.iter().flat_map(|listener| listener.bind.iter().copied());
        self.resolver
            .listens(own.chain(self.addresses().into_iter().map(|(_, own)| own)).collect());
        let (members, added) = self.members_of(&config);
        self.resolver.first(&added).await;
        // From here on nothing fails.
        self.stay(&members).await;
        let pools = self.pools_of(&config, &members, &connectors, new_keys);
        let routes = config.routes.iter().filter_map(|rule| {
            let pool = pools.iter().find(|pool| pool.upstream.name() == rule.pool)?;
            let route_label = RouteLabel {
                route: Some(rule.to_string().into()),
                pool: rule.pool.as_str().into(),
            };
            let config::RouteConfig { host, path, listeners, pool: _, error_pages } = rule.clone();
            let error_pages = match (error_pages, &config.error_pages) {
                (Some(own), Some(top)) => Some(Arc::new(own.or(top))),
                (own, top) => own.or_else(|| top.clone()),
            };
            let pool = Arc::clone(pool);
            let target =
                snapshot::RouteTarget { route_label: Arc::new(route_label), pool, error_pages };
            Some(route::RouteRule { listeners, host, path, target })
        });
        let snapshot = Snapshot {
            routes: route::Routes::new(&routes.collect::<Vec<_>>()),
            pools: pools.clone(),
            left: self.backends_without_pool(&config),
            listeners,
            trusted: config.trusted_proxies.clone(),
            redaction: Redaction::new(config.redact.iter().map(String::as_str)),
            forwarded_always: config.forwarded == config::Forwarded::Always,
            error_pages: config.error_pages.clone(),
            introduces: pools.iter().any(|pool| !pool.connector().is_shared()),
        };
        self.proxy.snapshot.store(Arc::new(snapshot));
        self.proxy.sids.resize(&config.sessions);
        if let Some(log) = log {
            self.proxy.log.store(Arc::new(log));
        }
        let removed = self.drain_removed(&config);
        self.keep_removed_pools(&config);
        self.backends.extend(added.iter().cloned());
        self.probe(&added);
        self.acme
            .replace(issued, config.listeners.iter().any(|l| l.protocol == ListenerProtocol::Http));
        self.listeners.settle(&config.listeners, bound, &self.proxy);
        let own = self.listeners.addresses(&config.listeners).into_iter().map(|(_, own)| own);
        self.resolver.listens(own.collect());
        let added = added.len();
        self.config = config;
        Ok(Changes { added, removed, other: true })
    }

    /// What is accepted but will surprise.
    fn warn(&self, config: &Config) {
        // With one backend a cookie decides nothing.
        let chooses = |pool: &config::PoolConfig| pool.source.is_some() || pool.backends.len() > 1;
        let cookies = |config: &Config| {
            let mut pools = config.pools.iter();
            config.cookie_keys == SharedKeys::Made
                && pools.any(|pool| {
                    let routed = config.routes.iter().any(|route| route.pool == pool.name);
                    routed && pool.sticky.cookie.is_some() && chooses(pool)
                })
        };
        if cookies(config) && !cookies(&self.config) {
            tracing::info!(
                "no cookie_key set; using a random key that is lost on restart and not shared with other \
                 proxies"
            );
        }
        let warnings = |config: &Config| {
            let machine = config::warnings::Environment::here(config.places.file(), &[]);
            config::warnings::all(config, &machine)
        };
        let before = warnings(&self.config);
        // An edit elsewhere moves a line and makes no new warning.
        let known =
            |new: &config::warnings::Warning| before.iter().any(|b| b.message == new.message);
        for warning in warnings(config).iter().filter(|warning| !known(warning)) {
            tracing::warn!("{warning}");
        }
        if config.admin != self.config.admin {
            tracing::warn!("changes to `admin` take effect after an upgrade or a restart");
        }
    }

    /// The backends of `config`, live ones where there are, and those that are new.
    fn members_of(&self, config: &Config) -> (Members, Vec<Arc<Backend>>) {
        let mut members = Members::new();
        let mut added = Vec::new();
        for pool in &config.pools {
            for wanted in &pool.backends {
                let live = self.backends.iter().find(|backend| backend.is(&pool.name, wanted));
                let backend = live.map_or_else(
                    || {
                        let new = Backend::new(&pool.name, wanted, &pool.reuse);
                        added.push(Arc::clone(&new));
                        new
                    },
                    Arc::clone,
                );
                members.insert((pool.name.clone(), wanted.name.clone()), backend);
            }
        }
        (members, added)
    }

    fn pools_of(
        &self,
        config: &Config,
        members: &Members,
        connectors: &[Arc<BackendConnector>],
        new_keys: bool,
    ) -> Vec<Arc<snapshot::PoolSnapshot>> {
        let current = self.proxy.snapshot.load_full();
        let mut pools = Vec::new();
        for (pool, connector) in config.pools.iter().zip(connectors) {
            let same = current.pools.iter().find(|live| live.config() == pool);
            if let (Some(same), false) = (same, new_keys) {
                pools.push(Arc::clone(same));
                continue;
            }
            let backends: Vec<Arc<Backend>> = pool
                .backends
                .iter()
                .filter_map(|wanted| {
                    let key = (pool.name.clone(), wanted.name.clone());
                    let backend = members.get(&key)?;
                    backend.adopt(wanted, &pool.reuse);
                    Some(Arc::clone(backend))
                })
                .collect();
            let leaving = self.backends.iter().filter(|live| {
                live.pool() == pool.name && !pool.backends.iter().any(|b| live.is(&pool.name, b))
            });
            let leaving = leaving.cloned().collect();
            Self::settle(&current, pool, connector, &backends);
            let upstream = upstream::Pool::new(pool.clone(), backends);
            pools.push(Arc::new(snapshot::PoolSnapshot::new(
                upstream,
                Arc::clone(connector),
                leaving,
                &self.keys,
            )));
        }
        pools
    }

    /// Backends that were on their way out and are wanted again.
    async fn stay(&mut self, members: &Members) {
        for backend in members.values() {
            if self.drains.cancel(backend.serial(), DrainEnd::Remove).await {
                backend.set_lifecycle(Lifecycle::Serving);
            }
        }
    }

    /// Starts probes for new backends and restarts those whose terms have changed.
    fn probe(&mut self, added: &[Arc<Backend>]) {
        let snapshot = self.proxy.snapshot.load_full();
        for backend in &self.backends {
            let Some(pool) = snapshot.pool(backend.pool()) else { continue };
            let (terms, connector) = (&pool.config().health, pool.connector());
            let serial = backend.serial();
            if self.probes.get(&serial).is_some_and(|probe| probe.uses(terms, connector)) {
                continue;
            }
            let new = added.iter().any(|added| added.serial() == serial);
            // The one before, if any, ends by being dropped.
            self.probes.insert(serial, Probing::start(backend, connector, terms, new));
        }
    }

    /// What the data path shares.
    pub(crate) fn proxy(&self) -> &Arc<SharedState> {
        &self.proxy
    }

    /// Addresses listened on, by listener name.
    pub(crate) fn addresses(&self) -> Vec<(String, std::net::SocketAddr)> {
        self.listeners.addresses(&self.config.listeners)
    }
}

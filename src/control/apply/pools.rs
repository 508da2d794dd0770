//! Builds the pools and routes of a snapshot, with the live backends.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Semaphore;

use crate::{
    config::{self, Config},
    control::ControlTask,
    gateway::{
        CacheStore, Conditions, FilterChain, FilterState, Forcing, LocalAnswer, StaticFiles,
    },
    observe::{Redaction, RouteLabel},
    route,
    shared::SharedState,
    snapshot::{
        ListenerSnapshot, MirrorTarget, PoolShare, PoolSnapshot, RouteAction, RouteTarget,
        Snapshot, SplitTarget,
    },
    sticky::cookie::CookieKeys,
    upstream::{self, Backend, BackendConnector},
};

/// Backends by pool name and backend name.
pub(super) type Members = HashMap<(String, String), Arc<Backend>>;

impl ControlTask {
    /// Returns the backends of `config`, reusing live ones, and the list of the new ones.
    pub(super) fn members_of(&self, config: &Config) -> (Members, Vec<Arc<Backend>>) {
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

    /// Builds the pools of `config`, reusing unchanged ones. `new_keys`: all cookies change.
    pub(super) fn pools_of(
        &self,
        config: &Config,
        members: &Members,
        connectors: &[Arc<BackendConnector>],
        new_keys: bool,
    ) -> Vec<Arc<PoolSnapshot>> {
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
            let removed = self.backends.iter().filter(|live| {
                live.pool() == pool.name && !pool.backends.iter().any(|b| live.is(&pool.name, b))
            });
            let removed = removed.cloned().collect();
            Self::use_connector(&current, pool, connector, &backends);
            let upstream = upstream::Pool::new(pool.clone(), backends);
            let connector = Arc::clone(connector);
            pools.push(Arc::new(PoolSnapshot::new(upstream, connector, removed, &self.keys)));
        }
        pools
    }

    /// Builds the snapshot of `config`.
    pub(super) fn snapshot_of(
        &self,
        config: &Config,
        pools: Vec<Arc<PoolSnapshot>>,
        listeners: HashMap<Arc<str>, Arc<ListenerSnapshot>>,
    ) -> Snapshot {
        let cache = self.cache_store(config);
        let kept = (&*self.proxy, &cache, &self.keys);
        let rules = |late| {
            let rules = config.routes.iter();
            rules.filter(move |rule| rule.conditions.is_operation_only() == late)
        };
        // A document must not pass over the conditions that are written in the configuration.
        let rules = rules(false).chain(rules(true));
        let routes = rules.filter_map(|rule| route_rule(rule, &pools, config, kept));
        Snapshot {
            routes: route::Routes::new(&routes.collect::<Vec<_>>()),
            removed: self.backends_without_pool(config),
            listeners,
            trusted: config.trusted_proxies.clone(),
            redaction: redaction(config),
            forwarded_always: config.forwarded == config::Forwarded::Always,
            logins: config.routes.iter().any(logs_in),
            error_pages: config.error_pages.clone(),
            sends_proxy_headers: pools.iter().any(|pool| !pool.connector().is_shared()),
            pools,
        }
    }

    /// The stored responses; a new store if its settings have changed.
    fn cache_store(&self, config: &Config) -> Arc<CacheStore> {
        let store = self.proxy.cache.load_full();
        if *store.config() == config.cache {
            return store;
        }
        let store = Arc::new(CacheStore::new(&config.cache, self.proxy.metrics.cache.clone()));
        self.proxy.cache.store(Arc::clone(&store));
        store
    }
}

/// The secrets of the setting, and the query parameters that carry credentials.
fn redaction(config: &Config) -> Redaction {
    let credentials = config.routes.iter().filter_map(|rule| rule.filters.auth.as_ref());
    let credentials = credentials.flat_map(|auth| auth.secret_parameters());
    Redaction::new(config.redact.iter().map(String::as_str).chain(credentials))
}

fn route_rule(
    rule: &config::RouteConfig,
    pools: &[Arc<PoolSnapshot>],
    config: &Config,
    (shared, cache, cookie_keys): (&SharedState, &Arc<CacheStore>, &CookieKeys),
) -> Option<route::RouteRule<RouteTarget>> {
    let label = |pool: Option<&str>| RouteLabel {
        route: Some(rule.to_string().into()),
        pool: pool.map(Into::into),
    };
    let limits = |pool: &PoolSnapshot| rule.timeouts.over(&pool.config().timeouts).map(Arc::new);
    let mut timeouts = None;
    let (route_label, action) = match &rule.target {
        config::RouteTo::Pool(name) => {
            let pool = pools.iter().find(|pool| pool.upstream.name() == name)?;
            timeouts = limits(pool);
            (label(Some(name)), RouteAction::Pool(Arc::clone(pool)))
        }
        config::RouteTo::Split(parts) => {
            let share = |part: &config::SplitPool| {
                let pool = pools.iter().find(|pool| pool.upstream.name() == part.pool)?;
                Some(PoolShare {
                    pool: Arc::clone(pool),
                    weight: part.weight,
                    forcing: Forcing::new(part),
                    timeouts: limits(pool),
                    route_label: Arc::new(label(Some(&part.pool))),
                })
            };
            let shares = parts.iter().map(share).collect::<Option<_>>()?;
            (label(None), RouteAction::Split(Arc::new(SplitTarget { shares })))
        }
        config::RouteTo::Redirect(redirect) => {
            (label(None), RouteAction::Answer(Arc::new(LocalAnswer::Redirect(redirect.clone()))))
        }
        config::RouteTo::Files(files) => {
            let files = StaticFiles::new(files.clone());
            (label(None), RouteAction::Answer(Arc::new(LocalAnswer::Files(files))))
        }
        config::RouteTo::Respond(respond) => {
            (label(None), RouteAction::Answer(Arc::new(LocalAnswer::Respond(respond.clone()))))
        }
    };
    let mirror = rule.mirror.as_ref().and_then(|mirror| {
        let pool = pools.iter().find(|pool| pool.upstream.name() == mirror.pool)?;
        Some(Arc::new(MirrorTarget {
            pool: Arc::clone(pool),
            share: mirror.share,
            max_body: mirror.max_body,
            slots: Arc::new(Semaphore::new(mirror.max_in_flight)),
        }))
    });
    let error_pages = match (&rule.error_pages, &config.error_pages) {
        (Some(own), Some(top)) => Some(Arc::new(own.or(top))),
        (own, top) => own.as_ref().or(top.as_ref()).cloned(),
    };
    let (limiters, auth) = (&shared.limiters, &shared.auth);
    let kept = FilterState { route: &rule.to_string(), limiters, cache, auth, cookie_keys };
    let filters = FilterChain::new(&rule.filters, kept).map(Arc::new);
    let conditions = Conditions::new(&rule.conditions).map(Arc::new);
    let conditional = conditions.is_some();
    let route_label = Arc::new(route_label);
    let target =
        RouteTarget { route_label, conditions, action, mirror, timeouts, error_pages, filters };
    let (host, path, listeners) = (rule.host.clone(), rule.path.clone(), rule.listeners.clone());
    Some(route::RouteRule { listeners, host, path, conditional, target })
}

/// Whether browsers log in on the route.
fn logs_in(route: &config::RouteConfig) -> bool {
    route.filters.auth.as_ref().is_some_and(|auth| auth.oidc.is_some())
}

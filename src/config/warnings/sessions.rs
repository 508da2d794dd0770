//! Pools whose settings lose sessions or do not reach their backends.

use super::{
    super::{Balance, Config, ListenerProtocol, PoolConfig, ProbeConfig, RouteConfig, SameSite},
    WarningCollector,
};

/// Ports at which servers expect TLS.
const TLS_PORTS: [u16; 2] = [443, 8443];

/// Warns of a pool's stickiness, cookie, drain, TLS and probe.
pub(super) fn sessions(found: &mut WarningCollector<'_>, pool: &PoolConfig) {
    let path = format!("pools.{}", pool.name);
    let config = found.config;
    let routes: Vec<&RouteConfig> =
        config.routes.iter().filter(|route| route.leads_to(&pool.name)).collect();
    if !routes.is_empty() {
        affinity(found, pool, &path);
        cookie(found, pool, &path);
        plain(found, pool, &path);
        probe(found, pool, &path, &routes);
    }
    if pool.drain.within.is_zero() {
        let message = format!(
            "`drain` of the pool {} is zero: a backend that is removed loses its sessions at once",
            pool.name
        );
        found.add(
            &format!("{path}.drain"),
            message,
            "use the time that clients need to move, for example \"5m\"",
        );
    }
}

/// Whether a pool has several backends, or may have.
fn has_several(pool: &PoolConfig) -> bool {
    pool.backends.len() > 1 || pool.source.is_some()
}

/// Sessions that are not kept on their backend.
fn affinity(found: &mut WarningCollector<'_>, pool: &PoolConfig, path: &str) {
    let sticky = &pool.sticky;
    let by_address = pool.balance == Balance::SourceHash;
    if !has_several(pool) || sticky.cookie.is_some() || by_address {
        return;
    }
    if !sticky.engine_io && matches!(pool.health.probe, ProbeConfig::EngineIo { .. }) {
        let message = format!(
            "the pool {} has an engine.io probe, but does not keep sessions on their backend: polls fail with \
             \"Session ID unknown\"",
            pool.name
        );
        found.add(&format!("{path}.sticky"), message, "remove `sticky`, or write `sticky = true`");
    } else if sticky.engine_io && sticky.owner_search == 0 {
        let message = format!(
            "`owner_search` of the pool {} is 0 and the pool has no cookie: sessions that this process does not \
             know, as after a restart or behind several proxies, are lost",
            pool.name
        );
        let help = "remove `owner_search = 0`, or set `cookie = true`";
        found.add(&format!("{path}.sticky.owner_search"), message, help);
    }
}

/// Whether some client may come over TLS, here or at a proxy in front.
fn may_be_secure(config: &Config) -> bool {
    let tls = config
        .listeners
        .iter()
        .any(|listener| matches!(listener.protocol, ListenerProtocol::Https(_)));
    let behind = config.listeners.iter().any(|listener| listener.proxy_protocol.is_some());
    tls || behind || !config.trusted_proxies.is_empty()
}

/// A cookie that browsers do not keep or send.
fn cookie(found: &mut WarningCollector<'_>, pool: &PoolConfig, path: &str) {
    let Some(cookie) = &pool.sticky.cookie else { return };
    if may_be_secure(found.config) {
        return;
    }
    let (attribute, key) = match (cookie.secure, cookie.same_site) {
        (Some(true), _) => ("Secure", "secure"),
        _ if cookie.partitioned => ("Partitioned", "partitioned"),
        (_, Some(SameSite::None)) => ("SameSite=None", "same_site"),
        _ => return,
    };
    let message = format!(
        "browsers ignore the cookie of the pool {}: it is {attribute}, and no listener uses TLS",
        pool.name
    );
    let help =
        format!("remove `{key}`; if a proxy in front terminates TLS, name it in `trusted_proxies`");
    found.add(&format!("{path}.sticky.cookie.{key}"), message, help);
}

/// Requests in the clear to a port for TLS.
fn plain(found: &mut WarningCollector<'_>, pool: &PoolConfig, path: &str) {
    if pool.tls.is_some() {
        return;
    }
    let backend =
        pool.backends.iter().position(|backend| TLS_PORTS.contains(&backend.address.port));
    if let Some(index) = backend {
        let address = &pool.backends[index].address;
        let message = format!(
            "backend {}/{} has port {}, but the pool does not use TLS",
            pool.name, pool.backends[index].name, address.port
        );
        let help = "set `tls = true`, or use the port for plain HTTP";
        found.add(&format!("{path}.backends[{index}]"), message, help);
    }
}

/// An Engine.IO probe of a path that clients cannot reach.
fn probe(found: &mut WarningCollector<'_>, pool: &PoolConfig, path: &str, routes: &[&RouteConfig]) {
    let ProbeConfig::EngineIo { path: probed, .. } = &pool.health.probe else { return };
    let covered = |route: &&&RouteConfig| {
        let prefix = route.path.trim_end_matches('/');
        probed.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !routes.iter().any(|route| covered(&route)) {
        let message = format!(
            "the engine.io probe of the pool {} uses {probed}, which no route of the pool covers",
            pool.name
        );
        let help = format!(
            "set `path` of the probe to the path of the clients, or add a route for {probed}"
        );
        found.add(&format!("{path}.health"), message, help);
    }
}

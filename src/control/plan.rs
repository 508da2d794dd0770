//! What putting another configuration in force would do, thing by thing, and whom it would
//! disconnect. Pure: it compares two effective configurations and is told what each backend holds.

use std::fmt::Write as _;

use super::{count::HeldCount, overlay::OverlayChange};
use crate::{
    api::{BackendTarget, Change, ChangeKind, ChangedThing, Plan},
    config::{
        Address, BackendConfig, Config, DrainConfig, ListenerConfig, PoolConfig, RouteConfig,
    },
};

/// Changes that a line of the log names.
const MOST_LOGGED: usize = 20;

/// A backend that has left the configuration and whose sessions go on, because the configuration has
/// its address elsewhere.
#[derive(Clone, Debug)]
pub(super) struct RetainedBackend {
    /// Its pool.
    pub(super) pool: String,
    /// The backend as it was configured.
    pub(super) backend: BackendConfig,
    /// What it holds.
    pub(super) held: HeldCount,
    /// The terms by which it drains, once its address has left.
    pub(super) terms: DrainConfig,
}

/// Compares what is in force with what would be. `held` tells what a backend of the pool of that
/// name holds at this moment, `at_risk` whether another source than the one that found it decides of it.
/// `spared` have left before.
pub(super) fn plan(
    now: &Config,
    next: &Config,
    overlay_changes: &[OverlayChange],
    spared: &[RetainedBackend],
    held: impl Fn(&str, &BackendConfig) -> HeldCount,
    at_risk: impl Fn(&str, &BackendConfig) -> bool,
) -> Plan {
    let mut changes = Vec::new();
    listeners(now, next, &mut changes);
    routes(now, next, &mut changes);
    for pool in &now.pools {
        match next.pools.iter().find(|other| other.name == pool.name) {
            Some(other) => {
                settings(pool, other, &mut changes);
                backends(pool, other, next, &held, &mut changes);
                risks(other, &held, &at_risk, &mut changes);
            }
            None => {
                changes.push(change(ChangedThing::Pool, ChangeKind::Removed, &pool.name, ""));
                let empty = PoolConfig { backends: Vec::new(), ..pool.clone() };
                backends(pool, &empty, next, &held, &mut changes);
            }
        }
    }
    for pool in &next.pools {
        if !now.pools.iter().any(|other| other.name == pool.name) {
            let detail = format!("{} backends", pool.backends.len());
            changes.push(change(ChangedThing::Pool, ChangeKind::Added, &pool.name, detail));
        }
    }
    changes.extend(spared.iter().filter_map(|spared| ends(spared, next)));
    process(now, next, &mut changes);
    let empty = changes.is_empty();
    changes.extend(overlay_changes.iter().map(|overlay_change| {
        let how = if overlay_change.kept { ChangeKind::Kept } else { ChangeKind::Changed };
        change(ChangedThing::Backend, how, &overlay_change.name, overlay_change.words)
    }));
    Plan {
        empty,
        disconnected_tunnels: changes.iter().map(|change| change.tunnels).sum(),
        disconnected_sessions: changes.iter().map(|change| change.sessions).sum(),
        by: changes.iter().filter_map(|change| change.by).reduce(f64::max),
        changes,
    }
}

/// The changes in one line, for the log.
pub(super) fn summary(plan: &Plan) -> String {
    let changes = plan.changes.iter().filter(|change| change.how != ChangeKind::Kept);
    let all: Vec<String> = changes.map(Change::to_string).collect();
    let mut text = all[..all.len().min(MOST_LOGGED)].join("; ");
    if all.len() > MOST_LOGGED {
        let _ = write!(text, "; and {} more", all.len() - MOST_LOGGED);
    }
    // What the plan does not tell apart, such as another path to the same certificate.
    if text.is_empty() { "other settings".to_owned() } else { text }
}

fn listeners(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let add = |how, listener: &ListenerConfig, detail: String| {
        change(ChangedThing::Listener, how, &listener.name, detail)
    };
    for listener in &now.listeners {
        match next.listeners.iter().find(|other| other.name == listener.name) {
            None => {
                let detail = "accepts no new connections; open ones go on".to_owned();
                changes.push(add(ChangeKind::Removed, listener, detail));
            }
            Some(other) if other != listener => {
                changes.push(add(ChangeKind::Changed, listener, difference(listener, other)));
            }
            Some(_) => {}
        }
    }
    for listener in &next.listeners {
        if !now.listeners.iter().any(|other| other.name == listener.name) {
            changes.push(add(ChangeKind::Added, listener, format!("on {}", addresses(listener))));
        }
    }
}

/// What is different between two listeners of one name.
fn difference(now: &ListenerConfig, next: &ListenerConfig) -> String {
    let mut parts = Vec::new();
    if now.bind != next.bind {
        parts.push(format!("from {} to {}", addresses(now), addresses(next)));
    }
    let mut tell = |differs: bool, what: &str| {
        if differs {
            parts.push(what.to_owned());
        }
    };
    if now.protocol.name() == next.protocol.name() {
        let certificates =
            |listener: &ListenerConfig| listener.protocol.tls().map(|tls| tls.certificates.clone());
        let others = certificates(now) != certificates(next);
        tell(others, "other certificates for new connections");
        tell(!others && now.protocol != next.protocol, "other terms of TLS for new connections");
    } else {
        tell(true, "another protocol for new connections");
    }
    let ways = |listener: &ListenerConfig| (listener.pool.clone(), listener.passthrough.clone());
    tell(ways(now) != ways(next), "other pools for new connections");
    tell(now.proxy_protocol != next.proxy_protocol, "other terms of the PROXY protocol");
    let most = |listener: &ListenerConfig| listener.connections_per_address;
    tell(most(now) != most(next), "another number of connections per address");
    tell(now.redirect != next.redirect, "another redirect");
    let deadlines = |listener: &ListenerConfig| {
        (listener.handshake_timeout, listener.header_timeout, listener.keep_alive)
    };
    tell(deadlines(now) != deadlines(next), "other deadlines");
    tell(now.header != next.header, "other limits of a request's header");
    parts.join("; ")
}

fn addresses(listener: &ListenerConfig) -> String {
    let all: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn routes(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let key =
        |route: &RouteConfig| (route.host.clone(), route.path.clone(), route.listeners.clone());
    let same = |one: &RouteConfig, other: &RouteConfig| key(one) == key(other);
    for route in &now.routes {
        let name = route.to_string();
        match next.routes.iter().find(|other| same(route, other)) {
            None => {
                let detail = format!("no longer leads to pool {}", route.pool);
                changes.push(change(ChangedThing::Route, ChangeKind::Removed, &name, detail));
            }
            Some(other) if other.pool != route.pool => {
                let detail = format!("from pool {} to pool {}", route.pool, other.pool);
                changes.push(change(ChangedThing::Route, ChangeKind::Changed, &name, detail));
            }
            Some(_) => {}
        }
    }
    for route in &next.routes {
        if !now.routes.iter().any(|other| same(route, other)) {
            let detail = format!("to pool {}", route.pool);
            changes.push(change(
                ChangedThing::Route,
                ChangeKind::Added,
                &route.to_string(),
                detail,
            ));
        }
    }
}

/// Changes of a pool that are not its backends.
fn settings(now: &PoolConfig, next: &PoolConfig, changes: &mut Vec<Change>) {
    let differs = [
        ("balance", now.balance != next.balance),
        ("source", now.source != next.source),
        ("health", now.health != next.health),
        ("sticky", now.sticky != next.sticky),
        ("timeouts", now.timeouts != next.timeouts),
        ("reuse", now.reuse != next.reuse),
        ("drain", now.drain != next.drain),
        ("slow_start", now.slow_start != next.slow_start),
        ("outlier", now.outlier != next.outlier),
        ("healthy_minimum", now.healthy_minimum != next.healthy_minimum),
        ("limits", (&now.limits, now.response_header) != (&next.limits, next.response_header)),
        ("long_polls", now.long_polls != next.long_polls),
        ("admission", now.admission != next.admission),
        ("rebalance", now.rebalance != next.rebalance),
        ("max_connection_age", now.max_connection_age != next.max_connection_age),
        ("on_down", now.on_down != next.on_down),
        ("tls", now.tls != next.tls),
        ("proxy_protocol", now.proxy_protocol != next.proxy_protocol),
    ];
    let named: Vec<&str> =
        differs.iter().filter(|(_, differs)| *differs).map(|(n, _)| *n).collect();
    if !named.is_empty() {
        let detail = named.join(", ");
        changes.push(change(ChangedThing::Pool, ChangeKind::Changed, &now.name, detail));
    }
}

/// Changes of a pool's backends: `now.drain` is the one that those obey which go.
fn backends(
    now: &PoolConfig,
    next: &PoolConfig,
    config: &Config,
    held: &impl Fn(&str, &BackendConfig) -> HeldCount,
    changes: &mut Vec<Change>,
) {
    let same = |one: &BackendConfig, other: &BackendConfig| {
        one.name == other.name && one.address == other.address
    };
    let add = |how, backend: &BackendConfig, detail: String| {
        change(ChangedThing::Backend, how, &format!("{}/{}", now.name, backend.name), detail)
    };
    for backend in &now.backends {
        match next.backends.iter().find(|other| same(backend, other)) {
            Some(other) if other.weight != backend.weight => {
                let detail = format!("weight {} becomes {}", backend.weight, other.weight);
                changes.push(add(ChangeKind::Changed, backend, detail));
            }
            Some(_) => {}
            None => {
                let held = held(&now.name, backend);
                let removed = add(ChangeKind::Removed, backend, String::new());
                changes.push(match elsewhere(&backend.address, config) {
                    Some(other) => Change { detail: goes_on(&other, held), ..removed },
                    None => disconnected(removed, now.drain, held),
                });
            }
        }
    }
    for backend in &next.backends {
        if !now.backends.iter().any(|other| same(backend, other)) {
            let detail = format!("at {}, weight {}", backend.address, backend.weight);
            changes.push(add(ChangeKind::Added, backend, detail));
        }
    }
}

/// Backends that stay only if the pool's new source names them too.
fn risks(
    next: &PoolConfig,
    held: &impl Fn(&str, &BackendConfig) -> HeldCount,
    at_risk: &impl Fn(&str, &BackendConfig) -> bool,
    changes: &mut Vec<Change>,
) {
    for backend in next.backends.iter().filter(|backend| at_risk(&next.name, backend)) {
        let HeldCount { tunnels, sessions } = held(&next.name, backend);
        let by = (sessions > 0).then_some(next.drain.within.as_secs_f64());
        let name = format!("{}/{}", next.name, backend.name);
        let detail = "goes, unless the new source names it too";
        let changed = change(ChangedThing::Backend, ChangeKind::Changed, &name, detail);
        changes.push(Change { tunnels, sessions, by, ..changed });
    }
}

/// The removal of a backend with what it holds.
fn disconnected(removed: Change, terms: DrainConfig, held: HeldCount) -> Change {
    let HeldCount { tunnels, sessions } = held;
    let within = humantime::format_duration(terms.within);
    let (by, detail) = match sessions {
        0 => (None, "it has no sessions".to_owned()),
        _ => (
            Some(terms.within.as_secs_f64()),
            format!("takes no new sessions; what is left is cut after {within}"),
        ),
    };
    Change { tunnels, sessions, by, detail, ..removed }
}

/// What becomes of a backend that has left already, where its address leaves as well.
fn ends(spared: &RetainedBackend, next: &Config) -> Option<Change> {
    if elsewhere(&spared.backend.address, next).is_some() {
        return None;
    }
    let name = format!("{}/{}", spared.pool, spared.backend.name);
    let removed = change(ChangedThing::Backend, ChangeKind::Removed, &name, "");
    Some(disconnected(removed, spared.terms, spared.held))
}

fn goes_on(other: &BackendTarget, held: HeldCount) -> String {
    match held.sessions {
        0 => format!("goes on as {other}"),
        1 => format!("goes on as {other}, with 1 session"),
        sessions => format!("goes on as {other}, with {sessions} sessions"),
    }
}

/// The backend that a configuration has at this address.
pub(super) fn elsewhere(address: &Address, config: &Config) -> Option<BackendTarget> {
    config.pools.iter().find_map(|pool| {
        let other = pool.backends.iter().find(|other| other.address == *address)?;
        Some(BackendTarget { pool: Some(pool.name.clone()), backend: Some(other.name.clone()) })
    })
}

/// Changes of the process's own settings.
fn process(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let differs = [
        ("cookie_key", now.cookie_keys != next.cookie_keys, "cookies are made by other keys"),
        ("ticket_keys", now.ticket_keys != next.ticket_keys, "sessions are resumed by other keys"),
        ("trusted_proxies", now.trusted_proxies != next.trusted_proxies, ""),
        ("forwarded", now.forwarded != next.forwarded, ""),
        ("sessions", now.sessions != next.sessions, ""),
        ("access_log", now.access_log != next.access_log || now.redact != next.redact, ""),
        ("drain", now.drain != next.drain, ""),
        ("reload", now.reload != next.reload, ""),
        ("upgrade", now.upgrade != next.upgrade, ""),
        ("admin", now.admin != next.admin, "takes effect at a restart or an upgrade"),
    ];
    for (name, differs, detail) in differs {
        if differs {
            changes.push(change(ChangedThing::Setting, ChangeKind::Changed, name, detail));
        }
    }
}

fn change(what: ChangedThing, how: ChangeKind, name: &str, detail: impl Into<String>) -> Change {
    let (name, detail) = (name.to_owned(), detail.into());
    Change { what, how, name, detail, tunnels: 0, sessions: 0, by: None }
}

#[cfg(test)]
mod tests;

//! Compares two effective configurations, item by item: what changes, and which sessions it disconnects.
//! Pure: the caller passes what each backend holds.

use std::fmt::Write as _;

use crate::control::{held::HeldCount, overlay::OverlayChange};
use crate::{
    api::{BackendTarget, Change, ChangeKind, ChangedThing, Plan},
    config::{
        Address, BackendConfig, Config, DrainConfig, HostPattern, ListenerConfig, PoolConfig,
        RouteConditions, RouteConfig,
    },
};

/// Maximum number of changes in a log line.
const MOST_LOGGED: usize = 20;

/// A backend that was removed from the configuration and whose sessions continue, because the configuration
/// has its address in another pool or under another name.
#[derive(Clone, Debug)]
pub(super) struct RetainedBackend {
    /// Its pool.
    pub(super) pool: String,
    /// The backend as it was configured.
    pub(super) backend: BackendConfig,
    /// The tunnels and sessions it holds.
    pub(super) held: HeldCount,
    /// How it drains once its address is removed too.
    pub(super) drain: DrainConfig,
}

/// Compares the running configuration with the next one. `held` returns what a backend of the named pool
/// holds now, `at_risk` whether the pool's new source may not name this backend.
pub(super) fn plan(
    now: &Config,
    next: &Config,
    overlay_changes: &[OverlayChange],
    retained: &[RetainedBackend],
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
    changes.extend(retained.iter().filter_map(|retained| end_of_retained(retained, next)));
    process(now, next, &mut changes);
    let empty = changes.is_empty();
    changes.extend(overlay_changes.iter().map(|overlay_change| {
        let how = if overlay_change.kept { ChangeKind::Kept } else { ChangeKind::Changed };
        change(ChangedThing::Backend, how, &overlay_change.name, overlay_change.detail)
    }));
    Plan {
        empty,
        disconnected_tunnels: changes.iter().map(|change| change.tunnels).sum(),
        disconnected_sessions: changes.iter().map(|change| change.sessions).sum(),
        by: changes.iter().filter_map(|change| change.by).reduce(f64::max),
        changes,
    }
}

/// Lists the changes in one line, for the log.
pub(in crate::control) fn summary(plan: &Plan) -> String {
    let changes = plan.changes.iter().filter(|change| change.how != ChangeKind::Kept);
    let all: Vec<String> = changes.map(Change::to_string).collect();
    let mut text = all[..all.len().min(MOST_LOGGED)].join("; ");
    if all.len() > MOST_LOGGED {
        let _ = write!(text, "; and {} more", all.len() - MOST_LOGGED);
    }
    // Settings that a plan does not list, such as another path to the same certificate.
    if text.is_empty() { "other settings".to_owned() } else { text }
}

fn listeners(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let add = |how, listener: &ListenerConfig, detail: String| {
        change(ChangedThing::Listener, how, &listener.name, detail)
    };
    for listener in &now.listeners {
        match next.listeners.iter().find(|other| other.name == listener.name) {
            None => {
                let detail = "accepts no new connections; open connections continue".to_owned();
                changes.push(add(ChangeKind::Removed, listener, detail));
            }
            Some(other) if other != listener => {
                changes.push(add(
                    ChangeKind::Changed,
                    listener,
                    listener_difference(listener, other),
                ));
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

/// Lists the settings in which two listeners of one name differ.
fn listener_difference(now: &ListenerConfig, next: &ListenerConfig) -> String {
    let mut parts = Vec::new();
    if now.bind != next.bind {
        parts.push(format!("from {} to {}", addresses(now), addresses(next)));
    }
    let mut note = |differs: bool, what: &str| {
        if differs {
            parts.push(what.to_owned());
        }
    };
    if now.protocol.name() == next.protocol.name() {
        let certificates =
            |listener: &ListenerConfig| listener.protocol.tls().map(|tls| tls.certificates.clone());
        let others = certificates(now) != certificates(next);
        note(others, "new certificates for new connections");
        note(!others && now.protocol != next.protocol, "new TLS settings for new connections");
    } else {
        note(true, "new protocol for new connections");
    }
    let targets = |listener: &ListenerConfig| (listener.pool.clone(), listener.passthrough.clone());
    note(targets(now) != targets(next), "new pools for new connections");
    note(now.proxy_protocol != next.proxy_protocol, "new PROXY protocol settings");
    let most = |listener: &ListenerConfig| listener.connections_per_address;
    note(most(now) != most(next), "new `connections_per_address`");
    note(now.connection_rate != next.connection_rate, "new `connection_rate`");
    note(now.redirect != next.redirect, "new redirect");
    let deadlines = |listener: &ListenerConfig| {
        (listener.handshake_timeout, listener.header_timeout, listener.keep_alive)
    };
    note(deadlines(now) != deadlines(next), "new timeouts");
    note(now.header != next.header, "new limits of the request header");
    parts.join("; ")
}

fn addresses(listener: &ListenerConfig) -> String {
    let all: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn routes(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    fn key(route: &RouteConfig) -> (&HostPattern, &str, &[String], &RouteConditions) {
        (&route.host, &route.path, &route.listeners, &route.conditions)
    }
    let same = |one: &RouteConfig, other: &RouteConfig| key(one) == key(other);
    for route in &now.routes {
        let name = route.to_string();
        match next.routes.iter().find(|other| same(route, other)) {
            None => {
                let detail = format!("no longer leads to {}", route.target);
                changes.push(change(ChangedThing::Route, ChangeKind::Removed, &name, detail));
            }
            Some(other) if other.target != route.target => {
                let detail = format!("from {} to {}", route.target, other.target);
                changes.push(change(ChangedThing::Route, ChangeKind::Changed, &name, detail));
            }
            Some(other) if other.filters != route.filters => {
                let detail = "new filters".to_owned();
                changes.push(change(ChangedThing::Route, ChangeKind::Changed, &name, detail));
            }
            Some(_) => {}
        }
    }
    for route in &next.routes {
        if !now.routes.iter().any(|other| same(route, other)) {
            let detail = format!("to {}", route.target);
            changes.push(change(
                ChangedThing::Route,
                ChangeKind::Added,
                &route.to_string(),
                detail,
            ));
        }
    }
}

/// Lists the changed settings of a pool, without its backends.
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

/// Lists the changes of a pool's backends. Removed backends drain by `now.drain`.
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
                changes.push(match backend_at(&backend.address, config) {
                    Some(other) => Change { detail: continues_as(&other, held), ..removed },
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

/// Lists backends that stay only if the pool's new source names them too.
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
        let detail = "removed unless the new source names it too";
        let changed = change(ChangedThing::Backend, ChangeKind::Changed, &name, detail);
        changes.push(Change { tunnels, sessions, by, ..changed });
    }
}

/// Adds to the removal of a backend what that disconnects.
fn disconnected(removed: Change, drain: DrainConfig, held: HeldCount) -> Change {
    let HeldCount { tunnels, sessions } = held;
    let within = humantime::format_duration(drain.within);
    let (by, detail) = match sessions {
        0 => (None, "it has no sessions".to_owned()),
        _ => (
            Some(drain.within.as_secs_f64()),
            format!("takes no new sessions; remaining sessions are cut after {within}"),
        ),
    };
    Change { tunnels, sessions, by, detail, ..removed }
}

/// Returns the end of a backend that was removed before, if its address is removed too.
fn end_of_retained(retained: &RetainedBackend, next: &Config) -> Option<Change> {
    if backend_at(&retained.backend.address, next).is_some() {
        return None;
    }
    let name = format!("{}/{}", retained.pool, retained.backend.name);
    let removed = change(ChangedThing::Backend, ChangeKind::Removed, &name, "");
    Some(disconnected(removed, retained.drain, retained.held))
}

fn continues_as(other: &BackendTarget, held: HeldCount) -> String {
    match held.sessions {
        0 => format!("sessions continue as {other}"),
        1 => format!("sessions continue as {other}: 1 session"),
        sessions => format!("sessions continue as {other}: {sessions} sessions"),
    }
}

/// Returns the backend that a configuration has at this address.
pub(in crate::control) fn backend_at(address: &Address, config: &Config) -> Option<BackendTarget> {
    config.pools.iter().find_map(|pool| {
        let other = pool.backends.iter().find(|other| other.address == *address)?;
        Some(BackendTarget { pool: Some(pool.name.clone()), backend: Some(other.name.clone()) })
    })
}

/// Lists changed settings of the process.
fn process(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let differs = [
        ("cookie_key", now.cookie_keys != next.cookie_keys, "new cookies use other keys"),
        ("ticket_keys", now.ticket_keys != next.ticket_keys, "new TLS tickets use other keys"),
        ("trusted_proxies", now.trusted_proxies != next.trusted_proxies, ""),
        ("forwarded", now.forwarded != next.forwarded, ""),
        ("sessions", now.sessions != next.sessions, ""),
        ("access_log", now.access_log != next.access_log || now.redact != next.redact, ""),
        ("drain", now.drain != next.drain, ""),
        ("reload", now.reload != next.reload, ""),
        ("upgrade", now.upgrade != next.upgrade, ""),
        ("admin", now.admin != next.admin, "takes effect after an upgrade or a restart"),
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

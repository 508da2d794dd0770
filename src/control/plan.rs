//! What putting another configuration in force would do, thing by thing, and whom it would
//! disconnect. Pure: it compares two effective configurations and is told what each backend holds.

use std::time::Duration;

use super::overlay::Fate;
use crate::{
    admin::api::{Change, ChangeKind, ChangedThing, Plan},
    config::{Backend, Config, Listener, Pool, Route},
};

/// What would be lost with a backend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Open tunnels.
    pub(super) tunnels: u64,
    /// Live sessions, those with a tunnel included.
    pub(super) sessions: u64,
}

/// Compares what is in force with what would be. `held` tells what a backend of the pool of that
/// name holds at this moment, `at_risk` whether another source than the one that found it decides of it.
pub(super) fn plan(
    now: &Config,
    next: &Config,
    fates: &[Fate],
    held: impl Fn(&str, &Backend) -> Held,
    at_risk: impl Fn(&str, &Backend) -> bool,
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
                let empty = Pool { backends: Vec::new(), ..pool.clone() };
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
    process(now, next, &mut changes);
    let empty = changes.is_empty();
    changes.extend(fates.iter().map(|fate| {
        let how = if fate.kept { ChangeKind::Kept } else { ChangeKind::Changed };
        change(ChangedThing::Backend, how, &fate.name, fate.words)
    }));
    Plan {
        empty,
        disconnected_tunnels: changes.iter().map(|change| change.tunnels).sum(),
        disconnected_sessions: changes.iter().map(|change| change.sessions).sum(),
        by: changes.iter().filter_map(|change| change.by).reduce(f64::max),
        changes,
    }
}

fn listeners(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let add = |how, listener: &Listener, detail: String| {
        change(ChangedThing::Listener, how, &listener.name, detail)
    };
    for listener in &now.listeners {
        match next.listeners.iter().find(|other| other.name == listener.name) {
            None => {
                let detail = "stops to accept; its open connections end by themselves".to_owned();
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
fn difference(now: &Listener, next: &Listener) -> String {
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
            |listener: &Listener| listener.protocol.tls().map(|tls| tls.certificates.clone());
        let others = certificates(now) != certificates(next);
        tell(others, "other certificates for new connections");
        tell(!others && now.protocol != next.protocol, "other terms of TLS for new connections");
    } else {
        tell(true, "another protocol for new connections");
    }
    let ways = |listener: &Listener| (listener.pool.clone(), listener.passthrough.clone());
    tell(ways(now) != ways(next), "other pools for new connections");
    tell(now.proxy_protocol != next.proxy_protocol, "other terms of the PROXY protocol");
    let most = |listener: &Listener| listener.connections_per_address;
    tell(most(now) != most(next), "another number of connections per address");
    tell(now.redirect != next.redirect, "another redirect");
    let deadlines = |listener: &Listener| {
        (listener.handshake_timeout, listener.header_timeout, listener.keep_alive)
    };
    tell(deadlines(now) != deadlines(next), "other deadlines");
    tell(now.header != next.header, "other limits of a request's header");
    parts.join("; ")
}

fn addresses(listener: &Listener) -> String {
    let all: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn routes(now: &Config, next: &Config, changes: &mut Vec<Change>) {
    let key = |route: &Route| (route.host.clone(), route.path.clone(), route.listeners.clone());
    let same = |one: &Route, other: &Route| key(one) == key(other);
    for route in &now.routes {
        let name = route.to_string();
        match next.routes.iter().find(|other| same(route, other)) {
            None => {
                let detail = format!("no more to pool {}", route.pool);
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
fn settings(now: &Pool, next: &Pool, changes: &mut Vec<Change>) {
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
    now: &Pool,
    next: &Pool,
    config: &Config,
    held: &impl Fn(&str, &Backend) -> Held,
    changes: &mut Vec<Change>,
) {
    let same =
        |one: &Backend, other: &Backend| one.name == other.name && one.address == other.address;
    let add = |how, backend: &Backend, detail: String| {
        change(ChangedThing::Backend, how, &format!("{}/{}", now.name, backend.name), detail)
    };
    for backend in &now.backends {
        match next.backends.iter().find(|other| same(backend, other)) {
            Some(other) if other.weight != backend.weight => {
                let detail = format!("weight {} becomes {}", backend.weight, other.weight);
                changes.push(add(ChangeKind::Changed, backend, detail));
            }
            Some(_) => {}
            None if is_elsewhere(backend, config) => {
                let detail = "the same address goes on under another name".to_owned();
                changes.push(add(ChangeKind::Removed, backend, detail));
            }
            None => {
                let Held { tunnels, sessions } = held(&now.name, backend);
                let by = (sessions > 0).then_some(now.drain.within.as_secs_f64());
                let detail = removed(now.drain.within, sessions);
                let gone = add(ChangeKind::Removed, backend, detail);
                changes.push(Change { tunnels, sessions, by, ..gone });
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
    next: &Pool,
    held: &impl Fn(&str, &Backend) -> Held,
    at_risk: &impl Fn(&str, &Backend) -> bool,
    changes: &mut Vec<Change>,
) {
    for backend in next.backends.iter().filter(|backend| at_risk(&next.name, backend)) {
        let Held { tunnels, sessions } = held(&next.name, backend);
        let by = (sessions > 0).then_some(next.drain.within.as_secs_f64());
        let name = format!("{}/{}", next.name, backend.name);
        let detail = "goes, unless the new source names it too";
        let changed = change(ChangedThing::Backend, ChangeKind::Changed, &name, detail);
        changes.push(Change { tunnels, sessions, by, ..changed });
    }
}

fn removed(within: Duration, sessions: u64) -> String {
    match sessions {
        0 => "nothing is on it".to_owned(),
        _ => {
            let within = humantime::format_duration(within);
            format!("takes nothing new; what is left is cut after {within}")
        }
    }
}

/// Whether the address stays, under another name or in another pool: its sessions go on then.
fn is_elsewhere(backend: &Backend, config: &Config) -> bool {
    let mut all = config.pools.iter().flat_map(|pool| &pool.backends);
    all.any(|other| other.address == backend.address)
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
mod tests {
    use super::*;
    use crate::config::Protocol;

    fn backend(address: &str) -> Backend {
        Backend { name: address.to_owned(), address: address.parse().unwrap(), weight: 1 }
    }

    fn config(addresses: &[&str]) -> Config {
        let backends = addresses.iter().map(|address| backend(address)).collect();
        let listener = Listener::new("web", vec!["127.0.0.1:80".parse().unwrap()], Protocol::Http);
        Config::new(vec![listener], Pool::new("chat", backends))
    }

    fn compare(now: &Config, next: &Config) -> Plan {
        plan(now, next, &[], |_, _| Held { tunnels: 2, sessions: 5 }, |_, _| false)
    }

    fn told(plan: &Plan) -> Vec<(ChangedThing, ChangeKind, &str)> {
        plan.changes.iter().map(|c| (c.what, c.how, c.name.as_str())).collect()
    }

    #[test]
    fn the_same_is_empty() {
        let config = config(&["10.0.0.1:80"]);
        let plan = compare(&config, &config);
        assert!(plan.empty && plan.changes.is_empty());
    }

    #[test]
    fn a_removed_backend_takes_its_sessions_with_it_at_its_deadline() {
        let now = config(&["10.0.0.1:80", "10.0.0.2:80"]);
        let plan = compare(&now, &config(&["10.0.0.1:80", "10.0.0.3:80"]));
        assert_eq!(
            told(&plan),
            [
                (ChangedThing::Backend, ChangeKind::Removed, "chat/10.0.0.2:80"),
                (ChangedThing::Backend, ChangeKind::Added, "chat/10.0.0.3:80"),
            ]
        );
        assert_eq!((plan.disconnected_tunnels, plan.disconnected_sessions), (2, 5));
        assert_eq!(plan.by, Some(300.0));
    }

    #[test]
    fn a_renamed_backend_disconnects_nobody() {
        let now = config(&["10.0.0.1:80"]);
        let mut next = now.clone();
        next.pools[0].backends[0].name = "blue".to_owned();
        let plan = compare(&now, &next);
        assert_eq!((plan.empty, plan.disconnected_sessions, plan.by), (false, 0, None));
    }

    #[test]
    fn a_pool_goes_with_its_backends() {
        let now = config(&["10.0.0.1:80"]);
        let mut next = config(&["10.0.0.9:80"]);
        next.pools[0].name = "other".to_owned();
        next.routes[0].pool = "other".to_owned();
        let plan = compare(&now, &next);
        assert_eq!(
            told(&plan),
            [
                (ChangedThing::Route, ChangeKind::Changed, "/"),
                (ChangedThing::Pool, ChangeKind::Removed, "chat"),
                (ChangedThing::Backend, ChangeKind::Removed, "chat/10.0.0.1:80"),
                (ChangedThing::Pool, ChangeKind::Added, "other"),
            ]
        );
        assert_eq!(plan.disconnected_sessions, 5);
    }

    #[test]
    fn settings_and_listeners_are_told_by_what_differs() {
        let now = config(&["10.0.0.1:80"]);
        let mut next = now.clone();
        next.pools[0].slow_start = Duration::from_secs(1);
        next.listeners[0].bind = vec!["127.0.0.1:81".parse().unwrap()];
        next.access_log = crate::config::AccessLog::Off;
        let plan = compare(&now, &next);
        let details: Vec<&str> = plan.changes.iter().map(|c| c.detail.as_str()).collect();
        assert_eq!(details, ["from 127.0.0.1:80 to 127.0.0.1:81", "slow_start", ""]);
    }

    #[test]
    fn backends_of_a_source_that_is_replaced_are_at_risk() {
        let now = config(&["10.0.0.1:80", "10.0.0.2:80"]);
        let mut next = now.clone();
        next.pools[0].slow_start = Duration::from_secs(1);
        let held = |_: &str, _: &Backend| Held { tunnels: 2, sessions: 5 };
        let found = |_: &str, backend: &Backend| backend.name == "10.0.0.2:80";
        let plan = plan(&now, &next, &[], held, found);
        let named: Vec<&str> = plan.changes.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(named, ["chat", "chat/10.0.0.2:80"]);
        assert_eq!((plan.disconnected_sessions, plan.by), (5, Some(300.0)));
    }

    #[test]
    fn orders_are_told_and_change_nothing_by_themselves() {
        let config = config(&["10.0.0.1:80"]);
        let fate = Fate { name: "chat/x".to_owned(), words: "until restart", kept: true };
        let plan = plan(&config, &config, &[fate], |_, _| Held::default(), |_, _| false);
        assert!(plan.empty);
        assert_eq!(told(&plan), [(ChangedThing::Backend, ChangeKind::Kept, "chat/x")]);
    }
}

//! `[[routes]]`: rules from host and path to a pool.

use std::collections::{HashMap, HashSet};

use super::{
    HostPattern, ListenerConfig, RouteConditions, RouteConfig, RouteTimeouts, RouteTo,
    WrittenRoute,
    address::host_pattern,
    conditions, error_pages,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    filters::{self, throttle},
    operations::{self, OperationRoute},
    path, reader, schema, split,
};

/// Reads every route, in file order. Without routes, everything goes to the only pool.
pub(super) fn all(top: &TomlTable<'_>, listeners: &[ListenerConfig]) -> Vec<RouteConfig> {
    let elements: Vec<TomlValue<'_>> = match top.value("routes") {
        Some(value) => match value.elements() {
            Some(elements) => elements.collect(),
            None => {
                value.wrong_type("an array of tables, `[[routes]]`");
                return Vec::new();
            }
        },
        None => Vec::new(),
    };
    let Some(pools) = pools(top) else { return Vec::new() };
    if elements.is_empty() {
        return only_pool(top, &pools, listeners).into_iter().collect();
    }
    let mut seen = SeenRoutes::default();
    let references = KnownListeners { named: listener_names(top), read: listeners };
    let known: HashSet<&str> = pools.iter().copied().collect();
    let check = |value: &TomlValue<'_>| {
        let pool = value.string()?;
        if !known.contains(pool) {
            unknown_pool(value, pool, &pools);
        }
        Some(pool.to_owned())
    };
    let read =
        |(index, element)| route(element, index, check, &references, &mut seen).unwrap_or_default();
    elements.iter().enumerate().flat_map(read).collect()
}

/// The names of all pools; `None`: `pools` is not a table, which is reported separately.
pub(super) fn pools<'t>(top: &TomlTable<'t>) -> Option<Vec<&'t str>> {
    match top.value("pools") {
        Some(value) if value.node.get_ref().is_table() => {
            Some(value.named().into_iter().map(|(_, name, _)| name).collect())
        }
        Some(_) => None,
        None if top.misspells("pools") => None,
        None => Some(Vec::new()),
    }
}

/// The pool that a value names. An unknown name is noted.
pub(super) fn known_pool(value: &TomlValue<'_>, pools: Option<&[&str]>) -> Option<String> {
    let pool = value.string()?;
    if let Some(pools) = pools.filter(|pools| !pools.contains(&pool)) {
        unknown_pool(value, pool, pools);
    }
    Some(pool.to_owned())
}

fn unknown_pool(value: &TomlValue<'_>, pool: &str, pools: &[&str]) {
    // Many routes may name one missing pool.
    if !value.file.is_full() && value.file.first_time(&format!("pool {pool}")) {
        value.file.missing(&value.at(), no_pool(pool, pools));
    }
}

/// The implied route to the only pool.
fn only_pool(
    top: &TomlTable<'_>,
    pools: &[&str],
    listeners: &[ListenerConfig],
) -> Option<RouteConfig> {
    // Layer-4 listeners have no routes; a missing pool is a fault of the listener.
    let routed =
        |listener: &ListenerConfig| listener.protocol.is_http() && listener.redirect.is_none();
    let layer_4 = listeners.iter().any(|listener| !listener.protocol.is_http());
    if layer_4 && !listeners.iter().any(routed) {
        return None;
    }
    if top.misspells("routes") {
        return None;
    }
    match pools {
        [pool] => Some(RouteConfig::to_pool(HostPattern::Any, "/", *pool)),
        [] => {
            // A process that only redirects to HTTPS needs no pool.
            if listeners.iter().any(routed) {
                let wrong = InvalidValue::new("there is no pool")
                    .help("add `[pools.app]` with `backends = [\"127.0.0.1:3000\"]`");
                top.file().missing(top.at(), wrong);
            }
            None
        }
        _ => {
            let at = top.place("pools").unwrap_or(top.at().clone());
            let wrong = InvalidValue::new("there are several pools, but no route")
                .help(format!("add `[[routes]]` with `pool = \"{}\"`", pools[0]));
            top.file().missing(&at, wrong);
            None
        }
    }
}

/// Reads one route: one for each of its hosts, and more if the document of the route changes its keys.
fn route(
    value: &TomlValue<'_>,
    index: usize,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
    references: &KnownListeners<'_>,
    seen: &mut SeenRoutes,
) -> Option<Vec<RouteConfig>> {
    let table =
        value.table(&schema::ROUTE, "a table such as `{ path = \"/\", pool = \"NAME\" }`")?;
    let written = WrittenRoute::of(&table, index);
    let Some(expanded) = operations::expand(&table) else {
        let mut routes = by_host(&table, &written, &pool, references)?;
        seen.add_all(value, &routes);
        let name = joined(&routes);
        share_limits(&mut routes, &name);
        return Some(routes);
    };
    let file = table.file();
    let with = |entries| {
        let table = TomlTable::new(file, &schema::ROUTE, table.at().clone(), entries);
        table.fault_unknown_keys();
        by_host(&table, &written, &pool, references)
    };
    let before = file.fault_count();
    let mut rest = with(&expanded.rest)?;
    seen.add_all(value, &rest);
    let name = joined(&rest);
    share_limits(&mut rest, &name);
    if file.fault_count() > before {
        // The others would have the same faults.
        return Some(rest);
    }
    let mut routes = Vec::new();
    for OperationRoute { entries, condition, limits } in &expanded.operations {
        let mut found = with(entries)?;
        match limits {
            Some(place) => share_limits(&mut found, &format!("{name} {place}")),
            None => share_limits(&mut found, &name),
        }
        found.iter_mut().for_each(|route| route.conditions.operation = Some(condition.clone()));
        routes.extend(found);
    }
    routes.extend(rest);
    Some(routes)
}

/// Reads a table: a route for each of its hosts.
fn by_host(
    table: &TomlTable<'_>,
    written: &WrittenRoute,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
    references: &KnownListeners<'_>,
) -> Option<Vec<RouteConfig>> {
    let hosts = match table.value("host") {
        Some(value) => value.strings(host_pattern),
        None => vec![HostPattern::Any],
    };
    let path = match table.value("path") {
        Some(value) => value.parsed(|typed| path::prefix(typed).map(|()| typed.to_owned())),
        None => Some("/".to_owned()),
    };
    let target = target(table, &pool);
    let listeners = match table.value("listeners") {
        Some(value) => value.strings(|typed| references.check(typed)),
        None => Vec::new(),
    };
    let error_pages = table.value("error_pages").and_then(|value| error_pages::error_pages(&value));
    let filters = filters::filters(table, path.as_deref().unwrap_or("/"));
    let conditions = conditions::conditions(table);
    let path = path?;
    let target = target?;
    let timeouts = timeouts(table, &target);
    let mirror = table.value("mirror").and_then(|value| split::mirror(&value, &target, &pool));
    let route = |host| RouteConfig {
        host,
        path: path.clone(),
        conditions: conditions.clone(),
        target: target.clone(),
        listeners: listeners.clone(),
        mirror: mirror.clone(),
        timeouts: timeouts.clone(),
        error_pages: error_pages.clone(),
        filters: filters.clone(),
        written: written.clone(),
    };
    Some(hosts.into_iter().map(route).collect())
}

/// The routes of one table, for the names of what they share.
fn joined(routes: &[RouteConfig]) -> String {
    routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Makes the routes of one table count their limits together.
fn share_limits(routes: &mut [RouteConfig], name: &str) {
    routes.iter_mut().for_each(|route| throttle::in_route(&mut route.filters.limits, name));
}

/// Reads `timeouts`, which need a pool.
fn timeouts(table: &TomlTable<'_>, target: &RouteTo) -> RouteTimeouts {
    let Some(value) = table.value("timeouts") else { return RouteTimeouts::default() };
    if !matches!(target, RouteTo::Pool(_) | RouteTo::Split(_)) {
        let wrong = InvalidValue::new("`timeouts` has no effect on a route without a pool");
        value.fault(wrong.help("remove it"));
    }
    let wanted = "a table such as `{ response_header = \"5s\" }`";
    let Some(table) = value.table(&schema::ROUTE_TIMEOUTS, wanted) else {
        return RouteTimeouts::default();
    };
    let limit = |key| table.value(key).and_then(|value| value.duration(reader::SHORTEST));
    RouteTimeouts {
        response_header: limit("response_header"),
        body_idle: limit("body_idle"),
        stream_idle: limit("stream_idle"),
        tunnel_idle: limit("tunnel_idle"),
    }
}

/// What answers the requests: exactly one of a pool, a split, a redirect, a fixed response and files.
fn target(
    table: &TomlTable<'_>,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
) -> Option<RouteTo> {
    let mut set = ["pool", "split", "redirect", "respond", "files"]
        .into_iter()
        .filter(|key| table.value(key).is_some());
    let (first, second) = (set.next(), set.next());
    if let (Some(first), Some(second)) = (first, second) {
        let wrong = InvalidValue::new(format!("`{first}` and `{second}` cannot be used together"));
        table.refuse(&[second], |_| wrong.clone().help("remove one of the two"));
    }
    if first.is_some_and(|first| !matches!(first, "pool" | "split")) {
        table.refuse(&["decompress", "transform"], |key| {
            let wrong = InvalidValue::new(format!("`{key}` is used with `pool` or `split` only"));
            wrong.help("remove it: only bodies to and from backends are changed")
        });
    }
    match first {
        Some("split") => {
            table.value("split").and_then(|value| split::split(&value, pool)).map(RouteTo::Split)
        }
        Some("redirect") => table
            .value("redirect")
            .and_then(|value| filters::redirect(&value))
            .map(RouteTo::Redirect),
        Some("respond") => {
            table.value("respond").and_then(|value| filters::respond(&value)).map(RouteTo::Respond)
        }
        Some("files") => {
            table.value("files").and_then(|value| filters::files(&value)).map(RouteTo::Files)
        }
        _ => table
            .need("pool", "`pool = \"NAME\"`, `split`, `redirect`, `respond` or `files`")
            .and_then(|value| pool(&value))
            .map(RouteTo::Pool),
    }
}

/// The routes so far: hosts and normal paths, each with the listeners, the conditions and the offsets of its routes.
#[derive(Default)]
struct SeenRoutes(HashMap<(HostPattern, String), Vec<SeenRoute>>);

/// Listeners, conditions and offset of a route.
type SeenRoute = (Vec<String>, RouteConditions, usize);

impl SeenRoutes {
    fn add_all(&mut self, value: &TomlValue<'_>, routes: &[RouteConfig]) {
        for route in routes {
            self.add(value, (&route.host, &route.path), (&route.listeners, &route.conditions));
        }
    }

    /// Adds a route. A route for the same requests is a fault.
    fn add(
        &mut self,
        value: &TomlValue<'_>,
        (host, path): (&HostPattern, &str),
        (listeners, conditions): (&[String], &RouteConditions),
    ) {
        // A prefix covers the same paths with and without a trailing slash.
        let rule = (host.clone(), path::normal(path).trim_end_matches('/').to_owned());
        let at = value.at().start;
        let others = self.0.entry(rule).or_default();
        let meets = |other: &[String]| {
            listeners.is_empty() || other.is_empty() || listeners.iter().any(|l| other.contains(l))
        };
        let same = |(other, its, _): &&SeenRoute| its == conditions && meets(other);
        if let Some((_, _, first)) = others.iter().find(same) {
            let wrong = InvalidValue::new(match conditions.is_empty() {
                true => "another route already has this host and path",
                false => "another route already has this host, this path and this `match`",
            });
            let first = value.file.place(*first, at);
            value.fault(wrong.help(format!("remove one of the two; the first is {first}")));
        }
        others.push((listeners.to_vec(), conditions.clone(), at));
    }
}

/// The listeners that a route may name.
struct KnownListeners<'t> {
    /// Names of all listeners; `None`: they are not known.
    named: Option<Vec<&'t str>>,
    /// The listeners without a fault.
    read: &'t [ListenerConfig],
}

impl KnownListeners<'_> {
    /// Checks that a listener exists and uses routes.
    fn check(&self, typed: &str) -> Result<String, InvalidValue> {
        let read = self.read.iter().find(|listener| listener.name == typed);
        if let Some(listener) = read.filter(|listener| !listener.protocol.is_http()) {
            let protocol = listener.protocol.name();
            let message = format!(
                "listener {} does not use routes: it is a {protocol} listener",
                quoted(typed)
            );
            return Err(InvalidValue::new(message).help("name http and https listeners only"));
        }
        let Some(named) = self.named.as_ref().filter(|named| !named.contains(&typed)) else {
            return Ok(typed.to_owned());
        };
        let wrong = InvalidValue::new(format!("there is no listener {}", quoted(typed)));
        Err(match schema::nearest(typed, named.iter().copied()) {
            Some(near) => wrong.help(format!("did you mean \"{near}\"?")),
            None => wrong.help(format!("the listeners are {}", listed(named))),
        })
    }
}

fn listener_names<'t>(top: &TomlTable<'t>) -> Option<Vec<&'t str>> {
    let value = top.value("listeners").filter(|value| value.node.get_ref().is_table())?;
    Some(value.named().into_iter().map(|(_, name, _)| name).collect())
}

fn no_pool(typed: &str, pools: &[&str]) -> InvalidValue {
    let wrong = InvalidValue::new(format!("there is no pool {}", quoted(typed)));
    match (schema::nearest(typed, pools.iter().copied()), pools) {
        (Some(near), _) => wrong.help(format!("did you mean \"{near}\"?")),
        (None, []) => wrong.help(format!("add `[pools.{typed}]`")),
        (None, [only]) => wrong.help(format!("the only pool is \"{only}\"")),
        (None, pools) => wrong.help(format!("the pools are {}", listed(pools))),
    }
}

/// The first names, in quotes.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 10;
    let mut shown: Vec<String> =
        names.iter().take(MOST).map(|name| format!("\"{name}\"")).collect();
    if names.len() > MOST {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::no_pool;

    #[test]
    fn an_unknown_pool_gets_the_nearest_name() {
        let help = |typed, pools: &[&str]| no_pool(typed, pools).help;
        assert_eq!(help("chatt", &["blog", "chat"]).unwrap(), "did you mean \"chat\"?");
        assert_eq!(help("x", &["chat"]).unwrap(), "the only pool is \"chat\"");
        assert_eq!(help("x", &["chat", "blog"]).unwrap(), "the pools are \"chat\", \"blog\"");
    }
}

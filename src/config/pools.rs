//! `[pools.NAME]`: groups of interchangeable backends and how they are used.

use std::time::Duration;

use super::{
    BackendConfig, Balance, PoolConfig, ProbeConfig, Reuse, RouteConfig, Sticky, Timeouts,
    backends, drain,
    fault::InvalidValue,
    file::{TomlTable, TomlValue},
    health, names, path, proxy_out, reader, resilience, schema, sticky, tls,
};

/// Maximum number of connections to one backend, which the number of ports limits.
const MOST_CONNECTIONS: usize = 65_535;

/// Shortest age limit of a tunnel: a shorter one would make clients reconnect all the time.
const SHORTEST_AGE: Duration = Duration::from_secs(1);

/// Reads every pool, in file order. No backend may have an address of this process. The pools of `routes` use
/// HTTP/1.1.
pub(super) fn all(
    top: &TomlTable<'_>,
    own: &backends::OwnAddresses<'_>,
    routes: &[RouteConfig],
) -> Vec<PoolConfig> {
    let named = top.value("pools").map(|value| value.named()).unwrap_or_default();
    named
        .into_iter()
        .filter_map(|(at, name, value)| {
            names::check(top.file(), &at, name);
            let table = value.table(&schema::POOL, "a table with `backends`")?;
            let routed = routes.iter().any(|route| route.uses(name));
            Some(pool(name, &table, own, routed))
        })
        .collect()
}

fn pool(
    name: &str,
    table: &TomlTable<'_>,
    own: &backends::OwnAddresses<'_>,
    routed: bool,
) -> PoolConfig {
    let (backends, source) = table
        .need("backends", "`backends = [\"10.0.0.11:3000\"]`")
        .map(|value| backends::all(&value, own))
        .unwrap_or_default();
    let mut pool = PoolConfig { source, ..PoolConfig::new(name, backends) };
    if let Some(value) = table.value("balance") {
        pool.balance = balance(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("health") {
        pool.health = health::health(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("sticky") {
        pool.sticky = sticky::sticky(&value, name).unwrap_or_else(|| Sticky::of(name));
    }
    if let Some(value) = table.value("timeouts") {
        pool.timeouts = timeouts(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("reuse") {
        pool.reuse = reuse(&value).unwrap_or_default();
    }
    pool.drain = drain::drain(table, pool.drain);
    pool.max_connection_age =
        table.value("max_connection_age").and_then(|value| value.duration(SHORTEST_AGE));
    pool.on_down = table.value("on_down").and_then(|value| drain::on_down(&value));
    resilience::read(table, &mut pool);
    let http = http_users(&pool, routed);
    pool.tls = table.value("tls").and_then(|value| tls::backend(&value, http));
    let is_unix = |backend: &BackendConfig| backend.address.unix_path().is_some();
    if pool.tls.as_ref().is_some_and(|tls| tls.name.is_none())
        && let Some(backend) = pool.backends.iter().find(|backend| is_unix(backend))
        && let Some(value) = table.value("tls")
    {
        let message = format!("`tls` needs a `name` for {}, which has no host", backend.address);
        value.fault(InvalidValue::new(message).help("write `tls = { name = \"app.internal\" }`"));
    }
    pool.proxy_protocol = table.value("proxy_protocol").and_then(|value| proxy_out::read(&value));
    if let Some(value) = table.value("long_polls") {
        pool.long_polls = long_polls(&value);
    }
    if let Some(value) = table.value("rebalance").filter(|_| pool.balance == Balance::SourceHash) {
        let wrong = InvalidValue::new(
            "`rebalance` has no effect with `balance = \"source-hash\"`: clients return to their backend",
        );
        value.fault(wrong.help("remove `rebalance`, or choose another `balance`"));
    }
    pool
}

/// The plural noun of what uses HTTP/1.1 with the backends; `None`: nothing does.
fn http_users(pool: &PoolConfig, routed: bool) -> Option<&'static str> {
    match &pool.health.probe {
        _ if routed => Some("requests"),
        ProbeConfig::Off | ProbeConfig::Tcp => None,
        ProbeConfig::Http { .. } | ProbeConfig::EngineIo { .. } | ProbeConfig::WebSocket { .. } => {
            Some("probes")
        }
    }
}

/// Reads paths, in the form of paths of routes.
fn long_polls(value: &TomlValue<'_>) -> Vec<String> {
    let Some(elements) = value.elements() else {
        value.wrong_type("an array of paths");
        return Vec::new();
    };
    let prefix = |typed: &str| path::prefix(typed).map(|()| path::normal(typed).into_owned());
    elements.filter_map(|element| element.parsed(prefix)).collect()
}

fn balance(value: &TomlValue<'_>) -> Option<Balance> {
    value.choice(&[
        ("least-sessions", Balance::LeastSessions),
        ("round-robin", Balance::RoundRobin),
        ("p2c", Balance::P2c),
        ("source-hash", Balance::SourceHash),
    ])
}

fn timeouts(value: &TomlValue<'_>) -> Option<Timeouts> {
    let table = value.table(&schema::TIMEOUTS, "a table such as `{ connect = \"2s\" }`")?;
    let default = Timeouts::default();
    Some(Timeouts {
        connect: table.deadline("connect", default.connect),
        response_header: table.deadline("response_header", default.response_header),
        body_idle: table.deadline("body_idle", default.body_idle),
        stream_idle: table.value("stream_idle").and_then(|value| value.duration(reader::SHORTEST)),
        tunnel_idle: table.value("tunnel_idle").and_then(|value| value.duration(reader::SHORTEST)),
        half_closed: table.deadline("half_closed", default.half_closed),
    })
}

fn reuse(value: &TomlValue<'_>) -> Option<Reuse> {
    let table = value.table(&schema::REUSE, "a table such as `{ max_idle = 64 }`")?;
    let default = Reuse::default();
    Some(Reuse {
        max_idle: table.integer("max_idle", 0..=MOST_CONNECTIONS, default.max_idle),
        max_total: table.value("max_total").and_then(|value| value.integer(1..=MOST_CONNECTIONS)),
        idle_timeout: table.deadline("idle_timeout", default.idle_timeout),
    })
}

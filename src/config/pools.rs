//! `[pools.NAME]`: groups of interchangeable backends and how they are used.

use super::{
    Balance, Drain, Health, Pool, Probe, Reuse, Timeouts, backends,
    fault::{Wrong, quoted},
    file::{Table, Value},
    names, schema, sticky,
};

/// Most connections that can be kept or opened to one backend: there are no more ports.
const MOST_CONNECTIONS: usize = 65_535;

/// Most consecutive probes that a verdict can wait for.
const MOST_PROBES: u32 = 1000;

/// Every pool, in file order.
pub(super) fn all(top: &Table<'_>) -> Vec<Pool> {
    let named = top.value("pools").map(|value| value.named()).unwrap_or_default();
    named
        .into_iter()
        .filter_map(|(at, name, value)| {
            names::check(top.file(), &at, name);
            let table = value.table(&schema::POOL, "a table")?;
            Some(pool(name, &table))
        })
        .collect()
}

fn pool(name: &str, table: &Table<'_>) -> Pool {
    let backends = table
        .need("backends", "`backends = [\"10.0.0.11:3000\"]`")
        .map(|value| backends::all(&value))
        .unwrap_or_default();
    let mut pool = Pool::new(name, backends);
    if let Some(value) = table.value("balance") {
        pool.balance = balance(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("health") {
        pool.health = health(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("sticky") {
        pool.sticky = sticky::sticky(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("timeouts") {
        pool.timeouts = timeouts(&value).unwrap_or_default();
    }
    if let Some(value) = table.value("reuse") {
        pool.reuse = reuse(&value).unwrap_or_default();
    }
    pool.drain = Drain::within(table.period("drain", pool.drain.within));
    pool
}

fn balance(value: &Value<'_>) -> Option<Balance> {
    value.choice(&[
        ("least-sessions", Balance::LeastSessions),
        ("round-robin", Balance::RoundRobin),
        ("p2c", Balance::P2c),
        ("source-hash", Balance::SourceHash),
    ])
}

fn timeouts(value: &Value<'_>) -> Option<Timeouts> {
    let table = value.table(&schema::TIMEOUTS, "a table")?;
    let default = Timeouts::default();
    Some(Timeouts {
        connect: table.deadline("connect", default.connect),
        response_header: table.deadline("response_header", default.response_header),
        body_idle: table.deadline("body_idle", default.body_idle),
        tunnel_idle: table
            .value("tunnel_idle")
            .and_then(|value| value.duration(super::reader::SHORTEST)),
    })
}

fn reuse(value: &Value<'_>) -> Option<Reuse> {
    let table = value.table(&schema::REUSE, "a table")?;
    let default = Reuse::default();
    Some(Reuse {
        max_idle: table.integer("max_idle", 0..=MOST_CONNECTIONS, default.max_idle),
        max_total: table.value("max_total").and_then(|value| value.integer(1..=MOST_CONNECTIONS)),
        idle_timeout: table.deadline("idle_timeout", default.idle_timeout),
    })
}

fn health(value: &Value<'_>) -> Option<Health> {
    let table = value.table(&schema::HEALTH, "a table")?;
    let default = Health::default();
    let interval = table.deadline("interval", default.interval);
    // A shorter interval alone shall not ask for a shorter timeout too.
    let timeout = table.deadline("timeout", default.timeout.min(interval));
    if let Some(typed) = table.value("timeout").filter(|_| timeout > interval) {
        let message = format!(
            "the probe's timeout is longer than its interval, {}",
            humantime::format_duration(interval)
        );
        typed.fault(Wrong::new(message).help("a probe ends before the next one starts"));
    }
    Some(Health {
        probe: probe(&table)?,
        interval,
        timeout,
        rise: table.integer("rise", 1..=MOST_PROBES, default.rise),
        fall: table.integer("fall", 1..=MOST_PROBES, default.fall),
    })
}

/// What kind of probe is asked for; keys that belong to another kind are faults.
fn probe(table: &Table<'_>) -> Option<Probe> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Off,
        Tcp,
        Http,
    }
    let kinds = [("off", Kind::Off), ("tcp", Kind::Tcp), ("http", Kind::Http)];
    let kind = match table.value("probe") {
        Some(value) => value.choice(&kinds)?,
        None => Kind::Tcp,
    };
    if kind != Kind::Http {
        table.refuse(&["path", "host", "status"], |key| {
            Wrong::new(format!("`{key}` belongs to an http probe")).help("write `probe = \"http\"`")
        });
    }
    match kind {
        Kind::Off => {
            table.refuse(&["interval", "timeout", "rise", "fall"], |key| {
                Wrong::new(format!("`{key}` has no meaning where `probe` is \"off\""))
            });
            Some(Probe::Off)
        }
        Kind::Tcp => Some(Probe::Tcp),
        Kind::Http => Some(Probe::Http {
            path: table
                .value("path")
                .and_then(|value| value.parsed(target))
                .unwrap_or_else(|| "/".to_owned()),
            host: table.value("host").and_then(|value| value.parsed(host)),
            status: table.value("status").and_then(|value| statuses(&value)).unwrap_or((200, 399)),
        }),
    }
}

/// A request target in origin form: path and query.
fn target(typed: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("{} is no path", quoted(typed)));
    if !typed.starts_with('/') {
        return Err(wrong().help("a path starts with a slash: \"/healthz\""));
    }
    if typed.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(wrong().help("write other characters percent-encoded"));
    }
    Ok(typed.to_owned())
}

/// A `Host` header's value.
fn host(typed: &str) -> Result<String, Wrong> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if typed.is_empty() || !typed.chars().all(allowed) {
        return Err(Wrong::new(format!("{} is no host", quoted(typed)))
            .help("write a name, with a port if the server wants one: \"chat.example.com\""));
    }
    Ok(typed.to_owned())
}

/// The statuses of a healthy answer: 200, "200" or "200-399".
fn statuses(value: &Value<'_>) -> Option<(u16, u16)> {
    if value.node.get_ref().is_integer() {
        return value.integer(200..=599).map(|status| (status, status));
    }
    if !value.node.get_ref().is_str() {
        value.is_not("a status as 200 or a range as \"200-399\"");
        return None;
    }
    value.parsed(status_range)
}

fn status_range(typed: &str) -> Result<(u16, u16), Wrong> {
    let (low, high) = typed.split_once('-').unwrap_or((typed, typed));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|s| (200..=599).contains(s));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(Wrong::new(format!("{} is no range of statuses", quoted(typed)))
            .help("write \"200-399\"; statuses are from 200 to 599")),
    }
}

#[cfg(test)]
mod tests {
    use super::{host, status_range, target};

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(status_range("200-399"), Ok((200, 399)));
        assert_eq!(status_range("204"), Ok((204, 204)));
        for bad in ["", "-", "399-200", "100-199", "200-600", "ok", "200-", "200-300-400"] {
            assert!(status_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn probes_ask_for_what_a_request_can_carry() {
        assert!(target("/healthz?full=1").is_ok());
        for bad in ["", "healthz", "/a b", "/a\r\nX: y", "/a#b", "/ü"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        assert!(host("chat.example.com:3000").is_ok() && host("[::1]:80").is_ok());
        for bad in ["", "a b", "a\r\nb", "a/b", "user@a"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}

//! `[pools.NAME.health]`: how backends are probed.

use super::{
    HealthConfig, ProbeConfig,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    schema,
};

/// Default statuses of a healthy response. Redirects are not followed.
const HEALTHY: (u16, u16) = (200, 299);

/// Maximum of `rise` and `fall`.
const MOST_PROBES: u32 = 1000;

/// Reads the table.
pub(super) fn health(value: &TomlValue<'_>) -> Option<HealthConfig> {
    let table = value.table(&schema::HEALTH, "a table such as `{ probe = \"engine.io\" }`")?;
    let default = HealthConfig::default();
    let interval = table.deadline("interval", default.interval);
    // A short interval without a timeout shortens the default timeout.
    let timeout = table.deadline("timeout", default.timeout.min(interval));
    if let Some(typed) = table.value("timeout").filter(|_| timeout > interval) {
        let message = format!(
            "`timeout` is longer than `interval`, {}",
            humantime::format_duration(interval)
        );
        typed.fault(
            InvalidValue::new(message).help("write at most `interval`, or a longer `interval`"),
        );
    }
    Some(HealthConfig {
        probe: probe(&table)?,
        interval,
        timeout,
        rise: table.integer("rise", 1..=MOST_PROBES, default.rise),
        fall: table.integer("fall", 1..=MOST_PROBES, default.fall),
    })
}

/// The value of `probe`.
#[derive(Clone, Copy, PartialEq)]
enum ProbeKind {
    Off,
    Tcp,
    Http,
    EngineIo,
    WebSocket,
}

/// Reads the probe.
fn probe(table: &TomlTable<'_>) -> Option<ProbeConfig> {
    let kinds = [
        ("off", ProbeKind::Off),
        ("tcp", ProbeKind::Tcp),
        ("http", ProbeKind::Http),
        ("engine.io", ProbeKind::EngineIo),
        ("websocket", ProbeKind::WebSocket),
    ];
    let kind = match table.value("probe") {
        Some(value) => value.choice(&kinds)?,
        None => ProbeKind::Tcp,
    };
    refuse_unused_keys(kind, table);
    let path = |parse: fn(&str) -> Result<String, InvalidValue>, default: &str| {
        let typed = table.value("path").and_then(|value| value.parsed(parse));
        typed.unwrap_or_else(|| default.to_owned())
    };
    let host = || table.value("host").and_then(|value| value.parsed(host));
    Some(match kind {
        ProbeKind::Off => ProbeConfig::Off,
        ProbeKind::Tcp => ProbeConfig::Tcp,
        ProbeKind::Http => ProbeConfig::Http {
            path: path(target, "/"),
            host: host(),
            status: table.value("status").and_then(|value| statuses(&value)).unwrap_or(HEALTHY),
        },
        ProbeKind::EngineIo => {
            ProbeConfig::EngineIo { path: path(bare_path, "/socket.io/"), host: host() }
        }
        ProbeKind::WebSocket => ProbeConfig::WebSocket { path: path(target, "/"), host: host() },
    })
}

/// Notes keys that this kind of probe does not use.
fn refuse_unused_keys(kind: ProbeKind, table: &TomlTable<'_>) {
    if matches!(kind, ProbeKind::Off | ProbeKind::Tcp) {
        table.refuse(&["path", "host"], |key| {
            InvalidValue::new(format!(
                "`{key}` is used by http, engine.io and websocket probes only"
            ))
            .help("add `probe = \"http\"`, `\"engine.io\"` or `\"websocket\"`, or remove it")
        });
    }
    if kind != ProbeKind::Http {
        table.refuse(&["status"], |key| {
            InvalidValue::new(format!("`{key}` is used by http probes only"))
                .help("add `probe = \"http\"`, or remove it")
        });
    }
    if kind == ProbeKind::Off {
        table.refuse(&["interval", "timeout", "rise", "fall"], |key| {
            InvalidValue::new(format!("`{key}` is not used when `probe` is \"off\""))
                .help("remove it")
        });
    }
}

/// A request target in origin form: path and query.
fn target(typed: &str) -> Result<String, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid path {}", quoted(typed)));
    if !typed.starts_with('/') {
        return Err(wrong().help("a path starts with a slash: \"/healthz\""));
    }
    if typed.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(wrong().help("write other characters percent-encoded"));
    }
    Ok(typed.to_owned())
}

/// A path without a query: the probe adds its query.
fn bare_path(typed: &str) -> Result<String, InvalidValue> {
    if typed.contains('?') {
        return Err(InvalidValue::new(format!(
            "{} has a query, which the probe adds itself",
            quoted(typed)
        ))
        .help("write the path alone: \"/socket.io/\""));
    }
    target(typed)
}

/// A `Host` header's value.
fn host(typed: &str) -> Result<String, InvalidValue> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if typed.is_empty() || !typed.chars().all(allowed) {
        return Err(InvalidValue::new(format!("invalid host {}", quoted(typed)))
            .help("write a name, with a port if the server wants one: \"chat.example.com\""));
    }
    Ok(typed.to_owned())
}

/// The statuses of a healthy answer: 200, "200" or "200-399".
fn statuses(value: &TomlValue<'_>) -> Option<(u16, u16)> {
    if value.node.get_ref().is_integer() {
        return value.integer(200..=599).map(|status| (status, status));
    }
    if !value.node.get_ref().is_str() {
        value.wrong_type("a status such as 200 or a range such as \"200-399\"");
        return None;
    }
    value.parsed(status_range)
}

fn status_range(typed: &str) -> Result<(u16, u16), InvalidValue> {
    let (low, high) = typed.split_once('-').unwrap_or((typed, typed));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|s| (200..=599).contains(s));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(InvalidValue::new(format!("invalid range of statuses {}", quoted(typed)))
            .help("write for example \"200-399\"; statuses are from 200 to 599")),
    }
}

#[cfg(test)]
mod tests {
    use super::{bare_path, host, status_range, target};

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(status_range("200-399"), Ok((200, 399)));
        assert_eq!(status_range("204"), Ok((204, 204)));
        for bad in ["", "-", "399-200", "100-199", "200-600", "ok", "200-", "200-300-400"] {
            assert!(status_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn probe_targets_are_valid_request_targets() {
        assert!(target("/healthz?full=1").is_ok());
        for bad in ["", "healthz", "/a b", "/a\r\nX: y", "/a#b", "/ü"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        assert!(bare_path("/socket.io/").is_ok() && bare_path("/socket.io/?EIO=4").is_err());
        assert!(host("chat.example.com:3000").is_ok() && host("[::1]:80").is_ok());
        for bad in ["", "a b", "a\r\nb", "a/b", "user@a"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}

//! `drain`, `on_down` and `upgrade`: how sessions are moved away.

use std::time::Duration;

use super::{
    DrainConfig, Upgrade,
    defaults::ON_DOWN_SPREAD,
    fault::InvalidValue,
    file::{TomlTable, TomlValue},
    reader::SHORTEST,
    schema,
};

/// Longest `ready`. An API client waits for the upgrade on one connection, which lives for five
/// minutes.
const LONGEST_READY: Duration = Duration::from_secs(240);

/// Reads the `drain` of a table: a duration, or a table of `within` and `spread`.
pub(super) fn drain(table: &TomlTable<'_>, default: DrainConfig) -> DrainConfig {
    table.value("drain").and_then(|value| terms(&value)).unwrap_or(default)
}

fn terms(value: &TomlValue<'_>) -> Option<DrainConfig> {
    if !value.node.get_ref().is_table() {
        if value.node.get_ref().is_str() {
            return value.duration(Default::default()).map(DrainConfig::within);
        }
        let wanted = "a duration such as \"5m\" or a table `{ within = \"5m\", spread = \"2m\" }`";
        value.wrong_type_with_help(wanted, || {
            value.as_duration().map(|text| format!("add a unit and quotes: \"{text}\""))
        });
        return None;
    }
    let table = value.table(&schema::DRAIN, "a table")?;
    let within = table.need("within", "`within = \"5m\"`")?.duration(Default::default())?;
    let spread = table.period("spread", DrainConfig::within(within).spread);
    if let Some(typed) = table.value("spread").filter(|_| spread > within) {
        let message = format!(
            "`spread` is longer than the whole drain, {}",
            humantime::format_duration(within)
        );
        typed.fault(
            InvalidValue::new(message).help("write at most `within`; the default is half of it"),
        );
    }
    Some(DrainConfig { within, spread })
}

/// Reads `on_down`, which is about the tunnels of a backend that is down: `"keep"`, `"close"`, or a table
/// with the time over which they are closed.
pub(super) fn on_down(value: &TomlValue<'_>) -> Option<Duration> {
    let typed = value.node.get_ref();
    if typed.is_str() {
        return value.choice(&[("keep", None), ("close", Some(ON_DOWN_SPREAD))]).flatten();
    }
    if !typed.is_table() {
        value.wrong_type("\"keep\", \"close\" or a table `{ close = \"10s\" }`");
        return None;
    }
    let table = value.table(&schema::ON_DOWN, "a table")?;
    table.need("close", "`close = \"10s\"`")?.duration(Duration::ZERO)
}

/// Reads `upgrade`.
pub(super) fn upgrade(value: &TomlValue<'_>) -> Option<Upgrade> {
    let table = value.table(&schema::UPGRADE, "a table, `[upgrade]`")?;
    let default = Upgrade::default();
    Some(Upgrade {
        drain: drain(&table, default.drain),
        ready: table
            .value("ready")
            .and_then(|value| value.duration_within(SHORTEST..=LONGEST_READY))
            .unwrap_or(default.ready),
    })
}

//! `drain` and `upgrade`: how something is emptied of the sessions it has.

use std::time::Duration;

use super::{
    Drain, Upgrade,
    fault::Wrong,
    file::{Table, Value},
    reader::SHORTEST,
    schema,
};

/// Longest `ready`: whoever asks for an upgrade over the API waits for it on one connection, and those
/// live for five minutes.
const LONGEST_READY: Duration = Duration::from_secs(240);

/// The `drain` of a table: a duration, or a table of one and the part in which closes are spread.
pub(super) fn drain(table: &Table<'_>, default: Drain) -> Drain {
    table.value("drain").and_then(|value| terms(&value)).unwrap_or(default)
}

fn terms(value: &Value<'_>) -> Option<Drain> {
    if !value.node.get_ref().is_table() {
        let whole = value.node.get_ref().is_str().then(|| value.duration(Default::default()));
        return whole.map_or_else(
            || {
                value.is_not(
                    "a duration as \"5m\" or a table `{ within = \"5m\", spread = \"2m\" }`",
                );
                None
            },
            |within| within.map(Drain::within),
        );
    }
    let table = value.table(&schema::DRAIN, "a table")?;
    let within = table.need("within", "`within = \"5m\"`")?.duration(Default::default())?;
    let spread = table.period("spread", Drain::within(within).spread);
    if let Some(typed) = table.value("spread").filter(|_| spread > within) {
        let message = format!(
            "closes are spread over longer than the drain, {}",
            humantime::format_duration(within)
        );
        typed.fault(Wrong::new(message).help("write at most `within`; half of it is the default"));
    }
    Some(Drain { within, spread })
}

/// Reads `upgrade`.
pub(super) fn upgrade(value: &Value<'_>) -> Option<Upgrade> {
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

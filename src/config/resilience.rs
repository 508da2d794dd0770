//! Slow start, outlier ejection, limits, admission and rebalancing of a pool.

use std::ops::RangeInclusive;

use super::{
    Admission, HeaderLimits, Limits, Outlier, PoolConfig, RebalanceConfig,
    defaults::{ADMISSION_DEADLINE, ADMISSION_QUEUE},
    fault::InvalidValue,
    file::{TomlTable, TomlValue},
    reader::SHORTEST,
    schema,
};

/// Maximum number of connections to one backend, which the number of ports limits.
const MOST_CONNECTIONS: usize = 65_535;

/// Maximum of counts and queues of requests.
const MOST_REQUESTS: u32 = 1_000_000;

/// Longest wait for admission. A Socket.IO client gives up after 20 s; with a reply before that, it
/// retries at the time of `Retry-After`.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(19);

/// Bounds of a header's size. Ordinary cookies need 8 KiB.
const HEADER_SIZES: RangeInclusive<usize> = (8 << 10)..=(4 << 20);

/// Bounds of the number of its fields.
const HEADER_FIELDS: RangeInclusive<usize> = 16..=10_000;

/// Reads these keys of a pool's table.
pub(super) fn read(table: &TomlTable<'_>, pool: &mut PoolConfig) {
    pool.slow_start = table.period("slow_start", pool.slow_start);
    pool.outlier = table.value("outlier").and_then(|value| outlier(&value));
    pool.healthy_minimum = table.percent("healthy_minimum", 0, pool.healthy_minimum);
    if let Some(value) = table.value("limits") {
        limits(&value, pool);
    }
    pool.admission = table.value("admission").and_then(|value| admission(&value));
    pool.rebalance = table.value("rebalance").and_then(|value| rebalance(&value));
}

/// Reads `false`, `true` or a table.
fn outlier(value: &TomlValue<'_>) -> Option<Outlier> {
    if let Some(on) = value.switch() {
        return on.then(Outlier::default);
    }
    let table =
        value.table(&schema::OUTLIER, "true, false or a table such as `{ consecutive = 5 }`")?;
    let default = Outlier::default();
    let ejection = table.deadline("ejection", default.ejection);
    // A long `ejection` without `max_ejection` raises the default maximum.
    let max_ejection = table.deadline("max_ejection", default.max_ejection.max(ejection));
    if let Some(typed) = table.value("max_ejection").filter(|_| max_ejection < ejection) {
        let first = humantime::format_duration(ejection);
        let message = format!("`max_ejection` is shorter than `ejection`, {first}");
        typed.fault(InvalidValue::new(message).help("write at least `ejection`"));
    }
    Some(Outlier {
        consecutive: table.integer("consecutive", 1..=MOST_REQUESTS, default.consecutive),
        error_rate: table.percent("error_rate", 0, default.error_rate),
        min_requests: table.integer("min_requests", 1..=MOST_REQUESTS, default.min_requests),
        interval: table.deadline("interval", default.interval),
        ejection,
        max_ejection,
        max_ejected: table.percent("max_ejected", 1, default.max_ejected),
    })
}

fn limits(value: &TomlValue<'_>, pool: &mut PoolConfig) {
    let wanted = "a table such as `{ connections = 5000 }`";
    let Some(table) = value.table(&schema::LIMITS, wanted) else { return };
    let most = MOST_REQUESTS as usize;
    pool.limits = Limits {
        connections: table.value("connections").and_then(|v| v.integer(1..=MOST_CONNECTIONS)),
        pending: table.value("pending").and_then(|value| value.integer(0..=most)),
    };
    pool.response_header = header_limits(&table, pool.response_header);
}

/// Reads `header_size` and `header_fields`.
pub(super) fn header_limits(table: &TomlTable<'_>, default: HeaderLimits) -> HeaderLimits {
    let size = table.value("header_size").and_then(|value| value.size(HEADER_SIZES));
    HeaderLimits {
        size: size.unwrap_or(default.size),
        fields: table.integer("header_fields", HEADER_FIELDS, default.fields),
    }
}

fn admission(value: &TomlValue<'_>) -> Option<Admission> {
    let table = value.table(&schema::ADMISSION, "a table such as `{ rate = \"100/s\" }`")?;
    let deadline = table.value("deadline");
    let admission = Admission {
        rate: table.need("rate", "`rate = \"100/s\"`")?.rate()?,
        queue: table.integer("queue", 0..=MOST_REQUESTS as usize, ADMISSION_QUEUE),
        deadline: deadline
            .and_then(|value| value.duration_within(SHORTEST..=LONGEST_WAIT))
            .unwrap_or(ADMISSION_DEADLINE),
    };
    Some(admission)
}

fn rebalance(value: &TomlValue<'_>) -> Option<RebalanceConfig> {
    let table = value.table(&schema::REBALANCE, "a table such as `{ rate = \"50/s\" }`")?;
    Some(RebalanceConfig { rate: table.need("rate", "`rate = \"50/s\"`")?.rate()? })
}

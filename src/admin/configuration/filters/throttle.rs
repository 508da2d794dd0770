//! The limits of a route as JSON.

use serde_json::{Value, json};

use crate::config::{LimitConfig, Quota, Rate};

pub(super) fn limit(limit: &LimitConfig) -> Value {
    let LimitConfig {
        scope: _,
        name,
        key,
        what,
        rate,
        burst,
        concurrent,
        tunnels,
        quota,
        ipv6_prefix,
        max_keys,
        fields,
    } = limit;
    json!({
        "name": name,
        "key": key.written(),
        "what": what.word(),
        "rate": rate.map(|Rate { times, per }| json!({ "times": times, "per": per.as_secs_f64() })),
        "burst": rate.map(|_| burst),
        "concurrent": concurrent,
        "tunnels": tunnels,
        "quota": quota.map(|Quota { times, period }| json!({ "times": times, "per": period })),
        "ipv6_prefix": ipv6_prefix,
        "max_keys": max_keys,
        "fields": fields.word(),
    })
}

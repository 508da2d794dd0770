//! The limits of a route as JSON.

use serde_json::{Value, json};

use crate::config::{LimitConfig, MessagesConfig, Quota, Rate};

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
        "rate": rate.map(per),
        "burst": rate.map(|_| burst),
        "concurrent": concurrent,
        "tunnels": tunnels,
        "quota": quota.map(|Quota { times, period }| json!({ "times": times, "per": period })),
        "ipv6_prefix": ipv6_prefix,
        "max_keys": max_keys,
        "fields": fields.word(),
    })
}

pub(super) fn messages(messages: &MessagesConfig) -> Value {
    let MessagesConfig { max_size, rate, burst, patience } = messages;
    json!({
        "max_size": max_size,
        "rate": rate.map(per),
        "burst": rate.map(|_| burst),
        "patience": patience.as_secs_f64(),
    })
}

pub(in crate::admin::configuration) fn per(rate: Rate) -> Value {
    let Rate { times, per } = rate;
    json!({ "times": times, "per": per.as_secs_f64() })
}

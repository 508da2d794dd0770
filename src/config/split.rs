//! `split` of a route, several pools by weight, and `mirror`, a pool that gets copies.

use super::{
    MirrorConfig, RouteTo, SplitPool, conditions,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Largest weight.
const HEAVIEST: u32 = 65_535;

/// Maximum number of pools: each is looked up for a session.
const MOST: usize = 16;

/// Reads the pools of a split. `pool` reads the name of a pool.
pub(super) fn split(
    value: &TomlValue<'_>,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
) -> Option<Vec<SplitPool>> {
    let wanted =
        "an array such as `[{ pool = \"stable\", weight = 95 }, { pool = \"next\", weight = 5 }]`";
    let Some(elements) = value.elements() else {
        value.wrong_type(wanted);
        return None;
    };
    let elements: Vec<TomlValue<'_>> = elements.collect();
    let read: Vec<Option<SplitPool>> =
        elements.iter().map(|element| part(element, &pool)).collect();
    if !(2..=MOST).contains(&read.len()) {
        let wrong = InvalidValue::new(format!("a split has from 2 to {MOST} pools"));
        value.fault(wrong.help("use `pool` for one pool"));
        return None;
    }
    for (at, part) in read.iter().enumerate() {
        let same = |other: &Option<SplitPool>| matches!((part, other), (Some(one), Some(other)) if one.pool == other.pool);
        if read[..at].iter().any(same) {
            let wrong = InvalidValue::new("this split already has the pool");
            elements[at].fault(wrong.help("write each pool once, with the sum of its weights"));
        }
    }
    let parts: Vec<SplitPool> = read.into_iter().collect::<Option<_>>()?;
    if parts.iter().all(|part| part.weight == 0) {
        let wrong = InvalidValue::new("every weight is 0");
        value.fault(wrong.help("give at least one pool a weight"));
        return None;
    }
    Some(parts)
}

fn part(
    value: &TomlValue<'_>,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
) -> Option<SplitPool> {
    let table = value.table(&schema::SPLIT, "a table such as `{ pool = \"next\", weight = 5 }`")?;
    let name = table.need("pool", "`pool = \"NAME\"`").and_then(|value| pool(&value));
    let weight = table.need("weight", "`weight = 5`").and_then(|value| value.integer(0..=HEAVIEST));
    let texts = |key| {
        let value = table.value(key)?;
        Some(conditions::named(&value, conditions::token))
    };
    Some(SplitPool {
        pool: name?,
        weight: weight?,
        headers: texts("header").unwrap_or_default(),
        cookies: texts("cookie").unwrap_or_default(),
    })
}

/// Largest body of a copied request.
const LARGEST_COPY: usize = 1 << 20;

/// Reads the name of a pool, or a table with it. The route must send its requests to other pools.
pub(super) fn mirror(
    value: &TomlValue<'_>,
    target: &RouteTo,
    pool: impl Fn(&TomlValue<'_>) -> Option<String>,
) -> Option<MirrorConfig> {
    let own: Vec<&str> = match target {
        RouteTo::Pool(pool) => vec![pool],
        RouteTo::Split(parts) => parts.iter().map(|part| part.pool.as_str()).collect(),
        _ => {
            let wrong = InvalidValue::new("`mirror` has no effect on a route without a pool");
            value.fault(wrong.help("remove it"));
            return None;
        }
    };
    let other = |value: &TomlValue<'_>| {
        let name = pool(value)?;
        if own.contains(&name.as_str()) {
            let message = format!("the route sends its requests to {} already", quoted(&name));
            value.fault(InvalidValue::new(message).help("write another pool"));
        }
        Some(name)
    };
    let default = |pool| MirrorConfig { pool, share: 100, max_body: 64 << 10, max_in_flight: 64 };
    if value.node.get_ref().is_str() {
        return other(value).map(default);
    }
    let wanted = "the name of a pool, or a table such as `{ pool = \"next\", share = \"10%\" }`";
    let table = value.table(&schema::MIRROR, wanted)?;
    let pool = table.need("pool", "`pool = \"NAME\"`").and_then(|value| other(&value));
    let default = default(String::new());
    let max_body = table.value("max_body").and_then(|value| value.size(0..=LARGEST_COPY));
    Some(MirrorConfig {
        share: table.percent("share", 1, default.share),
        max_body: max_body.unwrap_or(default.max_body),
        max_in_flight: table.integer("max_in_flight", 1..=10_000, default.max_in_flight),
        pool: pool?,
    })
}

//! The limits of a route.

use std::time::Duration;

use super::super::{
    Counted, LimitConfig, LimitFields, LimitKey, MessagesConfig, Quota,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Most limits of a route. A request takes part in each.
const MOST: usize = 16;

/// Largest number in a quota.
const LARGEST_QUOTA: u32 = 1_000_000_000;

/// Largest size of a WebSocket message. Sizes are exact in every implementation up to here.
const LARGEST_MESSAGE: usize = 1 << 40;

/// How long a client may be beyond its rate of messages.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest name of a limit, and of a field, a cookie or a parameter, in bytes.
const LONGEST_NAME: usize = 64;

/// Reads one limit, or an array of them. Their scopes are set by [`in_route`].
pub(super) fn limits(value: &TomlValue<'_>) -> Vec<LimitConfig> {
    let read: Vec<Option<LimitConfig>> = match value.elements() {
        Some(elements) => elements.map(|element| limit(&element)).collect(),
        None => vec![limit(value)],
    };
    if read.len() > MOST {
        let wrong = InvalidValue::new(format!("more than {MOST} limits"));
        value.fault(wrong.help("remove some of them"));
    }
    named(read.into_iter().flatten().collect())
}

/// Gives names to the limits without one: what they count, and their number if several count equal requests.
fn named(mut limits: Vec<LimitConfig>) -> Vec<LimitConfig> {
    for at in 0..limits.len() {
        if limits[at].name.is_empty() {
            let word = limits[at].what.word();
            let before = limits[..at].iter().filter(|limit| limit.what.word() == word).count();
            limits[at].name =
                if before == 0 { word.to_owned() } else { format!("{word}-{}", before + 1) };
        }
    }
    limits
}

/// Makes the counters of limits without a name belong to this route.
pub(in crate::config) fn in_route(limits: &mut [LimitConfig], route: &str) {
    for (at, limit) in limits.iter_mut().enumerate() {
        if limit.scope.is_empty() {
            limit.scope = format!("{route} {at}");
        }
    }
}

fn limit(value: &TomlValue<'_>) -> Option<LimitConfig> {
    let wanted = "a table such as `{ key = \"client\", rate = \"10/s\" }`";
    let table = value.table(&schema::ROUTE_LIMIT, wanted)?;
    let whats = [Counted::Requests, Counted::Handshakes, Counted::Posts, Counted::Polls];
    let whats = whats.map(|what| (what.word(), what));
    let fields = [LimitFields::Always, LimitFields::Refusals, LimitFields::Never];
    let fields = fields.map(|fields| (fields.word(), fields));
    let rate = table.value("rate").and_then(|value| value.rate());
    let number = |key| table.value(key).and_then(|value| value.integer(1..=1_000_000));
    let what = table.value("what").and_then(|value| value.choice(&whats));
    let name = table.value("name").and_then(|value| value.parsed(name)).unwrap_or_default();
    if !["rate", "concurrent", "tunnels", "quota"].iter().any(|key| table.value(key).is_some()) {
        let wrong = InvalidValue::new("the limit limits nothing");
        let help = "set `rate = \"10/s\"`, `concurrent`, `tunnels` or `quota`";
        table.file().missing(table.at(), wrong.help(help));
    }
    if table.value("rate").is_none() {
        table.refuse(&["burst"], |_| {
            InvalidValue::new("`burst` needs a rate").help("add `rate = \"10/s\"`")
        });
    }
    Some(LimitConfig {
        scope: if name.is_empty() { String::new() } else { format!("name {name}") },
        name,
        key: table.value("key").and_then(|value| value.parsed(key)).unwrap_or(LimitKey::Client),
        what: what.unwrap_or(Counted::Requests),
        burst: number("burst").or(rate.map(|rate| rate.times)).unwrap_or(1),
        rate,
        concurrent: number("concurrent"),
        tunnels: number("tunnels"),
        quota: table.value("quota").and_then(|value| value.parsed(quota)),
        ipv6_prefix: table.integer("ipv6_prefix", 32..=128, 64),
        max_keys: table.integer("max_keys", 16..=10_000_000, 100_000),
        fields: table
            .value("fields")
            .and_then(|value| value.choice(&fields))
            .unwrap_or(LimitFields::Always),
    })
}

/// Reads the limits of WebSocket messages.
pub(super) fn messages(value: &TomlValue<'_>) -> Option<MessagesConfig> {
    let wanted = "a table such as `{ max_size = \"64KiB\", rate = \"50/s\" }`";
    let table = value.table(&schema::MESSAGES, wanted)?;
    let rate = table.value("rate").and_then(|value| value.rate());
    if table.value("rate").is_none() {
        table.refuse(&["burst", "patience"], |key| {
            InvalidValue::new(format!("`{key}` needs a rate")).help("add `rate = \"50/s\"`")
        });
    }
    let burst = table.value("burst").and_then(|value| value.integer(1..=1_000_000));
    let max_size = table.value("max_size").and_then(|value| value.size(1..=LARGEST_MESSAGE));
    Some(MessagesConfig {
        max_size: max_size.map(|size| size as u64),
        burst: burst.or(rate.map(|rate| rate.times)).unwrap_or(1),
        rate,
        patience: table.deadline("patience", PATIENCE),
    })
}

/// A name for a structured field: a string of letters, digits and a few marks.
fn name(typed: &str) -> Result<String, InvalidValue> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=LONGEST_NAME).contains(&typed.len()) && typed.bytes().all(allowed) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid name {}", quoted(typed))).help(format!(
            "write at most {LONGEST_NAME} letters, digits, dots, hyphens and underscores"
        ))),
    }
}

fn key(typed: &str) -> Result<LimitKey, InvalidValue> {
    let (kind, name) = typed.split_once(':').unwrap_or((typed, ""));
    let token = || match moorline_http::is_token(name.as_bytes()) && name.len() <= LONGEST_NAME {
        true => Ok(name.to_owned()),
        false => Err(InvalidValue::new(format!("invalid name {}", quoted(name)))
            .help(format!("write a name behind the colon: \"{kind}:NAME\""))),
    };
    match kind {
        _ if typed == "client" => Ok(LimitKey::Client),
        _ if typed == "route" => Ok(LimitKey::Route),
        _ if typed == "subject" => Ok(LimitKey::Subject),
        _ if typed == "api_key" => Ok(LimitKey::ApiKey),
        "jwt" if !name.is_empty() => Ok(LimitKey::Claim(name.to_owned())),
        "header" => Ok(LimitKey::Header(token()?)),
        "cookie" => Ok(LimitKey::Cookie(token()?)),
        "query" => Ok(LimitKey::Query(token()?)),
        _ => {
            let wrong = InvalidValue::new(format!("invalid key {}", quoted(typed)));
            Err(wrong.help(
                "use \"client\", \"route\", \"header:NAME\", \"cookie:NAME\", \"query:NAME\", \"subject\", \
                 \"api_key\" or \"jwt:CLAIM\"",
            ))
        }
    }
}

/// A count per day or hour: "10000/d", "500/h".
fn quota(typed: &str) -> Result<Quota, InvalidValue> {
    let (number, unit) = typed.split_once('/').unwrap_or((typed, ""));
    let number = number.trim();
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let times = number.parse().ok().filter(|times| digits && (1..=LARGEST_QUOTA).contains(times));
    let period = match unit.trim() {
        "d" => Some(86_400),
        "h" => Some(3600),
        _ => None,
    };
    match (times, period) {
        (Some(times), Some(period)) => Ok(Quota { times, period }),
        _ => Err(InvalidValue::new(format!("invalid quota {}", quoted(typed))).help(format!(
            "write a number from 1 to {LARGEST_QUOTA} per day or hour: \"10000/d\" or \"500/h\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_counts_per_day_or_hour() {
        assert_eq!(quota("10000/d"), Ok(Quota { times: 10_000, period: 86_400 }));
        assert_eq!(quota("5 / h"), Ok(Quota { times: 5, period: 3600 }));
        for bad in ["", "5", "/d", "0/d", "5/s", "5/w", "-1/d", "1e3/d", "99999999999/d"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_name_what_is_counted_by() {
        for typed in [
            "client",
            "route",
            "header:X-Tenant",
            "cookie:user",
            "query:token",
            "subject",
            "api_key",
            "jwt:realm.sub",
        ] {
            assert_eq!(key(typed).unwrap().written(), typed);
        }
        for bad in [
            "",
            "clients",
            "client:x",
            "route:",
            "header",
            "header:",
            "header:a b",
            "jwt:",
            "subject:x",
        ] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}

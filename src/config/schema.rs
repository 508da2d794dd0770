//! Every key of a configuration: its type, default, meaning and an example.
//!
//! Readers, advice about unknown keys, the JSON Schema and the reference page are made from this one
//! list. A test compares the types and defaults with what the readers do.

mod admin;
mod auth;
mod backend_tls;
mod backends;
mod bodies;
mod cache;
mod conditions;
mod filters;
mod health;
mod json;
mod listener;
mod networks;
mod openapi;
mod page;
mod pool;
mod process;
mod route;
mod split;
mod state;
mod sticky;
mod throttle;
mod tls;
mod traffic;

use strsim::damerau_levenshtein;

pub(super) use self::{
    admin::*, auth::*, backend_tls::*, backends::*, bodies::*, cache::*, conditions::*, filters::*,
    health::*, listener::*, networks::*, openapi::*, pool::*, process::*, route::*, split::*,
    state::*, sticky::*, throttle::*, tls::*, traffic::*,
};
pub use self::{json::json_schema, page::reference_page};
use super::fault::quoted;

/// One kind of table and the keys that it may have.
#[derive(Debug)]
pub struct Section {
    /// Its address: `pools.NAME.health`; empty for the top level.
    pub name: &'static str,
    /// Its heading on the reference page, as it is written in a file.
    pub heading: &'static str,
    /// What the table is for, in Markdown.
    pub about: &'static str,
    /// Its keys, in the order of the reference page.
    pub keys: &'static [SchemaKey],
    /// More about the keys together, in Markdown.
    pub notes: &'static str,
}

/// One key of a table.
#[derive(Debug)]
pub struct SchemaKey {
    /// Its name.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: ValueKind,
    /// The value if the key is not set.
    pub default: DefaultValue,
    /// A value, in TOML.
    pub example: &'static str,
    /// What the key does, in Markdown.
    pub about: &'static str,
}

/// The value of a key that is not set.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// The key has to be set.
    Required,
    /// This value, in TOML.
    Value(&'static str),
    /// What happens, in Markdown.
    Words(&'static str),
}

/// A set of values.
#[derive(Clone, Copy, Debug)]
pub enum ValueKind {
    /// A string; the words say of what.
    Text(&'static str),
    /// `true` or `false`.
    Boolean,
    /// An integer within these bounds.
    Integer(u64, u64),
    /// A duration as `"2s"`, at least and at most these.
    Duration(&'static str, &'static str),
    /// A number of bytes as `"64KiB"`, or an integer, within these bounds in bytes.
    Size(u64, u64),
    /// A share as `"50%"`, at least this many percent.
    Percent(u8),
    /// How often something may happen, as `"50/s"`.
    Rate,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A table.
    Table(&'static Section),
    /// Tables by names that the user gives.
    Named(&'static Section),
    /// A table from these keys to values; the words say what the table is.
    Map(&'static str, &'static ValueKind),
    /// An array.
    Array(&'static ValueKind),
    /// One of these.
    OneOf(&'static [ValueKind]),
}

/// Longest duration of any key.
const LONGEST: &str = "400d";

/// A deadline, which is never 0.
const DEADLINE: ValueKind = ValueKind::Duration("1ms", LONGEST);

/// A duration that may be 0.
const PERIOD: ValueKind = ValueKind::Duration("0s", LONGEST);

/// A page for every error, or pages by status code.
const ERROR_PAGES: ValueKind =
    ValueKind::OneOf(&[FILE, ValueKind::Map("table from status codes to paths of files", &FILE)]);

/// A path of a file.
const FILE: ValueKind = ValueKind::Text("path of a file");

impl Section {
    /// Whether the table may have a key of this name.
    pub fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// The names of its keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static SchemaKey> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl SchemaKey {
    /// The default in the words of a command's help: without quotes and Markdown.
    pub fn plain_default(&self) -> String {
        match self.default {
            DefaultValue::Required => String::new(),
            DefaultValue::Value(text) | DefaultValue::Words(text) => text.replace(['`', '"'], ""),
        }
    }
}

/// The default of a key in the words of a command's help.
pub(crate) fn documented_default(section: &str, key: &str) -> String {
    let section = SECTIONS.iter().find(|known| known.name == section && known.has(key));
    section.and_then(|section| section.key(key)).map(SchemaKey::plain_default).unwrap_or_default()
}

/// Every kind of table, in the order of the reference page.
pub static SECTIONS: &[&Section] = &[
    &TOP,
    &NETWORKS,
    &LISTENER,
    &PASSTHROUGH,
    &PROXY_PROTOCOL,
    &CERTIFICATE,
    &ACME,
    &TLS,
    &CLIENT_AUTH,
    &ROUTE,
    &MATCH,
    &MATCH_TEXT,
    &MATCH_CERTIFICATE,
    &SPLIT,
    &MIRROR,
    &ROUTE_TIMEOUTS,
    &REDIRECT,
    &RESPOND,
    &FILES,
    &REWRITE,
    &REPLACE,
    &REGEX,
    &HEADERS,
    &HEADER_EDITS,
    &CORS,
    &ROUTE_CACHE,
    &MAINTENANCE,
    &COMPRESS,
    &DECOMPRESS,
    &TRANSFORM,
    &BODY_CHANGE,
    &ROUTE_LIMIT,
    &MESSAGES,
    &AUTH,
    &JWT,
    &OIDC,
    &API_KEYS,
    &BASIC,
    &FORWARD_AUTH,
    &AUTH_REQUIRE,
    &OPENAPI,
    &POOL,
    &BACKEND,
    &BACKEND_SOURCE,
    &HEALTH,
    &OUTLIER,
    &LIMITS,
    &ADMISSION,
    &REBALANCE,
    &STICKY,
    &COOKIE,
    &TIMEOUTS,
    &REUSE,
    &BACKEND_TLS,
    &CLIENT_CERT,
    &PROXY_OUT,
    &DRAIN,
    &ON_DOWN,
    &RELOAD,
    &UPGRADE,
    &ADMIN,
    &ADMIN_TOKEN,
    &ACCESS_LOG,
    &SESSIONS,
    &CACHE,
    &CACHE_DISK,
    &PROCESS_LIMITS,
    &COOKIE_KEY,
    &TICKET_KEYS,
];

/// Advice about a key that a table does not have: the key that was probably meant, the table that has
/// it, or else every key of the table.
pub(super) fn advice(section: &Section, typed: &str) -> String {
    if let Some(near) = meant(section, typed) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = || {
        let homes = SECTIONS.iter().filter(|home| home.has(typed));
        let homes: Vec<String> = homes
            .map(|home| match home.name {
                "" => "at the top of the file".to_owned(),
                name => format!("in `{name}`"),
            })
            .collect();
        (!homes.is_empty()).then(|| format!("`{typed}` belongs {}", homes.join(" or ")))
    };
    if let Some(advice) = elsewhere() {
        return advice;
    }
    match section.keys {
        [only] => format!("the only key here is {}", quoted(only.name)),
        keys => {
            let known: Vec<String> = keys.iter().map(|key| quoted(key.name)).collect();
            format!("the keys here are {}", known.join(", "))
        }
    }
}

/// Names that other proxies use, with the name here.
const SYNONYMS: [(&str, &str); 31] = [
    ("upstream", "pools"),
    ("upstreams", "pools"),
    ("clusters", "pools"),
    ("frontends", "listeners"),
    ("entrypoints", "listeners"),
    ("locations", "routes"),
    ("rules", "routes"),
    ("servers", "backends"),
    ("nodes", "backends"),
    ("targets", "backends"),
    ("members", "backends"),
    ("listen", "bind"),
    ("address", "bind"),
    ("port", "bind"),
    ("domain", "host"),
    ("hostname", "host"),
    ("server_name", "host"),
    ("location", "path"),
    ("prefix", "path"),
    ("url", "path"),
    ("uri", "path"),
    ("upstream", "pool"),
    ("backend", "pool"),
    ("ssl", "tls"),
    ("strategy", "balance"),
    ("algorithm", "balance"),
    ("policy", "balance"),
    ("health_check", "health"),
    ("healthcheck", "health"),
    ("type", "probe"),
    ("path", "file"),
];

/// The key of a table that was probably meant by an unknown one: a key with almost the same spelling, or
/// the key that other proxies call by that name.
pub(super) fn meant(section: &Section, typed: &str) -> Option<&'static str> {
    let home = SECTIONS.iter().any(|section| section.has(typed));
    let near = nearest(typed, section.names()).filter(|_| !home);
    let synonym = || {
        let mut known = SYNONYMS.iter().filter(|(other, _)| other.eq_ignore_ascii_case(typed));
        known.find(|(_, ours)| section.has(ours)).map(|(_, ours)| *ours)
    };
    near.or_else(synonym)
}

/// The name that was probably meant: at most a third of its characters differ.
pub(super) fn nearest<'n>(typed: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // The distance takes time by the product of the lengths.
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_lowercase().replace('-', "_");
    names
        .map(|name| (damerau_levenshtein(&typed, &name.to_lowercase().replace('-', "_")), name))
        .filter(|(distance, name)| distance * 3 <= name.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::{CLIENT_CERT, HEALTH, POOL, TOP, advice, nearest};

    #[test]
    fn a_misspelt_key_gets_its_name() {
        assert_eq!(advice(&POOL, "backend"), "did you mean `backends`?");
        assert_eq!(advice(&TOP, "trusted-proxies"), "did you mean `trusted_proxies`?");
        assert_eq!(advice(&HEALTH, "interwal"), "did you mean `interval`?");
    }

    #[test]
    fn a_key_of_another_table_gets_its_place() {
        assert_eq!(advice(&POOL, "owner_search"), "`owner_search` belongs in `pools.NAME.sticky`");
        assert_eq!(advice(&POOL, "sessions"), "`sessions` belongs at the top of the file");
    }

    #[test]
    fn an_unfamiliar_key_gets_all_keys() {
        assert_eq!(advice(&CLIENT_CERT, "xyzzy"), "the keys here are `cert`, `key`");
    }

    #[test]
    fn nearest_does_not_guess() {
        assert_eq!(nearest("chta", ["chat", "blue"].into_iter()), Some("chat"));
        assert_eq!(nearest("green", ["chat", "blue"].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["chat"].into_iter()), None);
    }
}

//! Which keys there are, table by table: the one list that readers, advice and documentation share.

use strsim::damerau_levenshtein;

use super::fault::quoted;

/// One kind of table and the keys it may have.
#[derive(Debug)]
pub struct Section {
    /// How it is addressed: `pools.NAME.health`; empty for the top level.
    pub name: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [&'static str],
}

pub(super) static TOP: Section = Section {
    name: "",
    keys: &[
        "include",
        "listeners",
        "routes",
        "pools",
        "trusted_proxies",
        "forwarded",
        "admin",
        "drain",
        "reload",
        "upgrade",
        "error_pages",
        "access_log",
        "sessions",
        "cookie_key",
        "ticket_keys",
    ],
};

/// Among addresses and networks: a file with more of them.
pub(super) static NETWORKS: Section = Section { name: "trusted_proxies", keys: &["file"] };

pub(super) static LISTENER: Section = Section {
    name: "listeners.NAME",
    keys: &[
        "bind",
        "protocol",
        "pool",
        "passthrough",
        "proxy_protocol",
        "connections_per_address",
        "redirect",
        "certificates",
        "tls",
        "handshake_timeout",
        "header_timeout",
        "keep_alive",
        "header_size",
        "header_fields",
    ],
};

pub(super) static PASSTHROUGH: Section =
    Section { name: "listeners.NAME.passthrough", keys: &["sni", "alpn", "pool"] };

pub(super) static PROXY_PROTOCOL: Section =
    Section { name: "listeners.NAME.proxy_protocol", keys: &["mode", "from"] };

pub(super) static CERTIFICATE: Section =
    Section { name: "listeners.NAME.certificates", keys: &["cert", "key", "ocsp", "acme"] };

pub(super) static ACME: Section = Section {
    name: "listeners.NAME.certificates.acme",
    keys: &["directory", "email", "domains", "storage", "ca"],
};

pub(super) static TLS: Section = Section {
    name: "listeners.NAME.tls",
    keys: &[
        "min_version",
        "cipher_suites",
        "curves",
        "alpn",
        "unknown_sni",
        "client_auth",
        "key_log",
    ],
};

pub(super) static CLIENT_AUTH: Section =
    Section { name: "listeners.NAME.tls.client_auth", keys: &["mode", "ca", "crl"] };

pub(super) static ROUTE: Section =
    Section { name: "routes", keys: &["host", "path", "pool", "listeners", "error_pages"] };

pub(super) static POOL: Section = Section {
    name: "pools.NAME",
    keys: &[
        "backends",
        "balance",
        "health",
        "slow_start",
        "outlier",
        "healthy_minimum",
        "limits",
        "admission",
        "rebalance",
        "max_connection_age",
        "sticky",
        "timeouts",
        "reuse",
        "tls",
        "proxy_protocol",
        "long_polls",
        "drain",
        "on_down",
    ],
};

pub(super) static BACKEND_TLS: Section =
    Section { name: "pools.NAME.tls", keys: &["ca", "name", "alpn", "client_cert", "verify"] };

pub(super) static PROXY_OUT: Section =
    Section { name: "pools.NAME.proxy_protocol", keys: &["version", "tlvs"] };

pub(super) static CLIENT_CERT: Section =
    Section { name: "pools.NAME.tls.client_cert", keys: &["cert", "key"] };

pub(super) static BACKEND: Section =
    Section { name: "pools.NAME.backends", keys: &["name", "address", "weight"] };

/// Instead of an array: one thing that brings the backends, and its terms.
pub(super) static BACKEND_SOURCE: Section = Section {
    name: "pools.NAME.backends",
    keys: &["file", "dns", "srv", "resolver", "min_ttl", "max_ttl", "http", "interval", "timeout"],
};

pub(super) static HEALTH: Section = Section {
    name: "pools.NAME.health",
    keys: &["probe", "path", "host", "status", "interval", "timeout", "rise", "fall"],
};

pub(super) static OUTLIER: Section = Section {
    name: "pools.NAME.outlier",
    keys: &[
        "consecutive",
        "error_rate",
        "min_requests",
        "interval",
        "ejection",
        "max_ejection",
        "max_ejected",
    ],
};

pub(super) static LIMITS: Section = Section {
    name: "pools.NAME.limits",
    keys: &["connections", "pending", "header_size", "header_fields"],
};

pub(super) static ADMISSION: Section =
    Section { name: "pools.NAME.admission", keys: &["rate", "queue", "deadline"] };

pub(super) static REBALANCE: Section = Section { name: "pools.NAME.rebalance", keys: &["rate"] };

pub(super) static STICKY: Section =
    Section { name: "pools.NAME.sticky", keys: &["engine_io", "owner_search", "memory", "cookie"] };

pub(super) static COOKIE: Section = Section {
    name: "pools.NAME.sticky.cookie",
    keys: &["name", "same_site", "secure", "http_only", "partitioned", "lifetime", "set_on"],
};

pub(super) static TIMEOUTS: Section = Section {
    name: "pools.NAME.timeouts",
    keys: &["connect", "response_header", "body_idle", "stream_idle", "tunnel_idle", "half_closed"],
};

pub(super) static REUSE: Section =
    Section { name: "pools.NAME.reuse", keys: &["max_idle", "max_total", "idle_timeout"] };

/// Of a pool, of the process and of an upgrade.
pub(super) static ON_DOWN: Section = Section { name: "pools.NAME.on_down", keys: &["close"] };

pub(super) static DRAIN: Section = Section { name: "drain", keys: &["within", "spread"] };

pub(super) static RELOAD: Section =
    Section { name: "reload", keys: &["watch", "interval", "max_disconnects"] };

pub(super) static UPGRADE: Section = Section { name: "upgrade", keys: &["drain", "ready"] };

pub(super) static ADMIN: Section =
    Section { name: "admin", keys: &["metrics", "socket", "listen", "token"] };

pub(super) static ADMIN_TOKEN: Section = Section { name: "admin.token", keys: &["file", "env"] };

pub(super) static ACCESS_LOG: Section = Section { name: "access_log", keys: &["file", "redact"] };

pub(super) static SESSIONS: Section = Section { name: "sessions", keys: &["max", "max_sid_bytes"] };

pub(super) static COOKIE_KEY: Section = Section { name: "cookie_key", keys: &["file", "env"] };

pub(super) static TICKET_KEYS: Section = Section { name: "ticket_keys", keys: &["file", "env"] };

/// Every kind of table, in the order of the reference.
pub static SECTIONS: [&Section; 35] = [
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
    &COOKIE_KEY,
    &TICKET_KEYS,
];

/// What to do about a key that a table does not have: the name that was probably meant, the table
/// where it belongs, or else all that there are.
pub(super) fn advice(section: &Section, typed: &str) -> String {
    if let Some(near) = meant(section, typed) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = || {
        let homes = SECTIONS.iter().filter(|home| home.keys.contains(&typed));
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
        [only] => format!("the only key here is {}", quoted(only)),
        keys => {
            let known: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
            format!("the keys here are {}", known.join(", "))
        }
    }
}

/// What other proxies call a key, and what it is called here.
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

/// The key of a table that an unknown one was probably meant as: one that is spelt nearly so, or what
/// other proxies call by that name.
pub(super) fn meant(section: &Section, typed: &str) -> Option<&'static str> {
    let home = SECTIONS.iter().any(|section| section.keys.contains(&typed));
    let near = nearest(typed, section.keys.iter().copied()).filter(|_| !home);
    let synonym = || {
        let mut known = SYNONYMS.iter().filter(|(other, _)| other.eq_ignore_ascii_case(typed));
        known.find(|(_, ours)| section.keys.contains(ours)).map(|(_, ours)| *ours)
    };
    near.or_else(synonym)
}

/// The name that was probably meant: at most a third of it differs.
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
    fn a_misspelt_key_is_told_its_name() {
        assert_eq!(advice(&POOL, "backend"), "did you mean `backends`?");
        assert_eq!(advice(&TOP, "trusted-proxies"), "did you mean `trusted_proxies`?");
        assert_eq!(advice(&HEALTH, "interwal"), "did you mean `interval`?");
    }

    #[test]
    fn a_key_of_another_table_is_told_its_place() {
        assert_eq!(advice(&POOL, "owner_search"), "`owner_search` belongs in `pools.NAME.sticky`");
        assert_eq!(advice(&POOL, "sessions"), "`sessions` belongs at the top of the file");
    }

    #[test]
    fn a_key_like_no_other_is_told_all() {
        assert_eq!(advice(&CLIENT_CERT, "xyzzy"), "the keys here are `cert`, `key`");
    }

    #[test]
    fn nearest_is_no_guess() {
        assert_eq!(nearest("chta", ["chat", "blue"].into_iter()), Some("chat"));
        assert_eq!(nearest("green", ["chat", "blue"].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["chat"].into_iter()), None);
    }
}

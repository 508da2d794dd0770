//! Keys of the top level, and of tables for the whole process.

use super::{
    ACCESS_LOG, ADMIN, CACHE, COOKIE_KEY,
    DefaultValue::{Required, Value, Words},
    ERROR_PAGES, LISTENER, LONGEST, NETWORK_LIST, PERIOD, POOL, ROUTE, SESSIONS, SchemaKey,
    Section, TICKET_KEYS,
    ValueKind::{Array, Boolean, Choice, Duration, Integer, Named, OneOf, Table, Text},
};

/// A duration, or a table `drain`.
pub(super) const DRAIN_TERMS: super::ValueKind = OneOf(&[PERIOD, Table(&DRAIN)]);

pub(in crate::config) static TOP: Section = Section {
    name: "",
    heading: "Top level",
    about: "",
    notes: "",
    keys: &[
        SchemaKey {
            name: "include",
            kind: OneOf(&[Text("path or pattern"), Array(&Text("path or pattern"))]),
            default: Words("No other file"),
            example: r#"["conf.d/*.toml"]"#,
            about: "More files of this configuration. See [Included files](#included-files).",
        },
        SchemaKey {
            name: "listeners",
            kind: Named(&LISTENER),
            default: Required,
            example: r#"{ web = { bind = "0.0.0.0:8080" } }"#,
            about: "The sockets that accept connections, as tables `[listeners.NAME]`. At least one.",
        },
        SchemaKey {
            name: "routes",
            kind: Array(&Table(&ROUTE)),
            default: Words("Everything goes to the only pool"),
            example: r#"[{ path = "/chat", pool = "chat" }]"#,
            about: "Rules that choose a pool by host and path, as tables `[[routes]]`. Required if there are \
                    several pools and an HTTP listener.",
        },
        SchemaKey {
            name: "pools",
            kind: Named(&POOL),
            default: Words("none, which is enough for redirects to HTTPS only"),
            example: r#"{ app = { backends = ["127.0.0.1:3000"] } }"#,
            about: "Groups of interchangeable backends, as tables `[pools.NAME]`.",
        },
        SchemaKey {
            name: "trusted_proxies",
            kind: NETWORK_LIST,
            default: Value("[]"),
            example: r#"["10.0.0.0/8", "192.0.2.7"]"#,
            about: "Proxies in front of Moorline whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` fields \
                    are trusted. See [`trusted_proxies`](#trusted_proxies).",
        },
        SchemaKey {
            name: "forwarded",
            kind: Choice(&["pass", "always"]),
            default: Value(r#""pass""#),
            example: r#""always""#,
            about: "When backends get the `Forwarded` field (RFC 7239): `\"pass\"` if a trusted proxy sent it, \
                    `\"always\"` with every request.",
        },
        SchemaKey {
            name: "admin",
            kind: OneOf(&[Text("address to listen on"), Table(&ADMIN)]),
            default: Words("The API on a unix socket, no metrics"),
            example: r#""127.0.0.1:9090""#,
            about: "Address of `/metrics`, `/live` and `/ready`, or a table `[admin]`.",
        },
        SchemaKey {
            name: "drain",
            kind: DRAIN_TERMS,
            default: Value(r#""30s""#),
            example: r#""1m""#,
            about: "How long a stopping process waits for open connections, or a table \
                    [`drain`](#drain). `\"0s\"` closes them at once.",
        },
        SchemaKey {
            name: "reload",
            kind: Table(&RELOAD),
            default: Words("The defaults of [`[reload]`](#reload)"),
            example: "{ watch = false }",
            about: "How changes of the file take effect.",
        },
        SchemaKey {
            name: "upgrade",
            kind: Table(&UPGRADE),
            default: Words("The defaults of [`[upgrade]`](#upgrade)"),
            example: r#"{ drain = "2h" }"#,
            about: "How a process hands over to a new binary.",
        },
        SchemaKey {
            name: "access_log",
            kind: OneOf(&[Choice(&["stdout", "off"]), Table(&ACCESS_LOG)]),
            default: Value(r#""stdout""#),
            example: r#"{ file = "logs/access.log" }"#,
            about: "Destination of the access log: standard output, nowhere, or a file.",
        },
        SchemaKey {
            name: "error_pages",
            kind: ERROR_PAGES,
            default: Words("A built-in page"),
            example: r#"{ 404 = "404.html", 5xx = "down.html" }"#,
            about: "HTML pages for errors that the proxy itself reports: for requests without a route, and for routes \
                    without a page for the status. See [`[[routes]]`](#routes).",
        },
        SchemaKey {
            name: "cache",
            kind: Table(&CACHE),
            default: Words("The defaults"),
            example: r#"{ memory = "1GiB" }"#,
            about: "Bounds of stored responses, a table `[cache]`.",
        },
        SchemaKey {
            name: "sessions",
            kind: Table(&SESSIONS),
            default: Words("The defaults of [`[sessions]`](#sessions)"),
            example: "{ max = 500_000 }",
            about: "Limits of the table of session ids.",
        },
        SchemaKey {
            name: "limits",
            kind: Table(&PROCESS_LIMITS),
            default: Words("The defaults of [`[limits]`](#limits)"),
            example: "{ connections = 50_000 }",
            about: "Limits over all clients.",
        },
        SchemaKey {
            name: "cookie_key",
            kind: Table(&COOKIE_KEY),
            default: Words(
                "A random key that is lost on restart and not shared with other proxies",
            ),
            example: r#"{ env = "COOKIE_KEY" }"#,
            about: "The key that protects affinity cookies. Give all proxies of a fleet the same key.",
        },
        SchemaKey {
            name: "ticket_keys",
            kind: Table(&TICKET_KEYS),
            default: Words("Random keys, replaced every 6 hours"),
            example: r#"{ env = "TICKET_KEYS" }"#,
            about: "The keys of TLS session tickets. Proxies with the same keys resume each other's TLS sessions.",
        },
    ],
};

/// Of a pool, of the process and of an upgrade.
pub(in crate::config) static DRAIN: Section = Section {
    name: "drain",
    heading: "`drain`",
    about: "Instead of a duration, in the top level, in `[pools.NAME]` and in `[upgrade]`.",
    keys: &[
        SchemaKey {
            name: "within",
            kind: PERIOD,
            default: Required,
            example: r#""5m""#,
            about: "Time from the start of the drain to its deadline. Connections that are still open then are cut.",
        },
        SchemaKey {
            name: "spread",
            kind: PERIOD,
            default: Words("Half of `within`"),
            example: r#""2m""#,
            about: "The last part of `within`, over which connections are closed evenly. At most `within`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static RELOAD: Section = Section {
    name: "reload",
    heading: "`[reload]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "watch",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Reload when the configuration, or a file that it names or includes, changes. If `false`, only \
                    `moorline reload` and SIGHUP reload.",
        },
        SchemaKey {
            name: "interval",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""1m""#),
            example: r#""10s""#,
            about: "Time between two comparisons of the watched files with their loaded contents. It matters only for \
                    changes that the system does not report, for example on a network file system. If a folder cannot be \
                    watched, the time is at most 5 s.",
        },
        SchemaKey {
            name: "max_disconnects",
            kind: Integer(0, 1_000_000_000),
            default: Words("Unlimited"),
            example: "0",
            about: "Maximum number of sessions that a reload may disconnect. A reload that would disconnect more is rejected, \
                    unless `moorline reload --max-disconnects` allows it.",
        },
    ],
    notes: "",
};

pub(in crate::config) static PROCESS_LIMITS: Section = Section {
    name: "limits",
    heading: "`[limits]`",
    about: "Limits over all clients of the process.",
    keys: &[
        SchemaKey {
            name: "connections",
            kind: Integer(1, 100_000_000),
            default: Words(
                "Half of the limit of open files, less a reserve of 64 descriptors, because a WebSocket needs two",
            ),
            example: "50_000",
            about: "Maximum number of open client connections of all listeners, tunnels included. Further connections wait in \
                    the kernel's queue until one ends.",
        },
        SchemaKey {
            name: "handshakes",
            kind: Integer(1, 1_000_000),
            default: Words("1024 for each processor core"),
            example: "2000",
            about: "Maximum number of TLS handshakes with clients at the same time. Further handshakes wait in order, within \
                    the listener's `handshake_timeout`. A client that stalls counts until its `handshake_timeout`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static UPGRADE: Section = Section {
    name: "upgrade",
    heading: "`[upgrade]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "drain",
            kind: DRAIN_TERMS,
            default: Value(r#""1h""#),
            example: r#"{ within = "2h", spread = "30m" }"#,
            about: "How the old process closes the connections that cannot be handed over: a duration, or a table \
                    [`drain`](#drain).",
        },
        SchemaKey {
            name: "ready",
            kind: Duration("1ms", "4m"),
            default: Value(r#""30s""#),
            example: r#""1m""#,
            about: "Time limit for the new process to become ready. After it, the new process is stopped and the old one \
                    continues.",
        },
    ],
    notes: "",
};

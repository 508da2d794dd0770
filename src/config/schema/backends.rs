//! Keys of backends, and of the sources that discover them.

use super::{
    DEADLINE,
    DefaultValue::{Required, Value, Words},
    FILE, LONGEST, SchemaKey, Section,
    ValueKind::{Boolean, Duration, Integer, Text},
};

pub(in crate::config) static BACKEND: Section = Section {
    name: "pools.NAME.backends",
    heading: "`[[pools.NAME.backends]]`",
    about: "An element of the array. A string `\"HOST:PORT\"` or `\"unix:PATH\"` is the short form.",
    keys: &[
        SchemaKey {
            name: "name",
            kind: Text("name"),
            default: Words("The address as typed"),
            example: r#""blue-2""#,
            about: "Name in logs, metrics, commands and cookies; unique in the pool.",
        },
        SchemaKey {
            name: "address",
            kind: Text("`HOST:PORT` or `unix:PATH`"),
            default: Required,
            example: r#""10.0.0.12:3000""#,
            about: "Host name or IP address, and port; IPv6 addresses are in brackets. Or the absolute path of a Unix socket of this machine.",
        },
        SchemaKey {
            name: "weight",
            kind: Integer(1, 65_535),
            default: Value("1"),
            example: "2",
            about: "Share of new sessions relative to the other backends.",
        },
        SchemaKey {
            name: "backup",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "Whether the backend takes new sessions and other requests only while no backend without `backup` is healthy. Its sessions \
                    stay until they end.",
        },
    ],
    notes: "",
};

/// Instead of an array: one source of backends and its terms.
pub(in crate::config) static BACKEND_SOURCE: Section = Section {
    name: "pools.NAME.backends",
    heading: "`[pools.NAME.backends]`",
    about: "A source instead of an array. Set one of `file`, `dns`, `srv` and `http`.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("None"),
            example: r#""backends.txt""#,
            about: "File with one address per line, followed by `name=…`, `weight=…` and `backup` if needed. `#` starts a comment. The file \
                    may be empty.",
        },
        SchemaKey {
            name: "dns",
            kind: Text("`NAME:PORT`"),
            default: Words("None"),
            example: r#""chat.internal:3000""#,
            about: "DNS name and port. Each A and AAAA record is a backend.",
        },
        SchemaKey {
            name: "srv",
            kind: Text("DNS name"),
            default: Words("None"),
            example: r#""_chat._tcp.internal""#,
            about: "DNS name of SRV records. The records of the best priority give hosts, ports and weights.",
        },
        SchemaKey {
            name: "resolver",
            kind: Text("IP address, with a port if it is not 53"),
            default: Words("The servers of the system"),
            example: r#""127.0.0.1:5353""#,
            about: "DNS server of `dns` and `srv`.",
        },
        SchemaKey {
            name: "min_ttl",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""1s""#),
            example: r#""5s""#,
            about: "Minimum time between two lookups, if the records have a shorter TTL.",
        },
        SchemaKey {
            name: "max_ttl",
            kind: Duration("100ms", LONGEST),
            default: Words("`\"5m\"`, or `min_ttl` if that is longer"),
            example: r#""1m""#,
            about: "Maximum time between two lookups, if the records have a longer TTL.",
        },
        SchemaKey {
            name: "http",
            kind: Text("URL"),
            default: Words("None"),
            example: r#""http://127.0.0.1:8500/v1/health/service/chat?passing""#,
            about: "URL of a JSON list of backends, or of a Consul health endpoint.",
        },
        SchemaKey {
            name: "interval",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""5s""#),
            example: r#""10s""#,
            about: "Time between two requests of `http`.",
        },
        SchemaKey {
            name: "timeout",
            kind: DEADLINE,
            default: Words("`\"2s\"`, or `interval` if that is shorter"),
            example: r#""1s""#,
            about: "Time limit of the whole response of `http`; at most `interval`.",
        },
    ],
    notes: "",
};

//! Keys of stored responses.

use super::{
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{Boolean, Duration, Percent, Size, Table, Text},
};

pub(in crate::config) static ROUTE_CACHE: Section = Section {
    name: "routes.cache",
    heading: "`cache` of a route",
    about: "Stores responses as `Cache-Control` of backends says (RFC 9111). Responses to one user are never stored: those with `Set-Cookie` \
            or `private`, and those to requests with `Authorization` unless they are `public`. Requests of Engine.IO and upgrades pass.",
    keys: &[
        SchemaKey {
            name: "lifetime",
            kind: Duration("1ms", "400d"),
            default: Words("They are stored only if they can be validated"),
            example: r#""1m""#,
            about: "Lifetime of responses that give none.",
        },
        SchemaKey {
            name: "heuristic",
            kind: Percent(0),
            default: Value(r#""0%""#),
            example: r#""10%""#,
            about: "Lifetime of responses with only `Last-Modified`, as a share of the time since then; at most a day.",
        },
        SchemaKey {
            name: "stale_if_error",
            kind: Duration("1ms", "400d"),
            default: Words("As responses say"),
            example: r#""1h""#,
            about: "How long a stale response may replace an error of the backend, if the response does not say it.",
        },
        SchemaKey {
            name: "max_entry",
            kind: Size(1, 1 << 30),
            default: Value(r#""8MiB""#),
            example: r#""1MiB""#,
            about: "Maximum size of a stored response.",
        },
        SchemaKey {
            name: "store_cookies",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "Stores responses with `Set-Cookie`. Every client then gets the same cookie.",
        },
        SchemaKey {
            name: "client_directives",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Follows `Cache-Control` of requests, by which clients can ask for a new response.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CACHE: Section = Section {
    name: "cache",
    heading: "`[cache]`",
    about: "Stored responses of all routes.",
    keys: &[
        SchemaKey {
            name: "memory",
            kind: Size(1 << 20, 1 << 40),
            default: Value(r#""128MiB""#),
            example: r#""1GiB""#,
            about: "Maximum size in memory. Responses that are used least are removed first.",
        },
        SchemaKey {
            name: "disk",
            kind: Table(&CACHE_DISK),
            default: Words("Responses are kept only in memory"),
            example: r#"{ path = "/var/cache/moorline", max = "10GiB" }"#,
            about: "Keeps responses on disk, too. They survive a restart.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CACHE_DISK: Section = Section {
    name: "cache.disk",
    heading: "`disk` of `[cache]`",
    about: "A folder for stored responses. If it cannot be used, that is logged, and the cache goes on from memory.",
    keys: &[
        SchemaKey {
            name: "path",
            kind: Text("path of a folder"),
            default: Required,
            example: r#""/var/cache/moorline""#,
            about: "The folder; it is created if it is missing. The responses are in its folder `responses`, which only this user may open. \
                    Each process needs its own folder; an upgrade takes it over.",
        },
        SchemaKey {
            name: "max",
            kind: Size(1 << 20, 1 << 40),
            default: Required,
            example: r#""10GiB""#,
            about: "Maximum size on disk. Responses whose files were used least recently are removed first.",
        },
    ],
    notes: "",
};

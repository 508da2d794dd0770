//! Keys of splits and mirrors of routes.

use super::{
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{Integer, Map, Percent, Size, Text},
    conditions::TEXT,
};

pub(in crate::config) static SPLIT: Section = Section {
    name: "routes.split",
    heading: "`split` of a route",
    about: "Pools that share the requests of the route.",
    keys: &[
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""next""#,
            about: "The pool.",
        },
        SchemaKey {
            name: "weight",
            kind: Integer(0, 65_535),
            default: Required,
            example: "5",
            about: "Share of the requests and new sessions, relative to the sum of the weights. With 0, the pool keeps its sessions and gets only requests that \
                    `header` or `cookie` force to it.",
        },
        SchemaKey {
            name: "header",
            kind: Map("table from names of header fields to conditions", &TEXT),
            default: Words("None"),
            example: r#"{ X-Canary = "always" }"#,
            about: "Header fields, one of which forces a request to the pool, with the conditions of `match`.",
        },
        SchemaKey {
            name: "cookie",
            kind: Map("table from names of cookies to conditions", &TEXT),
            default: Words("None"),
            example: r#"{ canary = "always" }"#,
            about: "Cookies, one of which forces a request to the pool.",
        },
    ],
    notes: "The first of these decides: the session id (the pool that has the session), `header` and `cookie`, the affinity cookie (the pool of its \
            backend, unless its weight is 0), the weights of the pools with a backend that takes new sessions. So a session stays in its pool, also after the weights change. The owner of an unknown session id \
            is searched in all pools of the split. Requests outside of sessions stay in their pool if the pools have affinity cookies.",
};

pub(in crate::config) static MIRROR: Section = Section {
    name: "routes.mirror",
    heading: "`mirror` of a route",
    about: "Instead of the table, the name of the pool alone can be written.",
    keys: &[
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""shadow""#,
            about: "The pool that gets the copies.",
        },
        SchemaKey {
            name: "share",
            kind: Percent(1),
            default: Value(r#""100%""#),
            example: r#""10%""#,
            about: "Share of the requests that are copied, at random.",
        },
        SchemaKey {
            name: "max_body",
            kind: Size(0, 1 << 20),
            default: Value(r#""64KiB""#),
            example: r#""256KiB""#,
            about: "Requests with a larger body are not copied.",
        },
        SchemaKey {
            name: "max_in_flight",
            kind: Integer(1, 10_000),
            default: Value("64"),
            example: "200",
            about: "Maximum number of copies at a time. Further requests are not copied. This number and `max_body` limit the memory of copies.",
        },
    ],
    notes: "A copy has the path, the fields and the body that the backend gets. It is sent once the body has been read, by a separate task, and its \
            response is dropped: it neither delays nor fails the request. Never copied are requests of Engine.IO, upgrades, event streams \
            and long polls. The metric `moorline_mirror_total` counts copies with and without a response, and requests that a limit has left out.",
};

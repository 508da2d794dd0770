//! Keys of splits and mirrors of routes.

use super::{
    DefaultValue::{Required, Words},
    SchemaKey, Section,
    ValueKind::{Integer, Map, Text},
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

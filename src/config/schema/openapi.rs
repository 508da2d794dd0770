//! Keys of the API description of a route.

use super::{
    DefaultValue::{Required, Value, Words},
    FILE, SchemaKey, Section,
    ValueKind::{Choice, Size, Text},
};

pub(in crate::config) static OPENAPI: Section = Section {
    name: "routes.openapi",
    heading: "`openapi` of a route",
    about: "Instead of the table, the path of the document alone can be written.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Required,
            example: r#""api.yaml""#,
            about: "The document: OpenAPI 3.0 or 3.1, in YAML or JSON, at most 8 MiB. It is read again whenever it changes. References lead only \
                    within the document.",
        },
        SchemaKey {
            name: "base",
            kind: Text("path"),
            default: Words("The path of the document's `servers` that fits, the longest first"),
            example: r#""/v1""#,
            about: "Path before all paths of the document, as clients send it.",
        },
        SchemaKey {
            name: "unknown",
            kind: Choice(&["refuse", "pass"]),
            default: Value(r#""refuse""#),
            example: r#""pass""#,
            about: "What happens with a request whose path or method the document does not have: `refuse` (404, or 405 with `Allow`), or \
                    `pass`.",
        },
        SchemaKey {
            name: "security",
            kind: Choice(&["enforce", "ignore"]),
            default: Value(r#""enforce""#),
            example: r#""ignore""#,
            about: "What is done with `security` of the document: `enforce` makes it the authentication of its operations, in place of `auth` of the \
                    route, whose keys it uses; `ignore` leaves it to the backend.",
        },
        SchemaKey {
            name: "max_body",
            kind: Size(1, 64 << 20),
            default: Value(r#""1MiB""#),
            example: r#""64KiB""#,
            about: "Maximum size of a body that is checked by a schema, which is held in memory. A larger one gets a 413.",
        },
    ],
    notes: "Checked are the parameters of path, query, header and cookies, the type of the body, and bodies of JSON by their schema. What is \
            wrong is listed in a 400 of the type `application/problem+json`. Requests of Engine.IO whose path the document does not have \
            pass where Engine.IO is served. CORS preflights always pass. \
            \n\nThe document may set the keys of the route, except `host`, `path`, `match`, `listeners` and `openapi`, in `x-moorline-route` of the \
            document, of a path and of an operation; an inner key replaces the whole outer key, and null removes it.",
};

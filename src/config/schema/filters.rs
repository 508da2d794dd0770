//! Keys of a route that change requests and responses, or answer them without a backend.

use super::{
    DEADLINE,
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{self, Array, Boolean, Duration, Integer, Map, OneOf, Table, Text},
};

/// A network, a file of networks, or several of both.
pub(super) const NETWORKS_OF: ValueKind = OneOf(&[
    Text("network"),
    Table(&super::NETWORKS),
    Array(&OneOf(&[Text("network"), Table(&super::NETWORKS)])),
]);

const NAMES: ValueKind = OneOf(&[Text("name"), Array(&Text("name"))]);

const FIELDS: ValueKind = Map("table from field names to values", &Text("value"));

pub(in crate::config) static REDIRECT: Section = Section {
    name: "routes.redirect",
    heading: "`redirect` of a route",
    about: "Instead of the table, the location alone can be written.",
    keys: &[
        SchemaKey {
            name: "to",
            kind: Text("path or URL, with variables"),
            default: Required,
            example: r#""https://www.example.com{path}{query}""#,
            about: "The new location.",
        },
        SchemaKey {
            name: "status",
            kind: Integer(301, 308),
            default: Value("308"),
            example: "302",
            about: "301, 302, 303, 307 or 308. After 307 and 308, clients repeat the method and the body.",
        },
    ],
    notes: "",
};

pub(in crate::config) static RESPOND: Section = Section {
    name: "routes.respond",
    heading: "`respond` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "status",
            kind: Integer(200, 599),
            default: Value("200"),
            example: "404",
            about: "Status code.",
        },
        SchemaKey {
            name: "body",
            kind: Text("text with variables"),
            default: Value(r#""""#),
            example: r#""ok\n""#,
            about: "The body, at most 8 KiB.",
        },
        SchemaKey {
            name: "type",
            kind: Text("media type"),
            default: Value(r#""text/plain; charset=utf-8""#),
            example: r#""application/json""#,
            about: "`Content-Type` of the body.",
        },
    ],
    notes: "",
};

pub(in crate::config) static REWRITE: Section = Section {
    name: "routes.rewrite",
    heading: "`rewrite` of a route",
    about: "Changes what backends get. The access log, metrics and redirects of the proxy have the client's path and host.",
    keys: &[
        SchemaKey {
            name: "strip_prefix",
            kind: Text("path"),
            default: Words("Unchanged"),
            example: r#""/app1""#,
            about: "Prefix that is removed, in whole segments: `/app1/socket.io/` becomes `/socket.io/`, `/app1` becomes `/`. \
                    Paths without the prefix stay as they are.",
        },
        SchemaKey {
            name: "replace",
            kind: OneOf(&[Text("path"), Table(&REPLACE)]),
            default: Words("Unchanged"),
            example: r#"{ from = "/v1", to = "/api/v1" }"#,
            about: "A path that replaces all of the path, or a prefix and what replaces it.",
        },
        SchemaKey {
            name: "regex",
            kind: Table(&REGEX),
            default: Words("Unchanged"),
            example: r#"{ pattern = "/users/([0-9]+)", with = "/u/$1" }"#,
            about: "A regular expression, and the path that replaces what it matches.",
        },
        SchemaKey {
            name: "host",
            kind: Text("host"),
            default: Words("The client's host"),
            example: r#""chat.internal""#,
            about: "`Host` that backends get. `X-Forwarded-Host` has the client's.",
        },
    ],
    notes: "At most one of `strip_prefix`, `replace` and `regex` can be set. Paths are compared in their normal form; a path that is changed is \
            forwarded in normal form. The query stays.",
};

pub(in crate::config) static REPLACE: Section = Section {
    name: "routes.rewrite.replace",
    heading: "`replace` of a rewrite",
    about: "",
    keys: &[
        SchemaKey {
            name: "from",
            kind: Text("path"),
            default: Required,
            example: r#""/v1""#,
            about: "Prefix that is replaced, in whole segments. Paths without the prefix stay as they are.",
        },
        SchemaKey {
            name: "to",
            kind: Text("path"),
            default: Required,
            example: r#""/api/v1""#,
            about: "Prefix that takes its place.",
        },
    ],
    notes: "",
};

pub(in crate::config) static REGEX: Section = Section {
    name: "routes.rewrite.regex",
    heading: "`regex` of a rewrite",
    about: "",
    keys: &[
        SchemaKey {
            name: "pattern",
            kind: Text("regular expression"),
            default: Required,
            example: r#""/users/([0-9]+)""#,
            about: "Regular expression in the syntax of [regex](https://docs.rs/regex/latest/regex/#syntax), which the path must match from \
                    its start to its end. Other paths stay as they are. The time to match is linear.",
        },
        SchemaKey {
            name: "with",
            kind: Text("path with groups"),
            default: Required,
            example: r#""/u/$1""#,
            about: "The new path; `$1` and `${name}` are the groups of the pattern.",
        },
    ],
    notes: "",
};

pub(in crate::config) static HEADERS: Section = Section {
    name: "routes.headers",
    heading: "`headers` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "request",
            kind: Table(&HEADER_EDITS),
            default: Words("Unchanged"),
            example: r#"{ set = { X-Client = "{client_ip}" } }"#,
            about: "Changes of the fields that backends get.",
        },
        SchemaKey {
            name: "response",
            kind: Table(&HEADER_EDITS),
            default: Words("Unchanged"),
            example: r#"{ remove = ["Server"] }"#,
            about: "Changes of the fields that clients get from backends. Error replies of the proxy stay as they are.",
        },
    ],
    notes: "",
};

pub(in crate::config) static HEADER_EDITS: Section = Section {
    name: "routes.headers.request",
    heading: "`request` and `response` of `headers`",
    about: "",
    keys: &[
        SchemaKey {
            name: "remove",
            kind: NAMES,
            default: Words("None"),
            example: r#"["X-Powered-By"]"#,
            about: "Fields that are removed first.",
        },
        SchemaKey {
            name: "set",
            kind: FIELDS,
            default: Value("{}"),
            example: r#"{ X-App = "chat" }"#,
            about: "Fields that replace all fields with their name.",
        },
        SchemaKey {
            name: "append",
            kind: FIELDS,
            default: Value("{}"),
            example: r#"{ Vary = "Accept-Language" }"#,
            about: "Fields that are added to those with their name.",
        },
    ],
    notes: "Variables of values, locations and bodies: `{client_ip}`, `{host}`, `{method}`, `{path}`, `{query}` (with its `?`), `{scheme}`, \
            `{request_id}`, `{tls_version}`, `{tls_server_name}`, `{certificate_subject}`, `{certificate_fingerprint}`, `{sid_hash}`, `{subject}`, `{api_key}`, and the claims of a token, as in \
            `{jwt.email}`. `{{` and `}}` are braces. A field whose value is empty is not sent. `Host` and the fields of connections, framing and WebSocket handshakes \
            cannot be changed.",
};

pub(in crate::config) static MAINTENANCE: Section = Section {
    name: "routes.maintenance",
    heading: "`maintenance` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "retry_after",
            kind: DEADLINE,
            default: Value(r#""30s""#),
            example: r#""5m""#,
            about: "`Retry-After` of the replies, in whole seconds.",
        },
        SchemaKey {
            name: "except",
            kind: NETWORKS_OF,
            default: Words("No client"),
            example: r#"["10.0.0.0/8"]"#,
            about: "Clients that still reach the backends.",
        },
    ],
    notes: "Open tunnels stay. Every new request gets a 503, also a poll of an open session.",
};

pub(in crate::config) static CORS: Section = Section {
    name: "routes.cors",
    heading: "`cors` of a route",
    about: "The proxy answers preflights, and replaces the CORS fields of backends. Without this table, both are left to the backend: Socket.IO \
            has its own setting.",
    keys: &[
        SchemaKey {
            name: "origins",
            kind: OneOf(&[Text("origin"), Array(&Text("origin"))]),
            default: Required,
            example: r#"["https://app.example.com", "https://*.example.org"]"#,
            about: "Origins whose pages may read responses: exact ones, `\"https://*.example.org\"` for all names below one, or `\"*\"` for \
                    every origin.",
        },
        SchemaKey {
            name: "methods",
            kind: NAMES,
            default: Words("`GET`, `HEAD` and `POST`, which need no permission"),
            example: r#"["PUT", "DELETE"]"#,
            about: "Methods that pages may use.",
        },
        SchemaKey {
            name: "headers",
            kind: NAMES,
            default: Words("Those that the page asks for"),
            example: r#"["Authorization", "X-App"]"#,
            about: "Request fields that pages may set.",
        },
        SchemaKey {
            name: "expose",
            kind: NAMES,
            default: Words("The fields that browsers always show"),
            example: r#"["X-Request-Id"]"#,
            about: "Response fields that pages may read.",
        },
        SchemaKey {
            name: "credentials",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "Pages may send cookies. Sticky cookies need it.",
        },
        SchemaKey {
            name: "max_age",
            kind: Duration("1ms", "1d"),
            default: Value(r#""10m""#),
            example: r#""1h""#,
            about: "How long a browser may remember the answer to a preflight.",
        },
    ],
    notes: "",
};

//! Keys of the conditions of routes.

use super::{
    DefaultValue::Words,
    SchemaKey, Section,
    ValueKind::{self, Array, Boolean, Map, OneOf, Table, Text},
};

/// A condition of a text.
pub(super) const TEXT: ValueKind =
    OneOf(&[Text("value"), Array(&Text("value")), Boolean, Table(&MATCH_TEXT)]);

pub(in crate::config) static MATCH: Section = Section {
    name: "routes.match",
    heading: "`match` of a route",
    about: "Conditions beyond host and path. A request has to meet each of them.",
    keys: &[
        SchemaKey {
            name: "method",
            kind: OneOf(&[Text("method"), Array(&Text("method"))]),
            default: Words("Every method"),
            example: r#"["GET", "HEAD"]"#,
            about: "One method or several.",
        },
        SchemaKey {
            name: "header",
            kind: Map("table from names of header fields to conditions", &TEXT),
            default: Words("Every request"),
            example: r#"{ X-Beta = "1", X-Debug = false }"#,
            about: "Header fields: a value, several values, `true` (the request has the field), `false` (it does not have it), or a table.",
        },
        SchemaKey {
            name: "query",
            kind: Map("table from names of query parameters to conditions", &TEXT),
            default: Words("Every request"),
            example: r#"{ beta = true }"#,
            about: "Parameters of the query, decoded, with the conditions of `header`.",
        },
        SchemaKey {
            name: "cookie",
            kind: Map("table from names of cookies to conditions", &TEXT),
            default: Words("Every request"),
            example: r#"{ group = ["b", "c"] }"#,
            about: "Cookies, with the conditions of `header`.",
        },
        SchemaKey {
            name: "client",
            kind: super::filters::NETWORKS_OF,
            default: Words("Every client"),
            example: r#"["10.0.0.0/8", { file = "office.txt" }]"#,
            about: "Networks of the client.",
        },
        SchemaKey {
            name: "certificate",
            kind: OneOf(&[Boolean, Table(&MATCH_CERTIFICATE)]),
            default: Words("Every client"),
            example: r#"{ subject = { regex = "CN=[a-z]+,O=Example" } }"#,
            about: "Whether the client has a verified certificate, or which one.",
        },
        SchemaKey {
            name: "path",
            kind: Text("template of a path"),
            default: Words("Every path below that of the route"),
            example: r#""/rooms/{room}""#,
            about: "Template that the whole path must match. A parameter in braces stands for a part of one segment, which is not empty. Segments \
                    are compared decoded.",
        },
        SchemaKey {
            name: "cel",
            kind: Text("expression"),
            default: Words("Every request"),
            example: r#""request.headers['x-version'].startsWith('2.') || 'beta' in request.query""#,
            about: "Expression in the [Common Expression Language](https://cel.dev) that must be true.",
        },
    ],
    notes: "Of several routes with the same host and path, those with `match` are tried in the order of the file, then the one without. If the \
            request meets none, the next shorter path or less specific host counts. A field, parameter or cookie that a request has several times meets a \
            condition if one of its values does; names of header fields have no case. \
            \n\nAn expression reads `request.method`, `request.scheme`, `request.host` (without port), `request.path`, `request.upgrade`, the maps \
            `request.query`, `request.headers` (names in lower case, repeated fields joined by commas) and `request.cookies`, `client.ip`, \
            `client.certificate.subject` and `client.certificate.fingerprint`. It has the operators of the language, `has`, `size`, `contains`, `startsWith`, \
            `endsWith`, `matches` (with a literal), `int`, `double`, `bool` and `string`, and no loops. It has at most 2048 bytes, 256 parts and 8 additions, \
            and reads at most 64 KiB of a request. A request whose expression cannot be evaluated, for example because a key is missing, does not \
            meet it: a rule that protects belongs on the route without `match`, or tests with `in` first.",
};

pub(in crate::config) static MATCH_TEXT: Section = Section {
    name: "routes.match.header.NAME",
    heading: "Conditions of `header`, `query` and `cookie` as tables",
    about: "",
    keys: &[
        SchemaKey {
            name: "prefix",
            kind: Text("text"),
            default: Words("None"),
            example: r#""2.""#,
            about: "What the value begins with.",
        },
        SchemaKey {
            name: "regex",
            kind: Text("regular expression"),
            default: Words("None"),
            example: r#""[0-9]+""#,
            about: "Regular expression in the syntax of [regex](https://docs.rs/regex/latest/regex/#syntax), which the value must match from its start to its \
                    end. The time to match is linear.",
        },
    ],
    notes: "One of the two is set.",
};

pub(in crate::config) static MATCH_CERTIFICATE: Section = Section {
    name: "routes.match.certificate",
    heading: "`certificate` of `match`",
    about: "",
    keys: &[
        SchemaKey {
            name: "subject",
            kind: TEXT,
            default: Words("Every subject"),
            example: r#""CN=client,O=Example""#,
            about: "Distinguished name of the subject (RFC 4514), with the conditions of `header`.",
        },
        SchemaKey {
            name: "fingerprint",
            kind: OneOf(&[Text("fingerprint"), Array(&Text("fingerprint"))]),
            default: Words("Every certificate"),
            example: r#""0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0""#,
            about: "SHA-256 fingerprints in hex.",
        },
    ],
    notes: "Certificates need `client_auth` of an https listener. Forwarding fields of proxies in front do not count.",
};

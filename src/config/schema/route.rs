//! Keys of routes.

use super::{
    DefaultValue::{Required, Value, Words},
    ERROR_PAGES, SchemaKey, Section,
    ValueKind::{Array, OneOf, Text},
};

pub(in crate::config) static ROUTE: Section = Section {
    name: "routes",
    heading: "`[[routes]]`",
    about: "A request follows the route with the most specific host, then the longest path. The order of the routes does not matter.",
    keys: &[
        SchemaKey {
            name: "host",
            kind: Text("host"),
            default: Words("Every host"),
            example: r#""chat.example.com""#,
            about: "Exact host, or a wildcard for every name below one (`\"*.example.com\"`). Exact hosts are more specific than \
                    wildcards, longer wildcards than shorter ones.",
        },
        SchemaKey {
            name: "path",
            kind: Text("path"),
            default: Value(r#""/""#),
            example: r#""/chat""#,
            about: "Path prefix in whole segments: `/chat` covers `/chat` and `/chat/x`, not `/chatter`. A trailing slash makes \
                    no difference.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""chat""#,
            about: "The pool that answers.",
        },
        SchemaKey {
            name: "listeners",
            kind: OneOf(&[Text("name of a listener"), Array(&Text("name of a listener"))]),
            default: Words("Every http and https listener"),
            example: r#"["secure"]"#,
            about: "The http and https listeners that use the route.",
        },
        SchemaKey {
            name: "error_pages",
            kind: ERROR_PAGES,
            default: Words("The pages of the top level"),
            example: r#"{ 404 = "404.html", 5xx = "down.html" }"#,
            about: "HTML pages for errors that the proxy itself reports: the path of one page, or a table by status code or class \
                    (`4xx`, `5xx`). At most 256 KiB each. The placeholders are `{{status}}`, `{{reason}}`, `{{message}}` and \
                    `{{request_id}}`.",
        },
    ],
    notes: "\
Paths are compared in a normal form and forwarded unchanged: `/%6detrics` and `//metrics` follow the route of `/metrics`. `%2F` \
is not a slash. A path that some backends would read as the path of another route gets a 400: a path with a dot segment, a \
backslash or a zero byte, escaped or not, and a path with `%2F` or `;` if another route covers the other reading.",
};

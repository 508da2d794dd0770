//! Keys of routes.

use super::{
    DefaultValue::{Value, Words},
    ValueKind::{Array, Boolean, OneOf, Size, Table, Text},
    *,
};

pub(in crate::config) static ROUTE: Section = Section {
    name: "routes",
    heading: "`[[routes]]`",
    about: "A request follows the route with the most specific host, then the longest path. The order of the routes does not matter, except that of \
            routes with `match`.",
    keys: &[
        SchemaKey {
            name: "host",
            kind: OneOf(&[Text("host"), Array(&Text("host"))]),
            default: Words("Every host"),
            example: r#""chat.example.com""#,
            about: "One host or several: exact host, or a wildcard for every name below one (`\"*.example.com\"`). Exact hosts are more specific than \
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
            name: "match",
            kind: Table(&MATCH),
            default: Words("Every request"),
            example: r#"{ method = "GET", header = { X-Beta = "1" } }"#,
            about: "Conditions beyond host and path. Several routes may have the same host and path if all but one have conditions.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Words("None; then `split`, `redirect`, `respond` or `files` is set"),
            example: r#""chat""#,
            about: "The pool that answers.",
        },
        SchemaKey {
            name: "split",
            kind: Array(&Table(&SPLIT)),
            default: Words("None"),
            example: r#"[{ pool = "stable", weight = 95 }, { pool = "next", weight = 5 }]"#,
            about: "Several pools by weight, instead of `pool`. A session stays in its pool.",
        },
        SchemaKey {
            name: "mirror",
            kind: OneOf(&[Text("name of a pool"), Table(&MIRROR)]),
            default: Words("None"),
            example: r#"{ pool = "shadow", share = "10%" }"#,
            about: "Another pool that gets copies of requests. Its responses are dropped.",
        },
        SchemaKey {
            name: "redirect",
            kind: OneOf(&[Text("path or URL, with variables"), Table(&REDIRECT)]),
            default: Words("None"),
            example: r#""https://www.example.com{path}{query}""#,
            about: "Location that every request is redirected to. Upgrades and requests of Engine.IO get a 404 instead, as their clients follow \
                    no redirect.",
        },
        SchemaKey {
            name: "respond",
            kind: Table(&RESPOND),
            default: Words("None"),
            example: r#"{ status = 200, body = "ok\n" }"#,
            about: "Response to every request.",
        },
        SchemaKey {
            name: "files",
            kind: OneOf(&[Text("path of a folder"), Table(&FILES)]),
            default: Words("None"),
            example: r#"{ root = "docs", spa = "/index.html" }"#,
            about: "A folder whose files answer the requests.",
        },
        SchemaKey {
            name: "listeners",
            kind: OneOf(&[Text("name of a listener"), Array(&Text("name of a listener"))]),
            default: Words("Every http and https listener"),
            example: r#"["secure"]"#,
            about: "The http and https listeners that use the route.",
        },
        SchemaKey {
            name: "timeouts",
            kind: Table(&ROUTE_TIMEOUTS),
            default: Words("Those of the pool"),
            example: r#"{ response_header = "5s" }"#,
            about: "Time limits, instead of those of the pool.",
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
        SchemaKey {
            name: "rewrite",
            kind: Table(&REWRITE),
            default: Words("Unchanged"),
            example: r#"{ strip_prefix = "/app1" }"#,
            about: "Changes of path and host for the backend.",
        },
        SchemaKey {
            name: "headers",
            kind: Table(&HEADERS),
            default: Words("Unchanged"),
            example: r#"{ response = { remove = ["Server"] } }"#,
            about: "Changes of header fields.",
        },
        SchemaKey {
            name: "allow",
            kind: OneOf(&[
                Text("network"),
                Table(&NETWORKS),
                Array(&OneOf(&[Text("network"), Table(&NETWORKS)])),
            ]),
            default: Words("Every client"),
            example: r#"["10.0.0.0/8", { file = "office.txt" }]"#,
            about: "Networks of clients that may use the route. Others get a 403.",
        },
        SchemaKey {
            name: "deny",
            kind: OneOf(&[
                Text("network"),
                Table(&NETWORKS),
                Array(&OneOf(&[Text("network"), Table(&NETWORKS)])),
            ]),
            default: Words("No client"),
            example: r#"{ file = "blocked.txt" }"#,
            about: "Networks of clients that get a 403, even if `allow` has them.",
        },
        SchemaKey {
            name: "max_body",
            kind: Size(0, 1 << 40),
            default: Words("Unlimited"),
            example: r#""1MiB""#,
            about: "Maximum size of a request body. A larger one gets a 413, as soon as it is known to be larger.",
        },
        SchemaKey {
            name: "maintenance",
            kind: OneOf(&[Boolean, Table(&MAINTENANCE)]),
            default: Value("false"),
            example: r#"{ retry_after = "5m" }"#,
            about: "Answers requests with a 503 and `Retry-After`.",
        },
        SchemaKey {
            name: "origins",
            kind: OneOf(&[Text("origin"), Array(&Text("origin"))]),
            default: Words(
                "`\"same-host\"` where a cookie, a password or a certificate authenticates; else every origin",
            ),
            example: r#"["same-host", "https://app.example.com"]"#,
            about: "Origins whose pages may send Engine.IO requests and open WebSockets: `\"same-host\"` for pages of the requested host, exact \
                    origins, `\"https://*.example.org\"` for all names below one, or `\"*\"`. Requests without `Origin` are not from a page of \
                    another origin, and pass.",
        },
        SchemaKey {
            name: "cors",
            kind: Table(&CORS),
            default: Words("Left to the backend"),
            example: r#"{ origins = ["https://app.example.com"] }"#,
            about: "Pages of other origins that may read responses.",
        },
        SchemaKey {
            name: "compress",
            kind: OneOf(&[Boolean, Table(&COMPRESS)]),
            default: Value("false"),
            example: r#"{ encodings = ["gzip"], level = 6 }"#,
            about: "Compresses responses for clients that accept it.",
        },
        SchemaKey {
            name: "decompress",
            kind: OneOf(&[Boolean, Table(&DECOMPRESS)]),
            default: Value("false"),
            example: r#"{ ratio = 50, max = "4MiB" }"#,
            about: "Decompresses request bodies for the backend: gzip, deflate, Brotli and Zstandard. Needs `pool` or `split`.",
        },
        SchemaKey {
            name: "transform",
            kind: Table(&TRANSFORM),
            default: Words("Unchanged"),
            example: r#"{ response = { mask = ["card.number"] } }"#,
            about: "Changes of JSON bodies and statuses, and error pages for responses of backends. Needs `pool` or `split`.",
        },
        SchemaKey {
            name: "limits",
            kind: OneOf(&[Table(&ROUTE_LIMIT), Array(&Table(&ROUTE_LIMIT))]),
            default: Words("Unlimited"),
            example: r#"[{ key = "client", rate = "10/s", burst = 20 }]"#,
            about: "Limits of requests, tunnels and handshakes by client or another key. What is beyond them gets a 429.",
        },
        SchemaKey {
            name: "messages",
            kind: Table(&MESSAGES),
            default: Words("Unlimited"),
            example: r#"{ max_size = "64KiB", rate = "50/s", burst = 100 }"#,
            about: "Limits on the size and the rate of WebSocket messages from clients.",
        },
        SchemaKey {
            name: "auth",
            kind: Table(&AUTH),
            default: Words("Every client may use the route"),
            example: r#"{ jwt = { keys = "keys.pem", audience = "chat" } }"#,
            about: "Authentication of clients.",
        },
        SchemaKey {
            name: "cache",
            kind: OneOf(&[Boolean, Table(&ROUTE_CACHE)]),
            default: Value("false"),
            example: r#"{ lifetime = "1m" }"#,
            about: "Stores responses.",
        },
        SchemaKey {
            name: "openapi",
            kind: OneOf(&[FILE, Table(&OPENAPI)]),
            default: Words("Every request passes"),
            example: r#"{ file = "api.yaml", unknown = "pass" }"#,
            about: "API description (OpenAPI 3.0 or 3.1) that requests must match.",
        },
    ],
    notes: "\
Paths are compared in a normal form and forwarded unchanged: `/%6detrics` and `//metrics` follow the route of `/metrics`. `%2F` \
is not a slash. A path that some backends would read as the path of another route gets a 400: a path with a dot segment, a \
backslash or a zero byte, escaped or not, and a path with `%2F` or `;` if another route covers the other reading.",
};

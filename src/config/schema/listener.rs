//! Keys of listeners.

use super::{
    ALPN, CERTIFICATE, DEADLINE,
    DefaultValue::{Required, Value, Words},
    NETWORK_LIST, SchemaKey, Section, TLS,
    ValueKind::{Array, Choice, Integer, OneOf, Rate, Size, Table, Text},
};

/// Server names.
const SERVER_NAMES: super::ValueKind = OneOf(&[Text("server name"), Array(&Text("server name"))]);

pub(in crate::config) static LISTENER: Section = Section {
    name: "listeners.NAME",
    heading: "`[listeners.NAME]`",
    about: "NAME appears in logs, metrics and routes.",
    keys: &[
        SchemaKey {
            name: "bind",
            kind: OneOf(&[Text("address to listen on"), Array(&Text("address to listen on"))]),
            default: Required,
            example: r#"["0.0.0.0:80", "[::]:80"]"#,
            about: "IP address and port to listen on, or an array of them. Port 0 means any free port.",
        },
        SchemaKey {
            name: "protocol",
            kind: Choice(&["http", "https", "tcp", "tls", "tls-passthrough"]),
            default: Value(r#""http""#),
            example: r#""https""#,
            about: "`\"http\"`; `\"https\"`; `\"tcp\"`: bytes to a pool; `\"tls\"`: TLS ends here, then bytes to a pool; \
                    `\"tls-passthrough\"`: TLS is not decrypted.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Words(
                "The only pool. With `passthrough` on a tls-passthrough listener: connections that no rule covers are refused",
            ),
            example: r#""redis""#,
            about: "The pool of a tcp, tls or tls-passthrough listener. Not for http and https, which use `[[routes]]`.",
        },
        SchemaKey {
            name: "passthrough",
            kind: Array(&Table(&PASSTHROUGH)),
            default: Words("None"),
            example: r#"[{ sni = "db.example.com", pool = "db" }]"#,
            about: "Rules for server names whose connections are forwarded without decryption. Only for https, tls and \
                    tls-passthrough.",
        },
        SchemaKey {
            name: "proxy_protocol",
            kind: OneOf(&[Choice(&["required", "optional"]), Table(&PROXY_PROTOCOL)]),
            default: Words("Connections do not begin with a PROXY header"),
            example: r#"{ mode = "required", from = ["10.0.0.0/8"] }"#,
            about: "Whether connections begin with a PROXY header of version 1 or 2, which names the client.",
        },
        SchemaKey {
            name: "connections_per_address",
            kind: Integer(1, 4_294_967_295),
            default: Words("Unlimited"),
            example: "200",
            about: "Maximum number of open connections per client address, over requests, WebSockets and streams. IPv6 \
                    addresses count by /64. See below.",
        },
        SchemaKey {
            name: "connection_rate",
            kind: Rate,
            default: Words("Unlimited"),
            example: r#""20/s""#,
            about: "Maximum rate of new connections per client address. IPv6 addresses count by /64. See below.",
        },
        SchemaKey {
            name: "connection_burst",
            kind: Integer(1, 1_000_000),
            default: Words("The number in `connection_rate`"),
            example: "100",
            about: "Number of connections of one client address that may come at once.",
        },
        SchemaKey {
            name: "redirect",
            kind: Text("`\"https\"` or `\"https:PORT\"`"),
            default: Words("Requests are routed"),
            example: r#""https""#,
            about: "Answer every request with a 308 to the same host and path over HTTPS; `\"https:8443\"` for another port. \
                    Only for http.",
        },
        SchemaKey {
            name: "certificates",
            kind: OneOf(&[Array(&Table(&CERTIFICATE)), Table(&CERTIFICATE)]),
            default: Words("None. Required for https and tls"),
            example: r#"[{ cert = "certs/site.pem", key = "certs/site.key" }]"#,
            about: "Certificates, or `{ acme = { … } }`. Only for https and tls. A client gets the first certificate for its server \
                    name that it supports (RSA or ECDSA), exact names before wildcards. Clients that send no or an unknown server \
                    name get the first certificate of all. A certificate without a DNS name is used only in place of that one, if it \
                    has another type of key.",
        },
        SchemaKey {
            name: "tls",
            kind: Table(&TLS),
            default: Words("The defaults of [`[listeners.NAME.tls]`](#listenersnametls)"),
            example: r#"{ min_version = "1.3" }"#,
            about: "How TLS is terminated. Only for https and tls.",
        },
        SchemaKey {
            name: "handshake_timeout",
            kind: DEADLINE,
            default: Value(r#""10s""#),
            example: r#""5s""#,
            about: "Time limit for the PROXY header and the TLS handshake together, from the accept.",
        },
        SchemaKey {
            name: "header_timeout",
            kind: DEADLINE,
            default: Value(r#""60s""#),
            example: r#""30s""#,
            about: "Time limit for the header of a request, from its first byte. For the first request of a connection, from \
                    the accept or the end of the TLS handshake. A client that has sent a part of a header gets a 408. Only for \
                    http and https.",
        },
        SchemaKey {
            name: "keep_alive",
            kind: DEADLINE,
            default: Value(r#""75s""#),
            example: r#""2m""#,
            about: "How long a connection stays open without another request. Use a longer time than the idle timeout of a \
                    balancer in front, so that the balancer closes first. Only for http and https.",
        },
        SchemaKey {
            name: "header_size",
            kind: Size(8 << 10, 4 << 20),
            default: Value(r#""64KiB""#),
            example: r#""32KiB""#,
            about: "Maximum size of a request header with its request line. Larger headers get a 431. Only for http and https.",
        },
        SchemaKey {
            name: "header_fields",
            kind: Integer(16, 10_000),
            default: Value("100"),
            example: "200",
            about: "Maximum number of fields of a request header. More get a 431. Only for http and https.",
        },
    ],
    notes: "\
`connections_per_address` prevents one client from using every handshake, tunnel or file descriptor. A connection over the \
limit is closed as soon as its address is known: before TLS, or on an `http` listener after a `503` with `Retry-After`. The log \
says `client_select_too_many`. A connection counts from its accept until it, or its tunnel, is closed. If a PROXY header names \
the client, that address counts. Peers in `trusted_proxies` or `from` are not limited, because many clients share their \
addresses. Choose a number that is enough for an office behind one address. Connections from before a reload that sets \
this key, and those that an earlier process keeps after an upgrade, do not count.

`connection_rate` limits how fast one client opens connections, by the same addresses. A connection beyond the rate is closed \
as early, on an `http` listener after a `429` with `Retry-After`; the log says `client_select_rate_limited`. 65,536 addresses \
are remembered; a flood of others replaces those that have used least. A reload that does not change the rate resets nothing.",
};

pub(in crate::config) static PASSTHROUGH: Section = Section {
    name: "listeners.NAME.passthrough",
    heading: "`[[listeners.NAME.passthrough]]`",
    about: "The first rule that covers a connection is used. A rule has `sni`, `alpn` or both.",
    keys: &[
        SchemaKey {
            name: "sni",
            kind: SERVER_NAMES,
            default: Words("Every server name, and none"),
            example: r#"["db.example.com", "*.db.example.com"]"#,
            about: "Server names that the rule covers.",
        },
        SchemaKey {
            name: "alpn",
            kind: ALPN,
            default: Words("Any protocol"),
            example: r#""h2""#,
            about: "ALPN protocols. The rule covers clients that offer one of them.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""db""#,
            about: "The pool that gets the connection.",
        },
    ],
    notes: "",
};

pub(in crate::config) static PROXY_PROTOCOL: Section = Section {
    name: "listeners.NAME.proxy_protocol",
    heading: "`[listeners.NAME.proxy_protocol]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "mode",
            kind: Choice(&["required", "optional"]),
            default: Required,
            example: r#""optional""#,
            about: "`\"required\"`: a connection without the header is closed. `\"optional\"`: the connection is served, and its peer \
                    is the client.",
        },
        SchemaKey {
            name: "from",
            kind: NETWORK_LIST,
            default: Words("`trusted_proxies`"),
            example: r#"["10.0.0.9"]"#,
            about: "Addresses that may send the header, as in `trusted_proxies`. A header from another address closes the connection.",
        },
    ],
    notes: "",
};

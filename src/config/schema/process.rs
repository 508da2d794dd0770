//! Keys of the top level and of the tables that concern the whole process.

use super::{
    DefaultValue::{Required, Value, Words},
    ERROR_PAGES, FILE, LISTENER, LONGEST, PERIOD, POOL, ROUTE, SchemaKey, Section,
    ValueKind::{Array, Boolean, Choice, Duration, Integer, Named, OneOf, Size, Table, Text},
};

/// Addresses and networks.
pub(super) const NETWORK_LIST: super::ValueKind = OneOf(&[
    Text("IP address, network (`\"10.0.0.0/8\"`) or `\"private\"`"),
    Table(&NETWORKS),
    Array(&OneOf(&[
        Text("IP address, network (`\"10.0.0.0/8\"`) or `\"private\"`"),
        Table(&NETWORKS),
    ])),
]);

/// How something is drained.
pub(super) const DRAIN_TERMS: super::ValueKind = OneOf(&[PERIOD, Table(&DRAIN)]);

pub(in crate::config) static TOP: Section = Section {
    name: "",
    heading: "Top level",
    about: "",
    notes: "",
    keys: &[
        SchemaKey {
            name: "include",
            kind: OneOf(&[Text("path or pattern"), Array(&Text("path or pattern"))]),
            default: Words("No other file"),
            example: r#"["conf.d/*.toml"]"#,
            about: "More files of this configuration. See [Included files](#included-files).",
        },
        SchemaKey {
            name: "listeners",
            kind: Named(&LISTENER),
            default: Required,
            example: r#"{ web = { bind = "0.0.0.0:8080" } }"#,
            about: "The sockets that accept connections, as tables `[listeners.NAME]`. At least one.",
        },
        SchemaKey {
            name: "routes",
            kind: Array(&Table(&ROUTE)),
            default: Words("Everything goes to the only pool"),
            example: r#"[{ path = "/chat", pool = "chat" }]"#,
            about: "Rules that choose a pool by host and path, as tables `[[routes]]`. Required if there are \
                    several pools and an HTTP listener.",
        },
        SchemaKey {
            name: "pools",
            kind: Named(&POOL),
            default: Words("none, which is enough for redirects to HTTPS only"),
            example: r#"{ app = { backends = ["127.0.0.1:3000"] } }"#,
            about: "Groups of interchangeable backends, as tables `[pools.NAME]`.",
        },
        SchemaKey {
            name: "trusted_proxies",
            kind: NETWORK_LIST,
            default: Value("[]"),
            example: r#"["10.0.0.0/8", "192.0.2.7"]"#,
            about: "Proxies in front of Moorline whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` fields \
                    are trusted. See [`trusted_proxies`](#trusted_proxies).",
        },
        SchemaKey {
            name: "forwarded",
            kind: Choice(&["pass", "always"]),
            default: Value(r#""pass""#),
            example: r#""always""#,
            about: "When backends get the `Forwarded` field (RFC 7239): `\"pass\"` if a trusted proxy sent it, \
                    `\"always\"` with every request.",
        },
        SchemaKey {
            name: "admin",
            kind: OneOf(&[Text("address to listen on"), Table(&ADMIN)]),
            default: Words("The API on a unix socket, no metrics"),
            example: r#""127.0.0.1:9090""#,
            about: "Address of `/metrics`, `/live` and `/ready`, or a table `[admin]`.",
        },
        SchemaKey {
            name: "drain",
            kind: DRAIN_TERMS,
            default: Value(r#""30s""#),
            example: r#""1m""#,
            about: "How long a stopping process waits for open connections, or a table \
                    [`drain`](#drain). `\"0s\"` closes them at once.",
        },
        SchemaKey {
            name: "reload",
            kind: Table(&RELOAD),
            default: Words("The defaults of [`[reload]`](#reload)"),
            example: "{ watch = false }",
            about: "How changes of the file take effect.",
        },
        SchemaKey {
            name: "upgrade",
            kind: Table(&UPGRADE),
            default: Words("The defaults of [`[upgrade]`](#upgrade)"),
            example: r#"{ drain = "2h" }"#,
            about: "How a process hands over to a new binary.",
        },
        SchemaKey {
            name: "access_log",
            kind: OneOf(&[Choice(&["stdout", "off"]), Table(&ACCESS_LOG)]),
            default: Value(r#""stdout""#),
            example: r#"{ file = "logs/access.log" }"#,
            about: "Destination of the access log: standard output, nowhere, or a file.",
        },
        SchemaKey {
            name: "error_pages",
            kind: ERROR_PAGES,
            default: Words("A built-in page"),
            example: r#"{ 404 = "404.html", 5xx = "down.html" }"#,
            about: "HTML pages for errors that the proxy itself reports: for requests without a route, and for routes \
                    without a page for the status. See [`[[routes]]`](#routes).",
        },
        SchemaKey {
            name: "sessions",
            kind: Table(&SESSIONS),
            default: Words("The defaults of [`[sessions]`](#sessions)"),
            example: "{ max = 500_000 }",
            about: "Limits of the table of session ids.",
        },
        SchemaKey {
            name: "cookie_key",
            kind: Table(&COOKIE_KEY),
            default: Words(
                "A random key that is lost on restart and not shared with other proxies",
            ),
            example: r#"{ env = "COOKIE_KEY" }"#,
            about: "The key that protects affinity cookies. Give all proxies of a fleet the same key.",
        },
        SchemaKey {
            name: "ticket_keys",
            kind: Table(&TICKET_KEYS),
            default: Words("Random keys, replaced every 6 hours"),
            example: r#"{ env = "TICKET_KEYS" }"#,
            about: "The keys of TLS session tickets. Proxies with the same keys resume each other's TLS sessions.",
        },
    ],
};

/// Among addresses and networks: a file with more of them.
pub(in crate::config) static NETWORKS: Section = Section {
    name: "trusted_proxies",
    heading: "`trusted_proxies`",
    about: "An address (`\"10.0.0.7\"`), a network (`\"10.0.0.0/8\"`), `\"private\"`, a table of a file, or an array \
            of these.",
    keys: &[SchemaKey {
        name: "file",
        kind: FILE,
        default: Required,
        example: r#""proxies.txt""#,
        about: "File with one address, network or `private` per line. `#` starts a comment.",
    }],
    notes: "\
`\"private\"` means loopback (`127.0.0.0/8`, `::1`), link-local (`169.254.0.0/16`, `fe80::/10`), RFC 1918 (`10.0.0.0/8`, \
`172.16.0.0/12`, `192.168.0.0/16`), RFC 4193 (`fc00::/7`) and RFC 6598 (`100.64.0.0/10`) addresses. Use it only if \
clients never connect from these addresses.

The client is the nearest address that is not trusted. Moorline looks at the peer first, then at `X-Forwarded-For`, or \
at the `for` parameters of `Forwarded`, from the end. Ports, brackets and quotes are accepted. The client's address is used in \
logs, for `source-hash` and for recent sessions. An entry that is not an address ends the search and is logged once.

Backends get `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port` and `X-Real-IP`. They get \
`Forwarded` if a trusted proxy sent it, or with `forwarded = \"always\"`. All of these fields are written from one list \
of hops, so that they never contradict each other. Moorline appends the peer to the list. A protocol, host or port that the \
proxy sends once is kept; if the proxy sends one for each address, Moorline appends its own.

If `Forwarded` and `X-Forwarded-*` of a trusted proxy contradict each other, Moorline uses `X-Forwarded-*` and logs a \
warning: most proxies set `X-Forwarded-*` and pass on the `Forwarded` of their client. `X-Forwarded-Prefix` of a trusted \
proxy is passed on. All of these fields are removed from requests of other peers; the first time, a warning names this key.

Backends also get `X-Moorline-Hops`, the number of Moorline processes that a request has passed. After ten, the request gets \
a 508 and the log says `proxy_request_loop`: a backend leads back to the proxy. A backend address that is also an \
address of a listener is an error. If discovery or a host name leads there, Moorline never connects to it and answers with 508.",
};

/// Of a pool, of the process and of an upgrade.
pub(in crate::config) static DRAIN: Section = Section {
    name: "drain",
    heading: "`drain`",
    about: "Instead of a duration, in the top level, in `[pools.NAME]` and in `[upgrade]`.",
    keys: &[
        SchemaKey {
            name: "within",
            kind: PERIOD,
            default: Required,
            example: r#""5m""#,
            about: "Time from the start of the drain to its deadline. Connections that are still open then are cut.",
        },
        SchemaKey {
            name: "spread",
            kind: PERIOD,
            default: Words("Half of `within`"),
            example: r#""2m""#,
            about: "The last part of `within`, over which connections are closed evenly. At most `within`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static RELOAD: Section = Section {
    name: "reload",
    heading: "`[reload]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "watch",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Reload when the configuration, or a file that it names or includes, changes. If `false`, only \
                    `moorline reload` and SIGHUP reload.",
        },
        SchemaKey {
            name: "interval",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""1m""#),
            example: r#""10s""#,
            about: "Time between two comparisons of the watched files with their loaded contents. It matters only for \
                    changes that the system does not report, for example on a network file system. If a folder cannot be \
                    watched, the time is at most 5 s.",
        },
        SchemaKey {
            name: "max_disconnects",
            kind: Integer(0, 1_000_000_000),
            default: Words("Unlimited"),
            example: "0",
            about: "Maximum number of sessions that a reload may disconnect. A reload that would disconnect more is rejected, \
                    unless `moorline reload --max-disconnects` allows it.",
        },
    ],
    notes: "",
};

pub(in crate::config) static UPGRADE: Section = Section {
    name: "upgrade",
    heading: "`[upgrade]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "drain",
            kind: DRAIN_TERMS,
            default: Value(r#""1h""#),
            example: r#"{ within = "2h", spread = "30m" }"#,
            about: "How the old process drains the connections that cannot be handed over: a duration, or a table \
                    [`drain`](#drain).",
        },
        SchemaKey {
            name: "ready",
            kind: Duration("1ms", "4m"),
            default: Value(r#""30s""#),
            example: r#""1m""#,
            about: "Time limit for the new process to become ready. After it, the new process is stopped and the old one \
                    continues.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ADMIN: Section = Section {
    name: "admin",
    heading: "`[admin]`",
    about: "The admin API and the metrics.",
    keys: &[
        SchemaKey {
            name: "metrics",
            kind: Text("address to listen on"),
            default: Words("Not served"),
            example: r#""127.0.0.1:9090""#,
            about: "Address of `/metrics`, `/live` and `/ready`. They need no token.",
        },
        SchemaKey {
            name: "socket",
            kind: OneOf(&[Text("path of a socket"), Boolean]),
            default: Words("`moorline.sock` in the runtime folder"),
            example: r#""/run/moorline/moorline.sock""#,
            about: "Path of the API's unix socket, which only its owner can open. `false` disables the socket.",
        },
        SchemaKey {
            name: "listen",
            kind: Text("address to listen on"),
            default: Words("Not served"),
            example: r#""10.0.0.1:9091""#,
            about: "Address of the API over TCP. Every request needs the token.",
        },
        SchemaKey {
            name: "token",
            kind: Table(&ADMIN_TOKEN),
            default: Words("None. Required with `listen`"),
            example: r#"{ env = "MOORLINE_TOKEN" }"#,
            about: "The bearer token of the API over TCP.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ADMIN_TOKEN: Section = Section {
    name: "admin.token",
    heading: "`[admin.token]`",
    about: "Set one of the two keys.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("None"),
            example: r#""/run/secrets/admin.token""#,
            about: "File with one line of at least 16 visible ASCII characters. `openssl rand -base64 32` makes one.",
        },
        SchemaKey {
            name: "env",
            kind: Text("name of an environment variable"),
            default: Words("None"),
            example: r#""MOORLINE_TOKEN""#,
            about: "Environment variable with the token.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ACCESS_LOG: Section = Section {
    name: "access_log",
    heading: "`access_log`",
    about: "",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("Standard output"),
            example: r#""/var/log/moorline/access.log""#,
            about: "File to append to. It is reopened on SIGHUP; a missing folder is created.",
        },
        SchemaKey {
            name: "redact",
            kind: OneOf(&[Text("part of a name"), Array(&Text("part of a name"))]),
            default: Words("Only the built-in parts, below"),
            example: r#"["ticket", "!sort_key"]"#,
            about: "More parts of query parameter names whose values are not logged. `\"!name\"` logs the value of \
                    this parameter in any case.",
        },
    ],
    notes: "\
The log has `-` in place of the value of a query parameter whose name contains a secret part. A part is a word of the \
name, as in `accessToken`, `session_id` or `X-Amz-Signature`; a part of at least five letters counts anywhere in the name. \
The built-in parts are `sid`, `token`, `secret`, `session`, `auth`, `authorization`, `key`, `apikey`, `jwt`, `bearer`, \
`assertion`, `saml`, `verifier`, `credential`, `password`, `passwd`, `passphrase`, `passcode`, `pass`, `pwd`, `otp`, `sig` and \
`signature`, and the whole name `code`.",
};

pub(in crate::config) static SESSIONS: Section = Section {
    name: "sessions",
    heading: "`[sessions]`",
    about: "The table of session ids, shared by all pools.",
    keys: &[
        SchemaKey {
            name: "max",
            kind: Integer(1, 100_000_000),
            default: Value("1_000_000"),
            example: "200_000",
            about: "Maximum number of session ids, about 125 bytes each. If the table is full, a new id replaces one that \
                    is close to its expiry.",
        },
        SchemaKey {
            name: "max_sid_bytes",
            kind: Size(20, 4096),
            default: Value(r#""128B""#),
            example: r#""256B""#,
            about: "Maximum length of a session id. Longer ids are not stored.",
        },
    ],
    notes: "",
};

pub(in crate::config) static COOKIE_KEY: Section = Section {
    name: "cookie_key",
    heading: "`cookie_key`",
    about: "Set one of the two keys.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("None"),
            example: r#""/run/secrets/cookie.key""#,
            about: "File with one key per line: base64 or hex of at least 32 bytes, or any text of at least 32 bytes \
                    (`openssl rand -base64 32`). The first key makes cookies; the others are still accepted.",
        },
        SchemaKey {
            name: "env",
            kind: Text("name of an environment variable"),
            default: Words("None"),
            example: r#""COOKIE_KEY""#,
            about: "Environment variable with the same content.",
        },
    ],
    notes: "",
};

pub(in crate::config) static TICKET_KEYS: Section = Section {
    name: "ticket_keys",
    heading: "`ticket_keys`",
    about: "Set one of the two keys.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("None"),
            example: r#""/run/secrets/ticket.keys""#,
            about: "File with one key per line, as for `cookie_key`. The first key makes tickets; the others are still accepted. \
                    Put a new key first, on every proxy, twice a day.",
        },
        SchemaKey {
            name: "env",
            kind: Text("name of an environment variable"),
            default: Words("None"),
            example: r#""TICKET_KEYS""#,
            about: "Environment variable with the same content.",
        },
    ],
    notes: "",
};

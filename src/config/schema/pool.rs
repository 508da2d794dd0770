//! Keys of pools.

use super::{
    DEADLINE,
    DefaultValue::{Required, Value, Words},
    FILE, LONGEST, PERIOD, SchemaKey, Section,
    ValueKind::{Array, Boolean, Choice, Duration, Integer, OneOf, Percent, Table, Text},
    process::DRAIN_TERMS,
    traffic::{ADMISSION, LIMITS, OUTLIER, REBALANCE, REUSE, TIMEOUTS},
};

pub(in crate::config) static POOL: Section = Section {
    name: "pools.NAME",
    heading: "`[pools.NAME]`",
    about: "NAME appears in logs, metrics, routes and cookies.",
    keys: &[
        SchemaKey {
            name: "backends",
            kind: OneOf(&[
                Array(&OneOf(&[Text("`HOST:PORT`"), Table(&BACKEND)])),
                Table(&BACKEND_SOURCE),
            ]),
            default: Required,
            example: r#"["10.0.0.11:3000", { name = "blue-2", address = "10.0.0.12:3000", weight = 2 }]"#,
            about: "Array of addresses (`\"10.0.0.11:3000\"`, `\"[::1]:3000\"`, `\"node-1:3000\"`) and tables, or one table of a \
                    source. See [`[[pools.NAME.backends]]`](#poolsnamebackends).",
        },
        SchemaKey {
            name: "balance",
            kind: Choice(&["least-sessions", "round-robin", "p2c", "source-hash"]),
            default: Value(r#""least-sessions""#),
            example: r#""p2c""#,
            about: "How a backend is chosen for a new session: fewest sessions and tunnels by weight, in turn by weight, the less \
                    loaded of two random ones, or by a hash of the client's address.",
        },
        SchemaKey {
            name: "health",
            kind: Table(&HEALTH),
            default: Words("A TCP check every 2 s"),
            example: r#"{ probe = "engine.io" }"#,
            about: "Active health checks.",
        },
        SchemaKey {
            name: "slow_start",
            kind: PERIOD,
            default: Value(r#""0s""#),
            example: r#""30s""#,
            about: "Time over which a new or recovered backend grows to its full weight. `\"0s\"` disables slow start.",
        },
        SchemaKey {
            name: "outlier",
            kind: OneOf(&[Boolean, Table(&OUTLIER)]),
            default: Value("false"),
            example: "true",
            about: "Eject backends that fail under traffic.",
        },
        SchemaKey {
            name: "healthy_minimum",
            kind: Percent(0),
            default: Value(r#""0%""#),
            example: r#""30%""#,
            about: "Panic threshold: if a smaller share of the backends is healthy, health is ignored and all backends are used.",
        },
        SchemaKey {
            name: "limits",
            kind: Table(&LIMITS),
            default: Words("The defaults of [`[pools.NAME.limits]`](#poolsnamelimits)"),
            example: "{ connections = 5000 }",
            about: "Limits per backend.",
        },
        SchemaKey {
            name: "admission",
            kind: Table(&ADMISSION),
            default: Words("Unlimited"),
            example: r#"{ rate = "100/s" }"#,
            about: "Rate limit of new sessions per backend. Requests of known sessions are never delayed.",
        },
        SchemaKey {
            name: "rebalance",
            kind: Table(&REBALANCE),
            default: Words("Off"),
            example: r#"{ rate = "50/s" }"#,
            about: "Close tunnels of backends that have more than a fair share, so that clients connect to other backends. Never \
                    closes streams of layer 4. Not with `balance = \"source-hash\"`.",
        },
        SchemaKey {
            name: "max_connection_age",
            kind: Duration("1s", LONGEST),
            default: Words("Unlimited"),
            example: r#""6h""#,
            about: "Maximum age of a tunnel or a layer-4 stream, minus up to a tenth at random. If a new limit finds older ones, \
                    they are closed over a tenth of this time.",
        },
        SchemaKey {
            name: "sticky",
            kind: OneOf(&[Boolean, Table(&STICKY)]),
            default: Value("true"),
            example: "{ cookie = false }",
            about: "Session affinity.",
        },
        SchemaKey {
            name: "timeouts",
            kind: Table(&TIMEOUTS),
            default: Words("The defaults of [`[pools.NAME.timeouts]`](#poolsnametimeouts)"),
            example: r#"{ connect = "1s" }"#,
            about: "Time limits of requests and tunnels.",
        },
        SchemaKey {
            name: "reuse",
            kind: Table(&REUSE),
            default: Words("The defaults of [`[pools.NAME.reuse]`](#poolsnamereuse)"),
            example: "{ max_idle = 64 }",
            about: "Reuse of idle connections to the backends.",
        },
        SchemaKey {
            name: "tls",
            kind: OneOf(&[Boolean, Table(&BACKEND_TLS)]),
            default: Value("false"),
            example: r#"{ ca = "ca.pem" }"#,
            about: "Use TLS to the backends.",
        },
        SchemaKey {
            name: "proxy_protocol",
            kind: OneOf(&[Choice(&["v1", "v2"]), Table(&PROXY_OUT)]),
            default: Words("None"),
            example: r#""v2""#,
            about: "Begin each connection to a backend with a PROXY header, which names the client. Such a connection is never shared by two \
                    clients.",
        },
        SchemaKey {
            name: "long_polls",
            kind: Array(&Text("path")),
            default: Words("Only known long polls, see `stream_idle`"),
            example: r#"["/events"]"#,
            about: "Path prefixes of requests that backends may hold open.",
        },
        SchemaKey {
            name: "drain",
            kind: DRAIN_TERMS,
            default: Value(r#""5m""#),
            example: r#""10m""#,
            about: "How long a removed or drained backend keeps its sessions, or a table [`drain`](#drain). `\"0s\"` cuts them at once.",
        },
        SchemaKey {
            name: "on_down",
            kind: OneOf(&[Choice(&["keep", "close"]), Table(&ON_DOWN)]),
            default: Value(r#""keep""#),
            example: r#""close""#,
            about: "What happens to the tunnels of a backend that is down. `\"keep\"`: they stay open. `\"close\"`: they are closed with status \
                    1012 between two frames, over 10 s, so that clients connect to other backends. Closing stops if the backend comes back \
                    up. The log says `backend_down`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static BACKEND: Section = Section {
    name: "pools.NAME.backends",
    heading: "`[[pools.NAME.backends]]`",
    about: "An element of the array. A string `\"HOST:PORT\"` is the short form.",
    keys: &[
        SchemaKey {
            name: "name",
            kind: Text("name"),
            default: Words("The address as typed"),
            example: r#""blue-2""#,
            about: "Name in logs, metrics, commands and cookies; unique in the pool.",
        },
        SchemaKey {
            name: "address",
            kind: Text("`HOST:PORT`"),
            default: Required,
            example: r#""10.0.0.12:3000""#,
            about: "Host name or IP address, and port. IPv6 addresses are in brackets.",
        },
        SchemaKey {
            name: "weight",
            kind: Integer(1, 65_535),
            default: Value("1"),
            example: "2",
            about: "Share of new sessions relative to the other backends.",
        },
    ],
    notes: "",
};

/// Instead of an array: one source of backends and its terms.
pub(in crate::config) static BACKEND_SOURCE: Section = Section {
    name: "pools.NAME.backends",
    heading: "`[pools.NAME.backends]`",
    about: "A source instead of an array. Set one of `file`, `dns`, `srv` and `http`.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Words("None"),
            example: r#""backends.txt""#,
            about: "File with one address per line, followed by `name=…` and `weight=…` if needed. `#` starts a comment. The file \
                    may be empty.",
        },
        SchemaKey {
            name: "dns",
            kind: Text("`NAME:PORT`"),
            default: Words("None"),
            example: r#""chat.internal:3000""#,
            about: "DNS name and port. Each A and AAAA record is a backend.",
        },
        SchemaKey {
            name: "srv",
            kind: Text("DNS name"),
            default: Words("None"),
            example: r#""_chat._tcp.internal""#,
            about: "DNS name of SRV records. The records of the best priority give hosts, ports and weights.",
        },
        SchemaKey {
            name: "resolver",
            kind: Text("IP address, with a port if it is not 53"),
            default: Words("The servers of the system"),
            example: r#""127.0.0.1:5353""#,
            about: "DNS server of `dns` and `srv`.",
        },
        SchemaKey {
            name: "min_ttl",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""1s""#),
            example: r#""5s""#,
            about: "Minimum time between two lookups, if the records have a shorter TTL.",
        },
        SchemaKey {
            name: "max_ttl",
            kind: Duration("100ms", LONGEST),
            default: Words("`\"5m\"`, or `min_ttl` if that is longer"),
            example: r#""1m""#,
            about: "Maximum time between two lookups, if the records have a longer TTL.",
        },
        SchemaKey {
            name: "http",
            kind: Text("URL"),
            default: Words("None"),
            example: r#""http://127.0.0.1:8500/v1/health/service/chat?passing""#,
            about: "URL of a JSON list of backends, or of a Consul health endpoint.",
        },
        SchemaKey {
            name: "interval",
            kind: Duration("100ms", LONGEST),
            default: Value(r#""5s""#),
            example: r#""10s""#,
            about: "Time between two requests of `http`.",
        },
        SchemaKey {
            name: "timeout",
            kind: DEADLINE,
            default: Words("`\"2s\"`, or `interval` if that is shorter"),
            example: r#""1s""#,
            about: "Time limit of the whole response of `http`; at most `interval`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static HEALTH: Section = Section {
    name: "pools.NAME.health",
    heading: "`[pools.NAME.health]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "probe",
            kind: Choice(&["off", "tcp", "http", "engine.io", "websocket"]),
            default: Value(r#""tcp""#),
            example: r#""engine.io""#,
            about: "`\"tcp\"`: open a connection. `\"http\"`: request `path`. `\"engine.io\"`: open a session, upgrade it and close it. \
                    `\"websocket\"`: open a WebSocket and close it. `\"off\"`: every backend counts as healthy.",
        },
        SchemaKey {
            name: "path",
            kind: Text("path"),
            default: Words("`\"/\"`; `\"/socket.io/\"` for engine.io"),
            example: r#""/healthz""#,
            about: "Path of an http, engine.io or websocket probe. It may have a query, except for engine.io.",
        },
        SchemaKey {
            name: "host",
            kind: Text("host"),
            default: Words("The address of the backend"),
            example: r#""chat.example.com""#,
            about: "`Host` field of an http, engine.io or websocket probe.",
        },
        SchemaKey {
            name: "status",
            kind: OneOf(&[Integer(200, 599), Text("status or range")]),
            default: Words("`\"200-299\"`"),
            example: r#""200-399""#,
            about: "Statuses that count as healthy for an http probe. Redirects are not followed.",
        },
        SchemaKey {
            name: "interval",
            kind: DEADLINE,
            default: Value(r#""2s""#),
            example: r#""5s""#,
            about: "Time between two probes of one backend, ±10 %.",
        },
        SchemaKey {
            name: "timeout",
            kind: DEADLINE,
            default: Words("`\"1s\"`, or `interval` if that is shorter"),
            example: r#""500ms""#,
            about: "Time limit of one probe; at most `interval`.",
        },
        SchemaKey {
            name: "rise",
            kind: Integer(1, 1000),
            default: Value("2"),
            example: "1",
            about: "Consecutive successes after which a backend is up.",
        },
        SchemaKey {
            name: "fall",
            kind: Integer(1, 1000),
            default: Value("3"),
            example: "5",
            about: "Consecutive failures, of probes or of connection attempts, after which a backend is down. Failures that overlap \
                    in time count once. A backend that is down gets no new sessions and keeps its sessions.",
        },
    ],
    notes: "",
};

pub(in crate::config) static STICKY: Section = Section {
    name: "pools.NAME.sticky",
    heading: "`[pools.NAME.sticky]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "engine_io",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Use Engine.IO session ids for affinity.",
        },
        SchemaKey {
            name: "owner_search",
            kind: Integer(0, 65_535),
            default: Value("64"),
            example: "0",
            about: "Maximum number of backends to try, one after the other, for an unknown session id. `0` disables the search.",
        },
        SchemaKey {
            name: "memory",
            kind: PERIOD,
            default: Value(r#""2m""#),
            example: r#""30s""#,
            about: "How long the backend of an ended session is remembered for a client without a cookie, by the address and user agent \
                    of its handshake. `\"0s\"` disables this. If several clients with the same address and user agent end on \
                    different backends within five seconds, they are balanced as new clients.",
        },
        SchemaKey {
            name: "cookie",
            kind: OneOf(&[Boolean, Table(&COOKIE)]),
            default: Value("true"),
            example: r#"{ lifetime = "1d" }"#,
            about: "The affinity cookie.",
        },
    ],
    notes: "",
};

pub(in crate::config) static COOKIE: Section = Section {
    name: "pools.NAME.sticky.cookie",
    heading: "`[pools.NAME.sticky.cookie]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "name",
            kind: Text("cookie name"),
            default: Words(
                "`moorline-` and the pool's name; a hash of it if that name is not a token or is too long",
            ),
            example: r#""lb""#,
            about: "Name of the cookie, at most 64 characters. Pools that share a host need different names. With the default name, a valid cookie \
                    `moorline` of earlier versions is accepted and replaced.",
        },
        SchemaKey {
            name: "same_site",
            kind: Text("`\"strict\"`, `\"lax\"` or `\"none\"`"),
            default: Words("`none` for a cross-site request over TLS, else `lax`"),
            example: r#""lax""#,
            about: "The `SameSite` attribute.",
        },
        SchemaKey {
            name: "secure",
            kind: Boolean,
            default: Words("`true` if the client uses TLS"),
            example: "true",
            about: "The `Secure` attribute.",
        },
        SchemaKey {
            name: "http_only",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "The `HttpOnly` attribute: scripts cannot read the cookie.",
        },
        SchemaKey {
            name: "partitioned",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "The `Partitioned` attribute (CHIPS): one cookie per embedding site. Implies `secure`.",
        },
        SchemaKey {
            name: "lifetime",
            kind: Duration("1s", LONGEST),
            default: Words("Until the browser closes"),
            example: r#""30d""#,
            about: "The `Max-Age` attribute.",
        },
        SchemaKey {
            name: "set_on",
            kind: Choice(&["handshake", "always"]),
            default: Value(r#""handshake""#),
            example: r#""always""#,
            about: "Replies that set the cookie. `\"handshake\"`: Engine.IO handshakes and WebSocket upgrades. `\"always\"`: every reply to a \
                    client without the cookie.",
        },
    ],
    notes: "",
};

pub(in crate::config) static BACKEND_TLS: Section = Section {
    name: "pools.NAME.tls",
    heading: "`[pools.NAME.tls]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "ca",
            kind: FILE,
            default: Words("The authorities of the system"),
            example: r#""backends-ca.pem""#,
            about: "PEM file of certificate authorities, or of the backends' own certificates. A backend certificate that is in this file \
                    byte for byte is accepted while it is in date.",
        },
        SchemaKey {
            name: "name",
            kind: Text("server name"),
            default: Words("The host of the backend"),
            example: r#""chat.internal""#,
            about: "Server name that is sent (SNI) and verified.",
        },
        SchemaKey {
            name: "alpn",
            kind: OneOf(&[Text("protocol name"), Array(&Text("protocol name"))]),
            default: Words("None"),
            example: r#""http/1.1""#,
            about: "ALPN protocols to offer. Only `http/1.1` if requests go to the pool.",
        },
        SchemaKey {
            name: "client_cert",
            kind: Table(&CLIENT_CERT),
            default: Words("None"),
            example: r#"{ cert = "proxy.pem", key = "proxy.key" }"#,
            about: "Client certificate of the proxy.",
        },
        SchemaKey {
            name: "verify",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Verify the certificates of the backends. If `false`, a warning is logged at every start.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CLIENT_CERT: Section = Section {
    name: "pools.NAME.tls.client_cert",
    heading: "`[pools.NAME.tls.client_cert]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "cert",
            kind: FILE,
            default: Required,
            example: r#""proxy.pem""#,
            about: "PEM file of the certificate chain.",
        },
        SchemaKey {
            name: "key",
            kind: FILE,
            default: Required,
            example: r#""proxy.key""#,
            about: "PEM file of the private key, not encrypted.",
        },
    ],
    notes: "",
};

pub(in crate::config) static PROXY_OUT: Section = Section {
    name: "pools.NAME.proxy_protocol",
    heading: "`[pools.NAME.proxy_protocol]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "version",
            kind: Choice(&["v1", "v2"]),
            default: Value(r#""v2""#),
            example: r#""v2""#,
            about: "Version of the PROXY header.",
        },
        SchemaKey {
            name: "tlvs",
            kind: {
                const TLV: super::ValueKind = Choice(&[
                    "unique-id",
                    "authority",
                    "alpn",
                    "ssl",
                    "ssl-cipher",
                    "cert-cn",
                    "cert-subject",
                    "cert-fingerprint",
                    "crc32c",
                ]);
                OneOf(&[TLV, Array(&TLV)])
            },
            default: Words("None"),
            example: r#"["authority", "ssl"]"#,
            about: "TLVs of a version 2 header, in addition to the addresses.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ON_DOWN: Section = Section {
    name: "pools.NAME.on_down",
    heading: "`[pools.NAME.on_down]`",
    about: "",
    keys: &[SchemaKey {
        name: "close",
        kind: PERIOD,
        default: Required,
        example: r#""30s""#,
        about: "Close the tunnels of a backend that is down, spread over this time. `\"0s\"`: all at once.",
    }],
    notes: "",
};

//! Keys of pools.

use super::{
    ADMISSION, BACKEND, BACKEND_SOURCE, BACKEND_TLS, DRAIN_TERMS,
    DefaultValue::{Required, Value, Words},
    HEALTH, LIMITS, LONGEST, OUTLIER, PERIOD, PROXY_OUT, REBALANCE, REUSE, STICKY, SchemaKey,
    Section, TIMEOUTS,
    ValueKind::{Array, Boolean, Choice, Duration, OneOf, Percent, Table, Text},
};

pub(in crate::config) static POOL: Section = Section {
    name: "pools.NAME",
    heading: "`[pools.NAME]`",
    about: "NAME appears in logs, metrics, routes and cookies.",
    keys: &[
        SchemaKey {
            name: "backends",
            kind: OneOf(&[
                Array(&OneOf(&[Text("`HOST:PORT` or `unix:PATH`"), Table(&BACKEND)])),
                Table(&BACKEND_SOURCE),
            ]),
            default: Required,
            example: r#"["10.0.0.11:3000", { name = "blue-2", address = "10.0.0.12:3000", weight = 2 }]"#,
            about: "Array of addresses (`\"10.0.0.11:3000\"`, `\"[::1]:3000\"`, `\"node-1:3000\"`, `\"unix:/run/app.sock\"`) and tables, or one table of a \
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
            about: "Begin each connection to a backend with a PROXY header, which names the client. Such connections are never shared by two \
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

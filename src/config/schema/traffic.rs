//! Keys of a pool about its traffic: time limits, connection reuse and overload.

use super::{
    DEADLINE,
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{Duration, Integer, Percent, Rate, Size},
};

pub(in crate::config) static OUTLIER: Section = Section {
    name: "pools.NAME.outlier",
    heading: "`[pools.NAME.outlier]`",
    about: "A failure is a failed connection attempt, a missing or invalid response, or status 500, 502, 503 or 504.",
    keys: &[
        SchemaKey {
            name: "consecutive",
            kind: Integer(1, 1_000_000),
            default: Value("5"),
            example: "3",
            about: "Consecutive failures that eject a backend.",
        },
        SchemaKey {
            name: "error_rate",
            kind: Percent(0),
            default: Value(r#""50%""#),
            example: r#""20%""#,
            about: "Share of failures within `interval` that ejects a backend. `\"0%\"` disables this rule.",
        },
        SchemaKey {
            name: "min_requests",
            kind: Integer(1, 1_000_000),
            default: Value("100"),
            example: "20",
            about: "Minimum number of requests within `interval` for `error_rate`.",
        },
        SchemaKey {
            name: "interval",
            kind: DEADLINE,
            default: Value(r#""10s""#),
            example: r#""30s""#,
            about: "Time over which the error rate is measured.",
        },
        SchemaKey {
            name: "ejection",
            kind: DEADLINE,
            default: Value(r#""30s""#),
            example: r#""10s""#,
            about: "Duration of the first ejection. Each further ejection of a backend lasts that much longer.",
        },
        SchemaKey {
            name: "max_ejection",
            kind: DEADLINE,
            default: Words("`\"5m\"`, or `ejection` if that is longer"),
            example: r#""1m""#,
            about: "Maximum duration of an ejection.",
        },
        SchemaKey {
            name: "max_ejected",
            kind: Percent(1),
            default: Value(r#""50%""#),
            example: r#""30%""#,
            about: "Maximum share of the pool that is ejected at the same time.",
        },
    ],
    notes: "",
};

pub(in crate::config) static LIMITS: Section = Section {
    name: "pools.NAME.limits",
    heading: "`[pools.NAME.limits]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "connections",
            kind: Integer(1, 65_535),
            default: Words("Unlimited"),
            example: "5000",
            about: "Maximum number of connections to one backend, tunnels included.",
        },
        SchemaKey {
            name: "pending",
            kind: Integer(0, 1_000_000),
            default: Words("Unlimited"),
            example: "100",
            about: "Maximum number of requests and streams that wait for a connection to one backend. At `connections`, requests of \
                    the backend's sessions and layer-4 streams wait; at `max_total`, all requests do. A stream waits for several \
                    backends and counts at the one with the fewest waiting.",
        },
        SchemaKey {
            name: "header_size",
            kind: Size(8 << 10, 4 << 20),
            default: Value(r#""128KiB""#),
            example: r#""256KiB""#,
            about: "Maximum size of a response header. A response with a larger one becomes a 502.",
        },
        SchemaKey {
            name: "header_fields",
            kind: Integer(16, 10_000),
            default: Value("500"),
            example: "1000",
            about: "Maximum number of fields of a response header. A response with more becomes a 502.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ADMISSION: Section = Section {
    name: "pools.NAME.admission",
    heading: "`[pools.NAME.admission]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "rate",
            kind: Rate,
            default: Required,
            example: r#""100/s""#,
            about: "Rate of new sessions per backend.",
        },
        SchemaKey {
            name: "queue",
            kind: Integer(0, 1_000_000),
            default: Value("1000"),
            example: "200",
            about: "Maximum number of new sessions that wait at one backend. If the queue is full, another backend is tried. If none \
                    admits the session, it gets a 503 with `Retry-After`, or as a layer-4 stream is closed.",
        },
        SchemaKey {
            name: "deadline",
            kind: Duration("1ms", "19s"),
            default: Value(r#""10s""#),
            example: r#""5s""#,
            about: "Maximum time that a new session waits. A Socket.IO client gives up after 20 s.",
        },
    ],
    notes: "",
};

pub(in crate::config) static REBALANCE: Section = Section {
    name: "pools.NAME.rebalance",
    heading: "`[pools.NAME.rebalance]`",
    about: "",
    keys: &[SchemaKey {
        name: "rate",
        kind: Rate,
        default: Required,
        example: r#""50/s""#,
        about: "Rate at which tunnels are closed, over the whole pool.",
    }],
    notes: "",
};

pub(in crate::config) static TIMEOUTS: Section = Section {
    name: "pools.NAME.timeouts",
    heading: "`[pools.NAME.timeouts]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "connect",
            kind: DEADLINE,
            default: Value(r#""2s""#),
            example: r#""1s""#,
            about: "Time limit of one connection attempt to a backend. For a known session, attempts continue for the lifetime of \
                    the session.",
        },
        SchemaKey {
            name: "response_header",
            kind: DEADLINE,
            default: Value(r#""60s""#),
            example: r#""30s""#,
            about: "Time limit from the last byte of the request to the end of the response header. For a request of a known \
                    session at least its `pingInterval + pingTimeout`. Not for long polls, which have `stream_idle`.",
        },
        SchemaKey {
            name: "body_idle",
            kind: DEADLINE,
            default: Value(r#""60s""#),
            example: r#""3m""#,
            about: "Maximum pause within a body, in either direction. If a backend does not read a request body for longer, the rest is \
                    not sent. Not for event streams and long polls, which have `stream_idle`.",
        },
        SchemaKey {
            name: "stream_idle",
            kind: DEADLINE,
            default: Words("Unlimited"),
            example: r#""10m""#,
            about: "Maximum silence of an event stream, and maximum time that a long poll is held. Engine.IO polls follow their session.",
        },
        SchemaKey {
            name: "tunnel_idle",
            kind: DEADLINE,
            default: Words("Unlimited"),
            example: r#""1h""#,
            about: "Maximum pause in a tunnel or a layer-4 stream.",
        },
        SchemaKey {
            name: "half_closed",
            kind: DEADLINE,
            default: Value(r#""60s""#),
            example: r#""30s""#,
            about: "Maximum pause in a tunnel or a layer-4 stream after one side has ended its direction. The log says `half_closed`.",
        },
    ],
    notes: "\
Event streams are responses of type `text/event-stream` and requests that accept this type. Long polls are recognized by \
their requests: SignalR (`?id=` with a connection token, or `transport=longPolling`), SockJS (`/prefix/000/session/xhr`, \
`xhr_streaming`, `jsonp`, `eventsource`, `htmlfile`), Phoenix (`…/longpoll`), and Bayeux below a segment `cometd`, `bayeux` or \
`faye`. Name other paths in `long_polls` of the pool.

If a client closes its connection during a request, the request ends too. A client that only ends its sending direction still \
gets its response: one second after the FIN, an interim `100 Continue` shows whether the client is still connected. Requests of \
Engine.IO sessions, long polls and event streams end with the FIN.",
};

pub(in crate::config) static ROUTE_TIMEOUTS: Section = Section {
    name: "routes.timeouts",
    heading: "`timeouts` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "response_header",
            kind: DEADLINE,
            default: Words("That of the pool"),
            example: r#""5s""#,
            about: "See [`timeouts` of the pool](#poolsnametimeouts).",
        },
        SchemaKey {
            name: "body_idle",
            kind: DEADLINE,
            default: Words("That of the pool"),
            example: r#""10m""#,
            about: "As for the pool.",
        },
        SchemaKey {
            name: "stream_idle",
            kind: DEADLINE,
            default: Words("That of the pool"),
            example: r#""30m""#,
            about: "As for the pool.",
        },
        SchemaKey {
            name: "tunnel_idle",
            kind: DEADLINE,
            default: Words("That of the pool"),
            example: r#""1h""#,
            about: "As for the pool.",
        },
    ],
    notes: "As for the pool, no `response_header` ends a poll of Engine.IO before `pingInterval + pingTimeout` of its session, or another \
            long poll. A backend that misses a shorter limit than that of its pool is not counted as failed.",
};

pub(in crate::config) static REUSE: Section = Section {
    name: "pools.NAME.reuse",
    heading: "`[pools.NAME.reuse]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "max_idle",
            kind: Integer(0, 65_535),
            default: Value("256"),
            example: "64",
            about: "Maximum number of idle connections to one backend. `0` disables reuse.",
        },
        SchemaKey {
            name: "max_total",
            kind: Integer(1, 65_535),
            default: Words("Unlimited"),
            example: "500",
            about: "Maximum number of HTTP connections to one backend, tunnels not included.",
        },
        SchemaKey {
            name: "idle_timeout",
            kind: DEADLINE,
            default: Value(r#""1500ms""#),
            example: r#""4s""#,
            about: "How long an idle connection is kept. Use a shorter time than the server's own limit (gunicorn 2 s; Node and uvicorn \
                    5 s). A limit that a backend announces (`Keep-Alive: timeout=5`), or shows by closing idle connections, shortens \
                    this time. A request that cannot be sent twice, such as every request of a session, uses only a connection that was \
                    idle for less than 1 s, or half of the backend's limit; otherwise it gets a new connection.",
        },
    ],
    notes: "",
};

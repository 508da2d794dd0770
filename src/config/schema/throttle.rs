//! Keys of the limits of routes.

use super::{
    DEADLINE,
    DefaultValue::{Value, Words},
    SchemaKey, Section,
    ValueKind::{Choice, Integer, Rate, Size, Text},
};

pub(in crate::config) static ROUTE_LIMIT: Section = Section {
    name: "routes.limits",
    heading: "`[[routes.limits]]`",
    about: "A limit counts requests by a key, before they are authenticated. A request must be within all limits of its route; what a limit \
            refuses gets a 429 with `Retry-After`. A request that one limit refuses has still been counted by those before it in the file.",
    keys: &[
        SchemaKey {
            name: "key",
            kind: Text(
                "`client`, `route`, `header:NAME`, `cookie:NAME`, `query:NAME`, `subject`, `api_key` or `jwt:CLAIM`",
            ),
            default: Value(r#""client""#),
            example: r#""header:X-Tenant""#,
            about: "What requests are counted by: the address of the client, the whole route, or the value of a field, a cookie or a \
                    query parameter. `subject`, `api_key` and `jwt:CLAIM` are those of [`auth`](#auth-of-a-route); such limits count after \
                    authentication. A request without the value counts by the client's address. A client can send any value: add a limit by \
                    `client`.",
        },
        SchemaKey {
            name: "what",
            kind: Choice(&["requests", "handshakes", "posts", "polls"]),
            default: Value(r#""requests""#),
            example: r#""handshakes""#,
            about: "Requests that `rate`, `concurrent` and `quota` count. `requests`: all except held polls and CORS preflights. \
                    `handshakes`: those that open a session of Engine.IO or a WebSocket without one. `posts`: those with the method POST. \
                    `polls`: held polls.",
        },
        SchemaKey {
            name: "rate",
            kind: Rate,
            default: Words("Unlimited"),
            example: r#""10/s""#,
            about: "Maximum rate of requests (token bucket).",
        },
        SchemaKey {
            name: "burst",
            kind: Integer(1, 1_000_000),
            default: Words("The number in `rate`"),
            example: "20",
            about: "Number of requests that may come at once.",
        },
        SchemaKey {
            name: "concurrent",
            kind: Integer(1, 1_000_000),
            default: Words("Unlimited"),
            example: "50",
            about: "Maximum number of requests in flight. Tunnels do not count.",
        },
        SchemaKey {
            name: "tunnels",
            kind: Integer(1, 1_000_000),
            default: Words("Unlimited"),
            example: "10",
            about: "Maximum number of open tunnels: WebSockets and other upgrades.",
        },
        SchemaKey {
            name: "quota",
            kind: Text("count per hour or day"),
            default: Words("Unlimited"),
            example: r#""10000/d""#,
            about: "Maximum number of requests in a day, which begins at midnight UTC, or in an hour of the clock (`\"500/h\"`).",
        },
        SchemaKey {
            name: "name",
            kind: Text("name"),
            default: Words("Made from `what`"),
            example: r#""logins""#,
            about: "Name of the policy in the RateLimit fields. Limits of several routes that have the same name and are otherwise equal \
                    count together.",
        },
        SchemaKey {
            name: "fields",
            kind: Choice(&["always", "refusals", "never"]),
            default: Value(r#""always""#),
            example: r#""refusals""#,
            about: "Responses that have the fields `RateLimit-Policy` and `RateLimit`.",
        },
        SchemaKey {
            name: "ipv6_prefix",
            kind: Integer(32, 128),
            default: Value("64"),
            example: "56",
            about: "Length of the IPv6 networks that count as one client.",
        },
        SchemaKey {
            name: "max_keys",
            kind: Integer(16, 10_000_000),
            default: Value("100000"),
            example: "1000000",
            about: "Number of keys that are remembered, at 32 bytes each. Further keys replace those that have used least of the limit.",
        },
    ],
    notes: "Set at least one of `rate`, `concurrent`, `tunnels` and `quota`. The counters are those of this process. They survive reloads that \
            do not change the limit, and start anew with the process.",
};

pub(in crate::config) static MESSAGES: Section = Section {
    name: "routes.messages",
    heading: "`messages` of a route",
    about: "Limits on what clients send over WebSockets. Without this table, tunnels are passed through without a look at messages.",
    keys: &[
        SchemaKey {
            name: "max_size",
            kind: Size(1, 1 << 40),
            default: Words("Unlimited"),
            example: r#""64KiB""#,
            about: "Maximum size of a message, over its fragments; with permessage-deflate, the compressed size. A larger message is not \
                    forwarded, and the connection is closed with status 1009.",
        },
        SchemaKey {
            name: "rate",
            kind: Rate,
            default: Words("Unlimited"),
            example: r#""50/s""#,
            about: "Maximum rate of messages. The proxy does not read from a client beyond the rate. Pings and pongs, and \
                    continuations of less than 1 KiB, count apart, with the same rate but at least 10 per second.",
        },
        SchemaKey {
            name: "burst",
            kind: Integer(1, 1_000_000),
            default: Words("The number in `rate`"),
            example: "100",
            about: "Number of messages that may come at once.",
        },
        SchemaKey {
            name: "patience",
            kind: DEADLINE,
            default: Value(r#""10s""#),
            example: r#""1m""#,
            about: "How long a client may be beyond the rate without a break. Then the connection is closed with status 1008.",
        },
    ],
    notes: "Frames that are invalid or not masked close the connection with status 1002.",
};

//! Keys of session affinity.

use super::{
    DefaultValue::{Value, Words},
    LONGEST, PERIOD, SchemaKey, Section,
    ValueKind::{Boolean, Choice, Duration, Integer, OneOf, Table, Text},
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

//! Keys of health checks.

use super::{
    DEADLINE,
    DefaultValue::{Value, Words},
    SchemaKey, Section,
    ValueKind::{Choice, Integer, OneOf, Text},
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

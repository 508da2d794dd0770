//! Keys of the admin API.

use super::{
    DefaultValue::Words,
    FILE, SchemaKey, Section,
    ValueKind::{Boolean, OneOf, Table, Text},
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

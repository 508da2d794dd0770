//! Keys of the access log, the session table and the shared keys.

use super::{
    DefaultValue::{Value, Words},
    FILE, SchemaKey, Section,
    ValueKind::{Array, Integer, OneOf, Size, Text},
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

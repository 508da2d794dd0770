//! Keys of authentication.

use super::{
    COOKIE_KEY, DEADLINE,
    DefaultValue::{Required, Value, Words},
    FILE, SchemaKey, Section,
    ValueKind::{self, Array, Choice, Duration, Integer, OneOf, Table, Text},
};

const WORDS: ValueKind = OneOf(&[Text("text"), Array(&Text("text"))]);

const ALGORITHM: ValueKind = Choice(&[
    "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA", "HS256",
    "HS384", "HS512",
]);

pub(in crate::config) static AUTH: Section = Section {
    name: "routes.auth",
    heading: "`auth` of a route",
    about: "Requests without valid credentials get a 401 and do not reach a backend. The identity of the client and its expiry are bound to \
            its Engine.IO session at the handshake, and to its tunnel.",
    keys: &[
        SchemaKey {
            name: "jwt",
            kind: Table(&JWT),
            default: Required,
            example: r#"{ keys = "keys.pem", audience = "chat" }"#,
            about: "JSON Web Tokens.",
        },
        SchemaKey {
            name: "grace",
            kind: Duration("0s", "1d"),
            default: Value(r#""0s""#),
            example: r#""30s""#,
            about: "Time between the end of an identity and the end of its sessions and tunnels.",
        },
        SchemaKey {
            name: "close_code",
            kind: Integer(1000, 4999),
            default: Value("1008"),
            example: "4401",
            about: "Status of the Close frame that ends a tunnel whose identity has expired: 1008, or 3000 to 4999.",
        },
    ],
    notes: "An Engine.IO request of a bound session may come without a token, or with an expired one: browsers cannot set fields on a \
            WebSocket. A token of another identity gets a 403. CORS preflights carry no credentials and pass.",
};

pub(in crate::config) static JWT: Section = Section {
    name: "routes.auth.jwt",
    heading: "`jwt` of `auth`",
    about: "Exactly one of `keys`, `secret` and `jwks` is set.",
    keys: &[
        SchemaKey {
            name: "keys",
            kind: FILE,
            default: Words("None"),
            example: r#""keys.pem""#,
            about: "File with public keys: PEM, or a JWK set.",
        },
        SchemaKey {
            name: "secret",
            kind: Table(&COOKIE_KEY),
            default: Words("None"),
            example: r#"{ env = "JWT_SECRET" }"#,
            about: "Secrets of HS256, one per line, each with at least 32 bytes, from a file or an environment variable.",
        },
        SchemaKey {
            name: "jwks",
            kind: Text("URL"),
            default: Words("None"),
            example: r#""https://id.example.com/.well-known/jwks.json""#,
            about: "URL of a JWK set. Needs `issuer` and `audience`.",
        },
        SchemaKey {
            name: "refresh",
            kind: DEADLINE,
            default: Words("`\"10m\"`"),
            example: r#""1h""#,
            about: "Time after which the keys of `jwks` are fetched again. They stay in use if that fails.",
        },
        SchemaKey {
            name: "timeout",
            kind: Duration("1ms", "30s"),
            default: Words("`\"5s\"`"),
            example: r#""2s""#,
            about: "Deadline of a fetch of `jwks`.",
        },
        SchemaKey {
            name: "algorithms",
            kind: OneOf(&[ALGORITHM, Array(&ALGORITHM)]),
            default: Words("Every algorithm of public keys; `HS256` with `secret`"),
            example: r#"["ES256"]"#,
            about: "Algorithms that tokens may have. A key is never used with an algorithm of another kind.",
        },
        SchemaKey {
            name: "issuer",
            kind: WORDS,
            default: Words("Not checked"),
            example: r#""https://id.example.com""#,
            about: "Accepted values of `iss`.",
        },
        SchemaKey {
            name: "audience",
            kind: WORDS,
            default: Words("Not checked"),
            example: r#""chat""#,
            about: "Accepted values of `aud`.",
        },
        SchemaKey {
            name: "token",
            kind: WORDS,
            default: Value(r#"["header"]"#),
            example: r#"["header", "cookie:token", "query:token", "subprotocol"]"#,
            about: "Places of the token: the first one that has a token counts. `subprotocol` is the WebSocket subprotocol after \
                    `bearer`, as in `new WebSocket(url, [\"bearer\", token])`; backends do not get it.",
        },
        SchemaKey {
            name: "leeway",
            kind: Duration("0s", "10m"),
            default: Value(r#""30s""#),
            example: r#""5s""#,
            about: "Accepted difference of clocks, for `exp` and `nbf`.",
        },
        SchemaKey {
            name: "subject",
            kind: Text("name of a claim"),
            default: Value(r#""sub""#),
            example: r#""user_id""#,
            about: "Claim that names the subject. A token without it is refused.",
        },
    ],
    notes: "`exp` is required. A token has at most 8 KiB. Header edits can use its claims: `{jwt.sub}`, `{jwt.realm.role}`; `{subject}` is the \
            subject. The values of query parameters with tokens are not logged.",
};

//! Keys of authentication.

use super::{
    COOKIE_KEY, DEADLINE,
    DefaultValue::{Required, Value, Words},
    FILE, MATCH_CERTIFICATE, SchemaKey, Section,
    ValueKind::{self, Array, Boolean, Choice, Duration, Integer, Map, OneOf, Table, Text},
    conditions::TEXT,
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
            default: Words("Not accepted"),
            example: r#"{ keys = "keys.pem", audience = "chat" }"#,
            about: "JSON Web Tokens.",
        },
        SchemaKey {
            name: "api_keys",
            kind: Table(&API_KEYS),
            default: Words("Not accepted"),
            example: r#"{ file = "api-keys.txt", key = ["header:X-API-Key", "query:api_key"] }"#,
            about: "API keys.",
        },
        SchemaKey {
            name: "basic",
            kind: Table(&BASIC),
            default: Words("Not accepted"),
            example: r#"{ file = "users.txt" }"#,
            about: "Names and passwords of Basic authentication.",
        },
        SchemaKey {
            name: "forward",
            kind: Table(&FORWARD_AUTH),
            default: Words("None"),
            example: r#"{ url = "http://auth.internal/verify", copy = "X-User", subject = "X-User" }"#,
            about: "Another server that decides about each request.",
        },
        SchemaKey {
            name: "oidc",
            kind: Table(&OIDC),
            default: Words("No logins"),
            example: r#"{ issuer = "https://id.example.com", client_id = "chat", client_secret = { file = "oidc.secret" } }"#,
            about: "Logins of browsers at an OpenID provider.",
        },
        SchemaKey {
            name: "require",
            kind: Table(&AUTH_REQUIRE),
            default: Words("Every valid identity"),
            example: r#"{ scopes = "chat", claims = { role = ["admin", "editor"] } }"#,
            about: "Conditions of the identity. A client that does not meet them gets a 403.",
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
    notes: "At least one of `jwt`, `api_keys`, `basic`, `forward` and `oidc` is set, or `certificate` in `require`. Of several, the first one in this order that a request \
            has a credential for decides alone; without any, the client certificate is the identity. \
            \n\nAn Engine.IO request of a bound session may come without a token, or with an expired one: browsers cannot set fields on a \
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
            about: "URL of a JWK set, or of the metadata of an OpenID provider, which ends with `/.well-known/openid-configuration`. Needs `issuer` and \
                    `audience`.",
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
            about: "Places of the token: the first one that has a token counts. `header` is `Authorization: Bearer TOKEN`, `header:NAME` the \
                    value of a field. `subprotocol` is the WebSocket subprotocol after \
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

pub(in crate::config) static API_KEYS: Section = Section {
    name: "routes.auth.api_keys",
    heading: "`api_keys` of `auth`",
    about: "The file has a line for each key: the name of the client, the SHA-256 of the key in hex, and, if wanted, `expires=2027-06-30` \
            (a day, with its end, or a moment such as `2027-06-30T12:00:00Z`) and `scope=chat,files`. A client may have several keys. \
            Lines that begin with `#` are comments.",
    keys: &[
        SchemaKey {
            name: "file",
            kind: FILE,
            default: Required,
            example: r#""api-keys.txt""#,
            about: "File of the keys. A change takes effect at once.",
        },
        SchemaKey {
            name: "key",
            kind: WORDS,
            default: Value(r#"["header:X-API-Key"]"#),
            example: r#"["header:X-API-Key", "query:api_key"]"#,
            about: "Places of the key: the first one that has a key counts. The places are those of `token` of `jwt`.",
        },
    ],
    notes: "Keys must be random, for example from `openssl rand -hex 24`: a fast hash does not protect words. The name of the client is the subject, and \
            `{api_key}` in header edits. The values of query parameters with keys are not logged.",
};

pub(in crate::config) static BASIC: Section = Section {
    name: "routes.auth.basic",
    heading: "`basic` of `auth`",
    about: "",
    keys: &[SchemaKey {
        name: "file",
        kind: FILE,
        default: Required,
        example: r#""users.txt""#,
        about: "File of the users, with a line `NAME:HASH` for each; the hash is one of bcrypt (`htpasswd -nB NAME`) or Argon2. A change \
                takes effect at once.",
    }],
    notes: "A password is hashed on a separate thread, at most two at a time in the process. A password that was right is not hashed again \
            for 60 s. A client that waits for more than 5 s gets a 503: limit the route by `client`.",
};

pub(in crate::config) static FORWARD_AUTH: Section = Section {
    name: "routes.auth.forward",
    heading: "`forward` of `auth`",
    about: "The server gets a GET request with the fields of the client's request, without its body, and with `X-Forwarded-Method`, \
            `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Uri`, `X-Forwarded-For`, `X-Original-URI`, `X-Original-URL`, `X-Original-Method` and `X-Request-Id`. A 2xx \
            lets the request pass.",
    keys: &[
        SchemaKey {
            name: "url",
            kind: Text("URL"),
            default: Required,
            example: r#""http://auth.internal/verify""#,
            about: "URL of the server. It gets the credentials of clients: use `http` only within a trusted network.",
        },
        SchemaKey {
            name: "send",
            kind: WORDS,
            default: Words("All but those of the connection, the body and conditions"),
            example: r#"["Authorization", "Cookie"]"#,
            about: "Fields of the client's request that the server gets.",
        },
        SchemaKey {
            name: "copy",
            kind: WORDS,
            default: Words("None"),
            example: r#"["X-User", "X-Roles"]"#,
            about: "Fields of the response that the backend gets. Those of the client with these names are removed.",
        },
        SchemaKey {
            name: "copy_back",
            kind: WORDS,
            default: Words("None"),
            example: r#""Set-Cookie""#,
            about: "Fields of the response that the client gets with the response of the backend.",
        },
        SchemaKey {
            name: "subject",
            kind: Text("name of a field"),
            default: Words("None: sessions have no identity"),
            example: r#""X-User""#,
            about: "Field of the response that names the client. Sessions and tunnels are bound to it.",
        },
        SchemaKey {
            name: "timeout",
            kind: Duration("1ms", "30s"),
            default: Value(r#""5s""#),
            example: r#""2s""#,
            about: "Deadline of a decision. Later, the client gets a 503.",
        },
        SchemaKey {
            name: "cache",
            kind: Duration("0s", "1m"),
            default: Value(r#""0s""#),
            example: r#""10s""#,
            about: "Time in whole seconds for which requests pass without another question if the server would see no difference, except in `t` and `sid` of \
                    Engine.IO.",
        },
    ],
    notes: "A 3xx or 4xx goes to the client with its body and its `Location`, `Set-Cookie` and `WWW-Authenticate`. Engine.IO requests, WebSockets and event \
            streams get a 401 instead of a redirect. Any other response, or none, is a 503.",
};

pub(in crate::config) static AUTH_REQUIRE: Section = Section {
    name: "routes.auth.require",
    heading: "`require` of `auth`",
    about: "A client has to meet each condition.",
    keys: &[
        SchemaKey {
            name: "scopes",
            kind: WORDS,
            default: Words("Every client"),
            example: r#"["chat", "files"]"#,
            about: "Scopes, all of which the token (`scope` or `scp`) or the API key must have.",
        },
        SchemaKey {
            name: "claims",
            kind: Map("table from claims to conditions", &TEXT),
            default: Words("Every client"),
            example: r#"{ role = ["admin", "editor"], email_verified = "true" }"#,
            about: "Claims of the token, with the conditions of `header` of `match`. `realm.role` names a value in an object. A list meets a \
                    condition if one of its values does.",
        },
        SchemaKey {
            name: "certificate",
            kind: OneOf(&[Boolean, Table(&MATCH_CERTIFICATE)]),
            default: Words("Every client"),
            example: r#"{ subject = "CN=client,O=Example" }"#,
            about: "Whether the client has a verified certificate, or which one. Needs `client_auth` of an https listener.",
        },
    ],
    notes: "",
};

pub(in crate::config) static OIDC: Section = Section {
    name: "routes.auth.oidc",
    heading: "`oidc` of `auth`",
    about: "A browser that opens a page without a login is sent to the provider (OpenID Connect, authorization code flow with PKCE). Every other \
            request without a login gets a 401: of scripts, Engine.IO, WebSockets and event streams.",
    keys: &[
        SchemaKey {
            name: "issuer",
            kind: Text("URL"),
            default: Required,
            example: r#""https://id.example.com""#,
            about: "The issuer, exactly as the provider publishes it at `/.well-known/openid-configuration` below this URL. `http` is only for \
                    this machine.",
        },
        SchemaKey {
            name: "client_id",
            kind: Text("text"),
            default: Required,
            example: r#""chat""#,
            about: "Id of this client at the provider.",
        },
        SchemaKey {
            name: "client_secret",
            kind: Table(&COOKIE_KEY),
            default: Words("A public client, without a secret"),
            example: r#"{ file = "oidc.secret" }"#,
            about: "Secret of this client, from a file or an environment variable.",
        },
        SchemaKey {
            name: "client_auth",
            kind: Choice(&["basic", "post"]),
            default: Value(r#""basic""#),
            example: r#""post""#,
            about: "How the secret is sent: `basic` is `client_secret_basic`, `post` is `client_secret_post`.",
        },
        SchemaKey {
            name: "scopes",
            kind: WORDS,
            default: Value(r#"["openid"]"#),
            example: r#"["openid", "email"]"#,
            about: "Requested scopes. `openid` is always one of them.",
        },
        SchemaKey {
            name: "claims",
            kind: WORDS,
            default: Words("Only `sub`, `iss` and `scope`"),
            example: r#"["email", "groups"]"#,
            about: "More claims of the ID token that the login keeps, for `require`, header edits and limits.",
        },
        SchemaKey {
            name: "algorithms",
            kind: OneOf(&[ALGORITHM, Array(&ALGORITHM)]),
            default: Words("Every algorithm of public keys"),
            example: r#"["RS256", "ES256"]"#,
            about: "Algorithms that ID tokens may have.",
        },
        SchemaKey {
            name: "callback",
            kind: Text("path"),
            default: Words("`/oidc/callback` below the path of the route"),
            example: r#""/oidc/callback""#,
            about: "Path to which the provider sends the browser back. Register it at the provider, as a URL with the host.",
        },
        SchemaKey {
            name: "logout",
            kind: Text("path"),
            default: Words("`/oidc/logout` below the path of the route"),
            example: r#""/oidc/logout""#,
            about: "Path that ends the login, with its sessions and tunnels, here and at the provider.",
        },
        SchemaKey {
            name: "after_logout",
            kind: Text("path or URL"),
            default: Words("The page of the provider"),
            example: r#""https://www.example.com/""#,
            about: "Page after a logout. Register it at the provider.",
        },
        SchemaKey {
            name: "session",
            kind: Duration("1m", "30d"),
            default: Words("Until the ID token expires"),
            example: r#""8h""#,
            about: "Lifetime of a login. Then the browser is sent to the provider again, which usually lets it pass without a question.",
        },
        SchemaKey {
            name: "leeway",
            kind: Duration("0s", "10m"),
            default: Value(r#""30s""#),
            example: r#""5s""#,
            about: "Accepted difference of clocks, for `exp`, `iat` and `nbf`.",
        },
        SchemaKey {
            name: "timeout",
            kind: DEADLINE,
            default: Value(r#""5s""#),
            example: r#""2s""#,
            about: "Deadline of a request to the provider, at most 30 s.",
        },
    ],
    notes: "The login is in encrypted cookies of the browser, sealed with `cookie_key`: set it, so that logins survive a restart and are valid for all \
            proxies. Routes with the same issuer, client, scopes and claims share a login. Backends do not get these cookies. \
            \n\nA login needs https. With http, it works on `localhost`, `127.0.0.1` and `[::1]` only.",
};

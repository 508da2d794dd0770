//! Keys of listeners and routes.

use super::{
    DEADLINE,
    DefaultValue::{Required, Value, Words},
    ERROR_PAGES, FILE, SchemaKey, Section,
    ValueKind::{Array, Choice, Integer, OneOf, Size, Table, Text},
    process::NETWORK_LIST,
};

const SERVER_NAMES: super::ValueKind = OneOf(&[Text("server name"), Array(&Text("server name"))]);

const ALPN: super::ValueKind = OneOf(&[Text("protocol name"), Array(&Text("protocol name"))]);

pub(in crate::config) static LISTENER: Section = Section {
    name: "listeners.NAME",
    heading: "`[listeners.NAME]`",
    about: "NAME appears in logs, metrics and routes.",
    keys: &[
        SchemaKey {
            name: "bind",
            kind: OneOf(&[Text("address to listen on"), Array(&Text("address to listen on"))]),
            default: Required,
            example: r#"["0.0.0.0:80", "[::]:80"]"#,
            about: "IP address and port to listen on, or an array of them. Port 0 means any free port.",
        },
        SchemaKey {
            name: "protocol",
            kind: Choice(&["http", "https", "tcp", "tls", "tls-passthrough"]),
            default: Value(r#""http""#),
            example: r#""https""#,
            about: "`\"http\"`; `\"https\"`; `\"tcp\"`: bytes to a pool; `\"tls\"`: TLS ends here, then bytes to a pool; \
                    `\"tls-passthrough\"`: TLS is not decrypted.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Words(
                "The only pool. With `passthrough` on a tls-passthrough listener: connections that no rule covers are refused",
            ),
            example: r#""redis""#,
            about: "The pool of a tcp, tls or tls-passthrough listener. Not for http and https, which use `[[routes]]`.",
        },
        SchemaKey {
            name: "passthrough",
            kind: Array(&Table(&PASSTHROUGH)),
            default: Words("None"),
            example: r#"[{ sni = "db.example.com", pool = "db" }]"#,
            about: "Rules for server names whose connections are forwarded without decryption. Only for https, tls and \
                    tls-passthrough.",
        },
        SchemaKey {
            name: "proxy_protocol",
            kind: OneOf(&[Choice(&["required", "optional"]), Table(&PROXY_PROTOCOL)]),
            default: Words("Connections do not begin with a PROXY header"),
            example: r#"{ mode = "required", from = ["10.0.0.0/8"] }"#,
            about: "Whether connections begin with a PROXY header of version 1 or 2, which names the client.",
        },
        SchemaKey {
            name: "connections_per_address",
            kind: Integer(1, 4_294_967_295),
            default: Words("Unlimited"),
            example: "200",
            about: "Maximum number of open connections per client address, over requests, WebSockets and streams. IPv6 \
                    addresses count by /64. See below.",
        },
        SchemaKey {
            name: "redirect",
            kind: Text("`\"https\"` or `\"https:PORT\"`"),
            default: Words("Requests are routed"),
            example: r#""https""#,
            about: "Answer every request with a 308 to the same host and path over HTTPS; `\"https:8443\"` for another port. \
                    Only for http.",
        },
        SchemaKey {
            name: "certificates",
            kind: OneOf(&[Array(&Table(&CERTIFICATE)), Table(&CERTIFICATE)]),
            default: Words("None. Required for https and tls"),
            example: r#"[{ cert = "certs/site.pem", key = "certs/site.key" }]"#,
            about: "Certificates, or `{ acme = { … } }`. Only for https and tls. A client gets the first certificate for its server \
                    name that it supports (RSA or ECDSA), exact names before wildcards. Clients that send no or an unknown server \
                    name get the first certificate of all. A certificate without a DNS name is used only in place of that one, if it \
                    has another type of key.",
        },
        SchemaKey {
            name: "tls",
            kind: Table(&TLS),
            default: Words("The defaults of [`[listeners.NAME.tls]`](#listenersnametls)"),
            example: r#"{ min_version = "1.3" }"#,
            about: "How TLS is terminated. Only for https and tls.",
        },
        SchemaKey {
            name: "handshake_timeout",
            kind: DEADLINE,
            default: Value(r#""10s""#),
            example: r#""5s""#,
            about: "Time limit for the PROXY header and the TLS handshake together, from the accept.",
        },
        SchemaKey {
            name: "header_timeout",
            kind: DEADLINE,
            default: Value(r#""60s""#),
            example: r#""30s""#,
            about: "Time limit for the header of a request, from its first byte. For the first request of a connection, from \
                    the accept or the end of the TLS handshake. A client that has sent a part of a header gets a 408. Only for \
                    http and https.",
        },
        SchemaKey {
            name: "keep_alive",
            kind: DEADLINE,
            default: Value(r#""75s""#),
            example: r#""2m""#,
            about: "How long a connection stays open without another request. Use a longer time than the idle timeout of a \
                    balancer in front, so that the balancer closes first. Only for http and https.",
        },
        SchemaKey {
            name: "header_size",
            kind: Size(8 << 10, 4 << 20),
            default: Value(r#""64KiB""#),
            example: r#""32KiB""#,
            about: "Maximum size of a request header with its request line. Larger headers get a 431. Only for http and https.",
        },
        SchemaKey {
            name: "header_fields",
            kind: Integer(16, 10_000),
            default: Value("100"),
            example: "200",
            about: "Maximum number of fields of a request header. More get a 431. Only for http and https.",
        },
    ],
    notes: "\
`connections_per_address` prevents one client from using every handshake, tunnel or file descriptor. A connection over the \
limit is closed as soon as its address is known: before TLS, or on an `http` listener after a `503` with `Retry-After`. The log \
says `client_select_too_many`. A connection counts from its accept until it, or its tunnel, is closed. If a PROXY header names \
the client, that address counts. Peers in `trusted_proxies` or `from` are not limited, because many clients share their \
addresses. Choose a number that is enough for an office behind one address. Connections from before a reload that sets \
this key, and those that an earlier process keeps after an upgrade, do not count.",
};

pub(in crate::config) static PASSTHROUGH: Section = Section {
    name: "listeners.NAME.passthrough",
    heading: "`[[listeners.NAME.passthrough]]`",
    about: "The first rule that covers a connection is used. A rule has `sni`, `alpn` or both.",
    keys: &[
        SchemaKey {
            name: "sni",
            kind: SERVER_NAMES,
            default: Words("Every server name, and none"),
            example: r#"["db.example.com", "*.db.example.com"]"#,
            about: "Server names that the rule covers.",
        },
        SchemaKey {
            name: "alpn",
            kind: ALPN,
            default: Words("Any protocol"),
            example: r#""h2""#,
            about: "ALPN protocols. The rule covers clients that offer one of them.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""db""#,
            about: "The pool that gets the connection.",
        },
    ],
    notes: "",
};

pub(in crate::config) static PROXY_PROTOCOL: Section = Section {
    name: "listeners.NAME.proxy_protocol",
    heading: "`[listeners.NAME.proxy_protocol]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "mode",
            kind: Choice(&["required", "optional"]),
            default: Required,
            example: r#""optional""#,
            about: "`\"required\"`: a connection without the header is closed. `\"optional\"`: the connection is served, and its peer \
                    is the client.",
        },
        SchemaKey {
            name: "from",
            kind: NETWORK_LIST,
            default: Words("`trusted_proxies`"),
            example: r#"["10.0.0.9"]"#,
            about: "Addresses that may send the header, as in `trusted_proxies`. A header from another address closes the connection.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CERTIFICATE: Section = Section {
    name: "listeners.NAME.certificates",
    heading: "`[[listeners.NAME.certificates]]`",
    about: "`cert` and `key`, or `acme` instead of the array.",
    keys: &[
        SchemaKey {
            name: "cert",
            kind: FILE,
            default: Words("None. Required without `acme`"),
            example: r#""certs/site.pem""#,
            about: "PEM file of the certificate chain, the server's certificate first.",
        },
        SchemaKey {
            name: "key",
            kind: FILE,
            default: Words("None. Required without `acme`"),
            example: r#""certs/site.key""#,
            about: "PEM file of the private key, not encrypted.",
        },
        SchemaKey {
            name: "ocsp",
            kind: FILE,
            default: Words("None"),
            example: r#""certs/site.ocsp""#,
            about: "File of a signed OCSP response in DER (`openssl ocsp … -respout`), which is stapled to the handshake until it \
                    expires. A response about another certificate, as after a renewal, is not stapled, and a warning says so.",
        },
        SchemaKey {
            name: "acme",
            kind: Table(&ACME),
            default: Words("None"),
            example: r#"{ directory = "https://acme-v02.api.letsencrypt.org/directory", domains = ["chat.example.com"] }"#,
            about: "Order the certificate from an ACME server. Used instead of the array: `certificates = { acme = { … } }`.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ACME: Section = Section {
    name: "listeners.NAME.certificates.acme",
    heading: "`[listeners.NAME.certificates.acme]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "directory",
            kind: Text("https URL"),
            default: Required,
            example: r#""https://acme-v02.api.letsencrypt.org/directory""#,
            about: "URL of the ACME server's directory. Setting it accepts the terms of service of that server.",
        },
        SchemaKey {
            name: "email",
            kind: Text("e-mail address"),
            default: Words("None"),
            example: r#""ops@example.com""#,
            about: "Contact address for the ACME server.",
        },
        SchemaKey {
            name: "domains",
            kind: OneOf(&[Text("DNS name"), Array(&Text("DNS name"))]),
            default: Required,
            example: r#"["chat.example.com", "www.example.com"]"#,
            about: "DNS names of the certificate, at most 100; the first is its subject. Wildcards and underscores are not \
                    supported.",
        },
        SchemaKey {
            name: "storage",
            kind: Text("path of a folder"),
            default: Words("`\"acme\"` beside the main file"),
            example: r#""/var/lib/moorline/acme""#,
            about: "Folder of the account key and the certificates. It is created with mode 0700.",
        },
        SchemaKey {
            name: "ca",
            kind: FILE,
            default: Words("The authorities of the system"),
            example: r#""acme-ca.pem""#,
            about: "PEM file of the authorities that the certificate of the ACME server itself is verified with.",
        },
    ],
    notes: "",
};

pub(in crate::config) static TLS: Section = Section {
    name: "listeners.NAME.tls",
    heading: "`[listeners.NAME.tls]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "min_version",
            kind: Choice(&["1.2", "1.3"]),
            default: Value(r#""1.2""#),
            example: r#""1.3""#,
            about: "Oldest TLS version that is accepted.",
        },
        SchemaKey {
            name: "cipher_suites",
            kind: OneOf(&[Text("cipher suite"), Array(&Text("cipher suite"))]),
            default: Words("AES-GCM and ChaCha20-Poly1305 with forward secrecy"),
            example: r#"["TLS_AES_128_GCM_SHA256"]"#,
            about: "Cipher suites by their IANA names, in order of preference. A TLS version without a suite is not offered.",
        },
        SchemaKey {
            name: "curves",
            kind: OneOf(&[Text("group"), Array(&Text("group"))]),
            default: Words("`[\"X25519MLKEM768\", \"X25519\", \"secp256r1\", \"secp384r1\"]`"),
            example: r#"["X25519", "P-256"]"#,
            about: "Key exchange groups, in order of preference.",
        },
        SchemaKey {
            name: "alpn",
            kind: ALPN,
            default: Words("None; https listeners offer `http/1.1`"),
            example: r#"["h2", "http/1.1"]"#,
            about: "ALPN protocols to offer, in order of preference. Only for tls.",
        },
        SchemaKey {
            name: "unknown_sni",
            kind: Choice(&["default", "refuse"]),
            default: Value(r#""default""#),
            example: r#""refuse""#,
            about: "What a client gets whose server name is missing or in no certificate: `\"default\"`, the first certificate, or \
                    `\"refuse\"`, the alert `unrecognized_name`.",
        },
        SchemaKey {
            name: "client_auth",
            kind: Table(&CLIENT_AUTH),
            default: Words("No certificate is requested"),
            example: r#"{ ca = "clients-ca.pem" }"#,
            about: "Request and verify client certificates.",
        },
        SchemaKey {
            name: "key_log",
            kind: FILE,
            default: Words("None"),
            example: r#""keys.log""#,
            about: "File to append TLS secrets to, in the format of `SSLKEYLOGFILE`, reopened on SIGHUP. It must belong to the user of \
                    the process. For debugging only: it makes all traffic readable.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CLIENT_AUTH: Section = Section {
    name: "listeners.NAME.tls.client_auth",
    heading: "`[listeners.NAME.tls.client_auth]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "mode",
            kind: Choice(&["required", "optional"]),
            default: Value(r#""required""#),
            example: r#""optional""#,
            about: "Whether a client without a certificate is rejected.",
        },
        SchemaKey {
            name: "ca",
            kind: FILE,
            default: Required,
            example: r#""clients-ca.pem""#,
            about: "PEM file of the authorities that client certificates are verified with.",
        },
        SchemaKey {
            name: "crl",
            kind: FILE,
            default: Words("None"),
            example: r#""clients.crl""#,
            about: "PEM file of certificate revocation lists.",
        },
    ],
    notes: "",
};

pub(in crate::config) static ROUTE: Section = Section {
    name: "routes",
    heading: "`[[routes]]`",
    about: "A request follows the route with the most specific host, then the longest path. The order of the routes does not matter.",
    keys: &[
        SchemaKey {
            name: "host",
            kind: Text("host"),
            default: Words("Every host"),
            example: r#""chat.example.com""#,
            about: "Exact host, or a wildcard for every name below one (`\"*.example.com\"`). Exact hosts are more specific than \
                    wildcards, longer wildcards than shorter ones.",
        },
        SchemaKey {
            name: "path",
            kind: Text("path"),
            default: Value(r#""/""#),
            example: r#""/chat""#,
            about: "Path prefix in whole segments: `/chat` covers `/chat` and `/chat/x`, not `/chatter`. A trailing slash makes \
                    no difference.",
        },
        SchemaKey {
            name: "pool",
            kind: Text("name of a pool"),
            default: Required,
            example: r#""chat""#,
            about: "The pool that answers.",
        },
        SchemaKey {
            name: "listeners",
            kind: OneOf(&[Text("name of a listener"), Array(&Text("name of a listener"))]),
            default: Words("Every http and https listener"),
            example: r#"["secure"]"#,
            about: "The http and https listeners that use the route.",
        },
        SchemaKey {
            name: "error_pages",
            kind: ERROR_PAGES,
            default: Words("The pages of the top level"),
            example: r#"{ 404 = "404.html", 5xx = "down.html" }"#,
            about: "HTML pages for errors that the proxy itself reports: the path of one page, or a table by status code or class \
                    (`4xx`, `5xx`). At most 256 KiB each. The placeholders are `{{status}}`, `{{reason}}`, `{{message}}` and \
                    `{{request_id}}`.",
        },
    ],
    notes: "\
Paths are compared in a normal form and forwarded unchanged: `/%6detrics` and `//metrics` follow the route of `/metrics`. `%2F` \
is not a slash. A path that some backends would read as the path of another route gets a 400: a path with a dot segment, a \
backslash or a zero byte, escaped or not, and a path with `%2F` or `;` if another route covers the other reading.",
};

//! Keys of TLS on listeners and of certificates.

use super::{
    DefaultValue::{Required, Value, Words},
    FILE, SchemaKey, Section,
    ValueKind::{Array, Choice, OneOf, Table, Text},
};

/// Names of ALPN protocols.
pub(super) const ALPN: super::ValueKind =
    OneOf(&[Text("protocol name"), Array(&Text("protocol name"))]);

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

//! Keys of connections to backends: TLS and the PROXY header.

use super::{
    ALPN,
    DefaultValue::{Required, Value, Words},
    FILE, SchemaKey, Section,
    ValueKind::{Array, Boolean, Choice, OneOf, Table, Text},
};

pub(in crate::config) static BACKEND_TLS: Section = Section {
    name: "pools.NAME.tls",
    heading: "`[pools.NAME.tls]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "ca",
            kind: FILE,
            default: Words("The authorities of the system"),
            example: r#""backends-ca.pem""#,
            about: "PEM file of certificate authorities, or of the backends' own certificates. A backend certificate that is in this file \
                    byte for byte is accepted while it is in date.",
        },
        SchemaKey {
            name: "name",
            kind: Text("server name"),
            default: Words("The host of the backend"),
            example: r#""chat.internal""#,
            about: "Server name that is sent (SNI) and verified.",
        },
        SchemaKey {
            name: "alpn",
            kind: ALPN,
            default: Words("None"),
            example: r#""http/1.1""#,
            about: "ALPN protocols to offer. Only `http/1.1` if requests go to the pool.",
        },
        SchemaKey {
            name: "client_cert",
            kind: Table(&CLIENT_CERT),
            default: Words("None"),
            example: r#"{ cert = "proxy.pem", key = "proxy.key" }"#,
            about: "Client certificate of the proxy.",
        },
        SchemaKey {
            name: "verify",
            kind: Boolean,
            default: Value("true"),
            example: "false",
            about: "Verify the certificates of the backends. If `false`, a warning is logged at every start.",
        },
    ],
    notes: "",
};

pub(in crate::config) static CLIENT_CERT: Section = Section {
    name: "pools.NAME.tls.client_cert",
    heading: "`[pools.NAME.tls.client_cert]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "cert",
            kind: FILE,
            default: Required,
            example: r#""proxy.pem""#,
            about: "PEM file of the certificate chain.",
        },
        SchemaKey {
            name: "key",
            kind: FILE,
            default: Required,
            example: r#""proxy.key""#,
            about: "PEM file of the private key, not encrypted.",
        },
    ],
    notes: "",
};

pub(in crate::config) static PROXY_OUT: Section = Section {
    name: "pools.NAME.proxy_protocol",
    heading: "`[pools.NAME.proxy_protocol]`",
    about: "",
    keys: &[
        SchemaKey {
            name: "version",
            kind: Choice(&["v1", "v2"]),
            default: Value(r#""v2""#),
            example: r#""v2""#,
            about: "Version of the PROXY header.",
        },
        SchemaKey {
            name: "tlvs",
            kind: {
                const TLV: super::ValueKind = Choice(&[
                    "unique-id",
                    "authority",
                    "alpn",
                    "ssl",
                    "ssl-cipher",
                    "cert-cn",
                    "cert-subject",
                    "cert-fingerprint",
                    "crc32c",
                ]);
                OneOf(&[TLV, Array(&TLV)])
            },
            default: Words("None"),
            example: r#"["authority", "ssl"]"#,
            about: "TLVs of a version 2 header, in addition to the addresses.",
        },
    ],
    notes: "",
};

//! Keys of a route that change bodies.

use super::{
    DefaultValue::{Value, Words},
    SchemaKey, Section,
    ValueKind::{Array, Choice, Integer, OneOf, Size, Text},
};

pub(in crate::config) static COMPRESS: Section = Section {
    name: "routes.compress",
    heading: "`compress` of a route",
    about: "The client chooses by `Accept-Encoding`; of codings that it likes equally, the first one in `encodings` counts.",
    keys: &[
        SchemaKey {
            name: "types",
            kind: OneOf(&[Text("media type"), Array(&Text("media type"))]),
            default: Words(
                "`text/*`, all kinds of JSON and XML, JavaScript, WebAssembly, SVG, bitmaps and uncompressed fonts",
            ),
            example: r#"["text/*", "application/json"]"#,
            about: "Media types that are compressed, without parameters: exact ones, or `\"text/*\"` for all of a kind.",
        },
        SchemaKey {
            name: "min_size",
            kind: Size(0, 1 << 30),
            default: Value(r#""1KiB""#),
            example: r#""256B""#,
            about: "Smallest body that is compressed. A body of unknown size is compressed.",
        },
        SchemaKey {
            name: "encodings",
            kind: Array(&Choice(&["zstd", "br", "gzip"])),
            default: Value(r#"["zstd", "br", "gzip"]"#),
            example: r#"["br", "gzip"]"#,
            about: "Codings that are offered, the preferred one first.",
        },
        SchemaKey {
            name: "level",
            kind: Integer(1, 9),
            default: Value("4"),
            example: "6",
            about: "From 1 (fast) to 9 (small), for every coding.",
        },
    ],
    notes: "Never compressed: WebSockets, requests of Engine.IO, event streams, responses that are encoded already or partial, and \
            responses with `Cache-Control: no-transform`. Each piece that a backend sends is flushed to the client.",
};

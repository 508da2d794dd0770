//! Keys of a route that change bodies.

use super::{
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{Array, Boolean, Choice, Integer, OneOf, Size, Text},
};

pub(in crate::config) static FILES: Section = Section {
    name: "routes.files",
    heading: "`files` of a route",
    about: "Instead of the table, the folder alone can be written.",
    keys: &[
        SchemaKey {
            name: "root",
            kind: Text("path of a folder"),
            default: Required,
            example: r#""docs""#,
            about: "The folder with the files. No file outside of it is served; a symbolic link that leads out of it is like a missing \
                    file.",
        },
        SchemaKey {
            name: "index",
            kind: Text("file name"),
            default: Value(r#""index.html""#),
            example: r#""home.html""#,
            about: "The file that answers for a folder. Folders are never listed.",
        },
        SchemaKey {
            name: "spa",
            kind: Text("path below the root"),
            default: Words("None; missing files get a 404"),
            example: r#""/index.html""#,
            about: "Page of a single-page app: the answer to a browser that opens a path without a file. Scripts, style sheets and other \
                    requests get a 404.",
        },
        SchemaKey {
            name: "precompressed",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "Sends `app.js.br`, `app.js.gz` or `app.js.zst` for `app.js` to clients that accept it.",
        },
        SchemaKey {
            name: "hidden",
            kind: Boolean,
            default: Value("false"),
            example: "true",
            about: "Serves files and folders whose names begin with a dot. `/.well-known` is served in any case.",
        },
    ],
    notes: "The path of the request is taken after a `rewrite`. Only GET and HEAD are allowed. WebSockets and requests of Engine.IO get a 404.",
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

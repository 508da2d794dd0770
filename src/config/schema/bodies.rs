//! Keys of a route that change bodies.

use super::{
    DefaultValue::{Required, Value, Words},
    SchemaKey, Section,
    ValueKind::{Array, Boolean, Choice, Integer, Map, OneOf, Size, Table, Text},
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

pub(in crate::config) static DECOMPRESS: Section = Section {
    name: "routes.decompress",
    heading: "`decompress` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "ratio",
            kind: Integer(1, 10_000),
            default: Value("100"),
            example: "50",
            about: "Maximum size after decompression, in multiples of the size before. Up to 64 KiB, the ratio does not count.",
        },
        SchemaKey {
            name: "max",
            kind: Size(1, 16 << 20),
            default: Value(r#""8MiB""#),
            example: r#""4MiB""#,
            about: "Maximum size after decompression. `max_body` counts both before and after.",
        },
    ],
    notes: "A larger body gets a 413, one with another coding or with several ones a 415, and one that is not encoded as it says a 400. No \
            backend gets a part of it.",
};

pub(in crate::config) static TRANSFORM: Section = Section {
    name: "routes.transform",
    heading: "`transform` of a route",
    about: "",
    keys: &[
        SchemaKey {
            name: "request",
            kind: Table(&BODY_CHANGE),
            default: Words("Unchanged"),
            example: r#"{ drop = ["is_admin"] }"#,
            about: "Change of JSON bodies of requests.",
        },
        SchemaKey {
            name: "response",
            kind: Table(&BODY_CHANGE),
            default: Words("Unchanged"),
            example: r#"{ mask = ["card.number"], other_types = "pass" }"#,
            about: "Change of JSON bodies of responses.",
        },
        SchemaKey {
            name: "status",
            kind: Map("table from statuses to statuses", &Integer(200, 599)),
            default: Value("{}"),
            example: r#"{ 418 = 404 }"#,
            about: "Statuses that clients get instead of those of backends. 204, 205, 206 and 304 have bodies of their own kind, and \
                    cannot be used.",
        },
        SchemaKey {
            name: "error_pages",
            kind: OneOf(&[Text("status or class"), Array(&Text("status or class"))]),
            default: Words("None"),
            example: r#"["404", "5xx"]"#,
            about: "Statuses of backends whose bodies are replaced by the proxy's own error replies: the route's error pages for \
                    browsers, JSON or text for others.",
        },
    ],
    notes: "Never changed: WebSockets, requests of Engine.IO, event streams, and messages without a body.",
};

pub(in crate::config) static BODY_CHANGE: Section = Section {
    name: "routes.transform.response",
    heading: "`request` and `response` of `transform`",
    about: "A field is a name, or names with dots between them: `card.number` is the field `number` of the object in `card`, or of each \
            object of an array there.",
    keys: &[
        SchemaKey {
            name: "limit",
            kind: Size(1, 16 << 20),
            default: Value(r#""1MiB""#),
            example: r#""256KiB""#,
            about: "Largest body that is changed.",
        },
        SchemaKey {
            name: "rename",
            kind: Map("table from fields to names", &Text("name")),
            default: Value("{}"),
            example: r#"{ "user.name" = "login" }"#,
            about: "New names of fields. A field that had the new name already is removed.",
        },
        SchemaKey {
            name: "drop",
            kind: OneOf(&[Text("field"), Array(&Text("field"))]),
            default: Words("None"),
            example: r#"["user.password"]"#,
            about: "Fields that are removed.",
        },
        SchemaKey {
            name: "mask",
            kind: OneOf(&[Text("field"), Array(&Text("field"))]),
            default: Words("None"),
            example: r#"["card.number"]"#,
            about: "Fields whose values become `\"***\"`.",
        },
        SchemaKey {
            name: "template",
            kind: Text("template"),
            default: Words("None"),
            example: r#"'{"data": {{ body }}}'"#,
            about: "Template of the new body, after the changes of fields, in the syntax of \
                    [MiniJinja](https://docs.rs/minijinja/latest/minijinja/syntax/). Variables: `body`, `method`, `host`, `path`, and \
                    `status` for responses. Values are written as JSON, and the result must be JSON.",
        },
        SchemaKey {
            name: "other_types",
            kind: Choice(&["refuse", "pass"]),
            default: Value(r#""refuse""#),
            example: r#""pass""#,
            about: "What happens to bodies with another media type than JSON: a 415 for requests and a 502 for responses, or they pass.",
        },
        SchemaKey {
            name: "on_fault",
            kind: Choice(&["refuse", "pass"]),
            default: Value(r#""refuse""#),
            example: r#""pass""#,
            about: "What happens to JSON bodies that cannot be changed, because they are too large, encoded or invalid, or because the \
                    template fails: a 413, 415 or 400 for requests and a 502 for responses, or they pass as they are. With `drop` or `mask`, \
                    they are always refused.",
        },
    ],
    notes: "",
};

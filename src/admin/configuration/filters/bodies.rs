//! What a route does with bodies, as JSON.

use serde_json::{Value, json};

use crate::config::{CompressConfig, ContentCoding, FilesConfig};

/// The files of a route.
pub(in crate::admin) fn files(config: &FilesConfig) -> Value {
    let FilesConfig { root, index, spa, precompressed, hidden } = config;
    json!({
        "root": root.display().to_string(),
        "index": index,
        "spa": spa,
        "precompressed": precompressed,
        "hidden": hidden,
    })
}

/// The compression of responses.
pub(super) fn compress(config: &CompressConfig) -> Value {
    let CompressConfig { types, min_size, encodings, level } = config;
    let encodings: Vec<&str> = encodings.iter().map(|coding| name(*coding)).collect();
    json!({ "types": types, "min_size": min_size, "encodings": encodings, "level": level })
}

fn name(coding: ContentCoding) -> &'static str {
    match coding {
        ContentCoding::Zstd => "zstd",
        ContentCoding::Brotli => "br",
        ContentCoding::Gzip => "gzip",
    }
}

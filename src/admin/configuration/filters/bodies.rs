//! What a route does with bodies, as JSON.

use serde_json::{Map, Value, json};

use crate::config::{
    BodyChange, CompressConfig, ContentCoding, DecompressConfig, FilesConfig, TransformConfig,
};

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

/// The decompression of requests.
pub(super) fn decompress(config: &DecompressConfig) -> Value {
    let DecompressConfig { ratio, max } = config;
    json!({ "ratio": ratio, "max": max })
}

/// The transformation of requests and responses.
pub(super) fn transform(config: &TransformConfig) -> Value {
    let TransformConfig { request, response, status, error_pages } = config;
    let status: Map<String, Value> =
        status.iter().map(|(from, to)| (from.to_string(), json!(to))).collect();
    json!({
        "request": request.as_ref().map(body_change),
        "response": response.as_ref().map(body_change),
        "status": status,
        "error_pages": error_pages.iter().map(|page| page_name(*page)).collect::<Vec<_>>(),
    })
}

fn page_name(page: u16) -> String {
    match page {
        4 | 5 => format!("{page}xx"),
        status => status.to_string(),
    }
}

fn body_change(change: &BodyChange) -> Value {
    let BodyChange { limit, passes_others, passes_faults, rename, drop, mask, template } = change;
    let choice = |passes: bool| if passes { "pass" } else { "refuse" };
    let fields =
        |fields: &[Vec<String>]| fields.iter().map(|path| path.join(".")).collect::<Vec<_>>();
    let rename: Map<String, Value> =
        rename.iter().map(|(from, to)| (from.join("."), json!(to))).collect();
    json!({
        "limit": limit,
        "other_types": choice(*passes_others),
        "on_fault": choice(*passes_faults),
        "rename": rename,
        "drop": fields(drop),
        "mask": fields(mask),
        "template": template,
    })
}

//! Types of what a route does with bodies.

use std::path::PathBuf;

/// Static files of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// The folder with the files.
    pub root: PathBuf,
    /// Name of the file that answers for a folder.
    pub index: String,
    /// Path of the page for navigations to paths without a file; `None`: they get a 404.
    pub spa: Option<String>,
    /// Whether `.br`, `.gz` and `.zst` files beside a file are sent instead of it.
    pub precompressed: bool,
    /// Whether names that begin with a dot are served.
    pub hidden: bool,
}

/// Compression of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressConfig {
    /// Media types that are compressed, in lower case: whole types, or `text/*`; `None`: the usual ones.
    pub types: Option<Vec<String>>,
    /// Smallest body that is compressed, in bytes, if its size is known.
    pub min_size: u64,
    /// Codings that are offered, the preferred one first.
    pub encodings: Vec<ContentCoding>,
    /// From 1 (fast) to 9 (small).
    pub level: u8,
}

/// A content coding of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

/// Changes of bodies and statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransformConfig {
    /// Change of JSON bodies of requests.
    pub request: Option<BodyChange>,
    /// Change of JSON bodies of responses.
    pub response: Option<BodyChange>,
    /// Statuses of backends, with those that clients get instead.
    pub status: Vec<(u16, u16)>,
    /// Statuses whose responses are replaced by error replies of the proxy: codes, or first digits.
    pub error_pages: Vec<u16>,
}

impl TransformConfig {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change of JSON bodies: fields first, then the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyChange {
    /// Maximum size of a body that is changed, in bytes.
    pub limit: u64,
    /// Bodies with another media type than JSON pass unchanged, instead of being refused.
    pub passes_others: bool,
    /// Bodies that cannot be changed pass unchanged, instead of being refused.
    pub passes_faults: bool,
    /// Fields with their new names.
    pub rename: Vec<(Vec<String>, String)>,
    /// Fields that are removed.
    pub drop: Vec<Vec<String>>,
    /// Fields whose values are replaced by `"***"`.
    pub mask: Vec<Vec<String>>,
    /// Template of the new body.
    pub template: Option<String>,
}

/// Limits of request bodies that are decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompressConfig {
    /// Maximum size after decoding, in multiples of the size before.
    pub ratio: u32,
    /// Maximum size after decoding, in bytes.
    pub max: u64,
}

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

//! Compression of responses: which ones, by which coding, and what their heads say (RFC 9110 §8.4, §12.5.3).
//!
//! The request decides the coding, the response whether it is compressed at all. A response that could have been compressed
//! says `Vary: Accept-Encoding` even if it was not, because a cache must not give it to other clients. A compressed response
//! has a weak entity tag, no ranges and no digests: all of them describe other bytes.
//!
//! Never compressed: requests of Engine.IO and upgrades (the chain leaves them out), event streams, encoded or partial
//! responses, `no-transform`, and responses without a body. This filter only improves: what it cannot compress passes as it
//! is.

use http::{Method, StatusCode};
use moorline_http::{BodyLength, FieldId, Head, RequestHead, ResponseHead};

use super::body::BodyFilter;
use crate::config::{CompressConfig, ContentCoding};

mod encoder;
mod negotiation;

pub(crate) use encoder::Encoder;
use negotiation::Acceptable;

/// Media types that are compressed if the configuration names none, besides `text/*`, `*+json` and `*+xml`. Other types are
/// either compressed already, or rare.
const COMPRESSIBLE: [&str; 12] = [
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
];

/// Fields that describe the bytes before the compression.
pub(super) const DIGESTS: [&[u8]; 4] =
    [b"content-digest", b"content-md5", b"digest", b"repr-digest"];

/// The compression of the response to one request.
#[derive(Debug)]
pub(super) struct Compression {
    config: CompressConfig,
    accepted: Acceptable,
    is_head: bool,
}

impl Compression {
    /// Decides the coding for a request.
    pub(super) fn of(config: &CompressConfig, request: &RequestHead) -> Self {
        Self {
            config: config.clone(),
            accepted: Acceptable::of(&request.head, &config.encodings),
            is_head: request.method == Method::HEAD,
        }
    }

    /// Changes the head of a response whose body has this length, and returns the filter for the body; `None`: the body
    /// stays as it is.
    pub(super) fn apply(&self, head: &mut ResponseHead, length: BodyLength) -> Option<BodyFilter> {
        if !may_be_changed(head) {
            return None;
        }
        if head.status == StatusCode::NOT_MODIFIED {
            // The entity tag is that of the response whose validity it confirms.
            if self.accepted.coding.is_some() && head.head.named("etag").next().is_some() {
                vary(&mut head.head);
                weaken(&mut head.head);
            }
            return None;
        }
        if !self.is_worth_it(head, length) {
            return None;
        }
        vary(&mut head.head);
        let coding = self.accepted.coding?;
        // What cannot be encoded stays as it is.
        let encoder = Encoder::new(coding, self.config.level).ok()?;
        head.head.set(FieldId::ContentEncoding, coding.name());
        head.head.remove(FieldId::ContentLength);
        head.head.remove_named(b"accept-ranges");
        weaken(&mut head.head);
        for name in DIGESTS {
            head.head.remove_named(name);
        }
        (!self.is_head).then_some(BodyFilter::Compress(encoder))
    }

    /// Whether type and size are such that the response is compressed for a client that accepts it.
    fn is_worth_it(&self, head: &ResponseHead, length: BodyLength) -> bool {
        let length = match length {
            // The field of a response to HEAD says what GET would get.
            _ if self.is_head => {
                let length = head.head.text(FieldId::ContentLength);
                length.and_then(|length| length.parse().ok())
            }
            BodyLength::Exactly(length) => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        if length == Some(0) {
            return false;
        }
        // A client that refuses what is not encoded gets an encoded response of any type and size.
        self.accepted.only_encoded
            || length.is_none_or(|length| length >= self.config.min_size)
                && media_type(&head.head).is_some_and(|kind| self.includes(&kind))
    }

    fn includes(&self, kind: &str) -> bool {
        match &self.config.types {
            Some(types) => types.iter().any(|pattern| match pattern.strip_suffix("/*") {
                Some(major) => kind.split('/').next() == Some(major),
                None => pattern == kind,
            }),
            None => {
                kind.starts_with("text/")
                    || kind.ends_with("+json")
                    || kind.ends_with("+xml")
                    || COMPRESSIBLE.contains(&kind)
            }
        }
    }
}

/// Whether anything may be done to the response at all.
fn may_be_changed(head: &ResponseHead) -> bool {
    let fields = &head.head;
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    let partial = head.status == StatusCode::PARTIAL_CONTENT
        || fields.named("content-range").next().is_some();
    let transforms = !fields.has_token(FieldId::CacheControl, "no-transform");
    let is_stream = media_type(fields).is_some_and(|kind| kind == "text/event-stream");
    !head.status.is_informational()
        && !bodiless
        && !partial
        && transforms
        && !is_stream
        && !fields.has(FieldId::ContentEncoding)
}

/// The media type of a message without parameters, in lower case.
pub(super) fn media_type(head: &Head) -> Option<String> {
    let kind = head.text(FieldId::ContentType)?.split(';').next().unwrap_or_default();
    Some(kind.trim().to_ascii_lowercase())
}

/// Says that the response depends on `Accept-Encoding`.
fn vary(head: &mut Head) {
    if !head.has_token(FieldId::Vary, "accept-encoding") && !head.has_token(FieldId::Vary, "*") {
        head.append(FieldId::Vary, "Accept-Encoding");
    }
}

/// Makes the entity tag a weak one: the bytes differ, their meaning does not (RFC 9110 §8.8.1).
pub(super) fn weaken(head: &mut Head) {
    let tag = head.named("etag").next().map(<[u8]>::to_vec);
    if let Some(tag) = tag.filter(|tag| !tag.starts_with(b"W/")) {
        head.set_named("ETag", [b"W/", &tag[..]].concat());
    }
}

/// Makes a body in memory smaller, if its response is compressed.
pub(super) fn whole(
    filter: Option<BodyFilter>,
    body: bytes::Bytes,
) -> std::io::Result<bytes::Bytes> {
    let Some(mut filter) = filter else { return Ok(body) };
    let mut out = Vec::new();
    filter.feed(&body, &mut out)?;
    filter.end(&mut out)?;
    Ok(out.into())
}

impl ContentCoding {
    /// Returns the name in `Content-Encoding`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

#[cfg(test)]
mod tests;

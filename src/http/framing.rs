//! Message framing: rejects messages whose body length implementations could read differently.

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::headers::tokens;
use crate::error::{FailureKind, Phase, ProxyError, Side};

/// Validates the framing of a request (RFC 9112 §6.1 and §6.3).
pub(super) fn request(headers: &HeaderMap) -> Result<(), ProxyError> {
    if headers.contains_key(TRANSFER_ENCODING) {
        let mut codings = tokens(headers, &TRANSFER_ENCODING);
        let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
        let first = codings.next().unwrap_or_default();
        if !is_chunked(first) {
            return Err(ProxyError::new(
                Side::Client,
                Phase::Request,
                FailureKind::UnsupportedCoding,
            ));
        }
        if codings.next().is_some() {
            return Err(ProxyError::bad_request("Chunked must be the only transfer coding."));
        }
    }
    match headers.get(CONTENT_LENGTH).map(|length| content_length(length.as_bytes())) {
        Some(None) => Err(ProxyError::bad_request("The Content-Length field is invalid.")),
        _ => Ok(()),
    }
}

/// Validates the framing of a response (RFC 9112 §6.3); an error describes the fault.
pub(super) fn response(fields: &HeaderMap) -> Result<(), &'static str> {
    if fields.contains_key(TRANSFER_ENCODING) {
        let mut codings = tokens(fields, &TRANSFER_ENCODING);
        let chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if !chunked || codings.next().is_some() {
            return Err("the response has a transfer coding other than chunked");
        }
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let (length, more) = (lengths.next(), lengths.next());
    if more.is_some() {
        return Err("the response has more than one Content-Length");
    }
    match length.map(|length| content_length(length.as_bytes())) {
        Some(None) => Err("the Content-Length of the response is invalid"),
        _ => Ok(()),
    }
}

/// Parses a `Content-Length` value: digits only, and at most 2^53, which every implementation
/// represents exactly.
fn content_length(value: &[u8]) -> Option<u64> {
    const MOST: u64 = 1 << 53;
    let digits = std::str::from_utf8(value).ok()?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|length| all_digits && *length <= MOST)
}

//! Conditions of a request against a stored response (RFC 9110 §13).

use moorline_http::RequestHead;

use super::{policy::only_date, stored::StoredResponse};

/// What the conditions of a request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    /// There are none, or they hold.
    None,
    /// The client has this response already.
    NotModified,
    /// The client wants another state.
    Failed,
}

/// Checks the conditions of a GET or HEAD request.
pub(super) fn check(stored: &StoredResponse, request: &RequestHead) -> Precondition {
    let head = &request.head;
    if !stored.status.is_success() {
        return Precondition::None;
    }
    let etag = stored.field("etag");
    let modified = stored.field("last-modified").and_then(date);
    let is_listed = |name: &str, compare: fn(&[u8], &[u8]) -> bool| {
        head.named(name)
            .flat_map(tags_of)
            .any(|tag| tag == b"*" || etag.is_some_and(|etag| compare(tag, etag)))
    };
    if head.named("if-match").next().is_some() {
        if !is_listed("if-match", same_strong) {
            return Precondition::Failed;
        }
    } else if let (Some(limit), Some(modified)) = (only_date(head, "if-unmodified-since"), modified)
        && modified > limit
    {
        return Precondition::Failed;
    }
    if head.named("if-none-match").next().is_some() {
        return match is_listed("if-none-match", same_weak) {
            true => Precondition::NotModified,
            false => Precondition::None,
        };
    }
    match (only_date(head, "if-modified-since"), modified) {
        (Some(limit), Some(modified)) if modified <= limit => Precondition::NotModified,
        _ => Precondition::None,
    }
}

pub(super) fn date(value: &[u8]) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

/// The entity tags of a list, with their quotes and `W/`. Commas may be within quotes.
fn tags_of(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let mut quoted = false;
        let end = rest.iter().position(|byte| {
            quoted ^= *byte == b'"';
            *byte == b',' && !quoted
        });
        let (tag, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None if rest.is_empty() => return None,
            None => (rest, &b""[..]),
        };
        rest = after;
        Some(tag.trim_ascii())
    })
}

fn same_weak(a: &[u8], b: &[u8]) -> bool {
    let opaque = |tag| <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag);
    opaque(a) == opaque(b)
}

pub(super) fn same_strong(a: &[u8], b: &[u8]) -> bool {
    a == b && !a.starts_with(b"W/")
}

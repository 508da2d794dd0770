//! A part of a stored response (RFC 9110 §14).

use std::ops::Range;

use http::Method;
use moorline_http::RequestHead;

use super::{
    conditions::{date, same_strong},
    stored::StoredResponse,
};

/// How much of a body a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PartOf {
    All,
    Range(Range<usize>),
    /// The range begins behind the end.
    Nothing,
}

/// The part that a request asks for. Several ranges get all of the body.
pub(super) fn asked(stored: &StoredResponse, request: &RequestHead) -> PartOf {
    let head = &request.head;
    let mut ranges = head.named("range");
    let range = ranges.next().filter(|_| ranges.next().is_none() && request.method == Method::GET);
    let Some(range) = range.filter(|_| applies(stored, request)) else { return PartOf::All };
    let Some(spec) = range.strip_prefix(b"bytes=") else { return PartOf::All };
    part(spec, stored.body.len())
}

/// Whether `If-Range` allows a part: the client has the other parts of this very response.
fn applies(stored: &StoredResponse, request: &RequestHead) -> bool {
    let mut conditions = request.head.named("if-range");
    match (conditions.next(), conditions.next()) {
        (None, _) => true,
        (Some(tag), None) if tag.ends_with(b"\"") => {
            stored.field("etag").is_some_and(|etag| same_strong(tag, etag))
        }
        (Some(value), None) => {
            let modified = stored.field("last-modified");
            modified.is_some_and(|modified| modified == value && date(value).is_some())
        }
        _ => false,
    }
}

/// The part that one range of bytes describes.
fn part(spec: &[u8], len: usize) -> PartOf {
    let number = |digits: &[u8]| -> Option<usize> {
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
        // A number that is too large lies behind every end.
        Some(text.parse().unwrap_or(usize::MAX))
    };
    let mut parts = spec.trim_ascii().splitn(2, |byte| *byte == b'-');
    let (Some(first), Some(last)) = (parts.next(), parts.next()) else { return PartOf::All };
    let range = match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => match suffix {
            0 => return PartOf::Nothing,
            suffix => len.saturating_sub(suffix)..len,
        },
        (Some(first), None) if last.is_empty() => first..len,
        (Some(first), Some(last)) if first <= last => first..len.min(last.saturating_add(1)),
        // Not a range, or several ones.
        _ => return PartOf::All,
    };
    match range.start < len {
        true => PartOf::Range(range),
        false => PartOf::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_end() {
        for (spec, expected) in [
            ("0-4", PartOf::Range(0..5)),
            ("4-", PartOf::Range(4..10)),
            ("-3", PartOf::Range(7..10)),
            ("-30", PartOf::Range(0..10)),
            ("5-500", PartOf::Range(5..10)),
            ("5-99999999999999999999999", PartOf::Range(5..10)),
            ("10-", PartOf::Nothing),
            ("-0", PartOf::Nothing),
            ("0-1,3-4", PartOf::All),
            ("5-4", PartOf::All),
            ("a-b", PartOf::All),
            ("-", PartOf::All),
            ("", PartOf::All),
        ] {
            assert_eq!(part(spec.as_bytes(), 10), expected, "{spec}");
        }
        assert_eq!(part(b"0-", 0), PartOf::Nothing);
    }
}

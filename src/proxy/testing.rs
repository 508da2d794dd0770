//! Heads for unit tests, parsed from text.

use http::Method;
use moorline_http::{Buffer, HeadLimits, RequestHead, RequestParser, ResponseHead, ResponseParser};

const LIMITS: HeadLimits = HeadLimits { size: 16 * 1024, fields: 100 };

/// Parses a request: first line and fields, each with CRLF, without the empty line at the end.
pub(crate) fn request(text: &str) -> RequestHead {
    let mut input = Some(Buffer::of(format!("{text}\r\n").as_bytes()));
    RequestParser::default().parse(&mut input, LIMITS).unwrap().unwrap()
}

/// Parses a response to a GET request, in the same form.
pub(crate) fn response(text: &str) -> ResponseHead {
    let mut input = Some(Buffer::of(format!("{text}\r\n").as_bytes()));
    ResponseParser::default().parse(&mut input, LIMITS, &Method::GET).unwrap().unwrap()
}

//! Replies to requests that hyper cannot parse.
//!
//! hyper would close the connection or reply without a body. Here the request gets what every
//! rejected request gets: a reply with a sentence and an id, and a log line.

use bytes::Bytes;
use tokio::time::Instant;

use super::{headers, reply};
use crate::{
    config::ErrorPages,
    error::{FailureKind, Phase, ProxyError, Side},
};

/// Connection preface of HTTP/2 (RFC 9113 §3.4), as far as an HTTP/1.1 parser reads it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Signature of a PROXY header of version 2, without the line ends that a parser may have skipped.
const PROXY_V2: &[u8] = b"\0\r\nQUIT\n";

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// A rejected request: what is sent to the client and logged.
#[derive(Debug)]
pub struct RejectedRequest {
    /// Request id, also part of the reply.
    pub id: Box<str>,
    /// Status of the reply; 0 if the client has left without one.
    pub status: u16,
    /// Why the request was rejected.
    pub error: ProxyError,
    /// When the first byte arrived.
    pub since: Instant,
    /// Header bytes that could not be parsed, as far as they are known.
    head: Bytes,
}

impl RejectedRequest {
    /// A request whose header did not arrive in time.
    pub(super) fn late(head: Bytes, since: Instant) -> Self {
        let error = ProxyError::new(Side::Client, Phase::Request, FailureKind::TimedOut);
        Self::new(error, head, since)
    }

    /// A request that cannot be parsed, or whose header is incomplete. `head` holds the bytes that
    /// arrived; empty if they are no longer known.
    pub(super) fn broken(error: &hyper::Error, head: Bytes, since: Instant) -> Self {
        let (kind, sentence) = if error.is_incomplete_message() {
            (FailureKind::Incomplete, "The connection ended within the request header.")
        } else {
            diagnose(&error.to_string(), &head)
        };
        let error = ProxyError::new(Side::Client, Phase::Request, kind).with_source(sentence);
        Self::new(error, head, since)
    }

    /// A request whose client reset the connection within the header.
    pub(super) fn reset(head: Bytes, since: Instant) -> Self {
        let error = ProxyError::new(Side::Client, Phase::Request, FailureKind::Reset);
        Self { status: 0, ..Self::new(error, head, since) }
    }

    fn new(error: ProxyError, head: Bytes, since: Instant) -> Self {
        let status = reply::status(&error).as_u16();
        Self { id: headers::new_id(), status, error, since, head }
    }

    /// Returns the reply.
    pub(super) fn answer(&self, pages: Option<&ErrorPages>) -> Vec<u8> {
        reply::refusal(&self.error, (&self.sentence(), &self.id), &self.head, pages)
    }

    fn sentence(&self) -> String {
        match &self.error.source {
            Some(source) => source.to_string(),
            None => "The request header did not arrive in time.".to_owned(),
        }
    }

    /// Method and target, as far as the first line contains them.
    pub fn request_line(&self) -> (String, String) {
        let line = self.head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        if self.head.first() == Some(&TLS_HANDSHAKE) {
            return Default::default();
        }
        let line = String::from_utf8_lossy(line);
        let mut words = line.splitn(2, ' ');
        let method = words.next().unwrap_or_default().to_owned();
        let rest = words.next().unwrap_or_default();
        let target = rest.rsplit_once(" HTTP/").map_or(rest, |(target, _)| target);
        (method, target.to_owned())
    }
}

/// Finds the fault, from hyper's error text and from the header itself.
fn diagnose(text: &str, head: &[u8]) -> (FailureKind, &'static str) {
    if head.starts_with(HTTP2_PREFACE) || text.contains("HTTP2 preface") {
        let sentence = "HTTP/2 is not supported on this port; use HTTP/1.1.";
        return (FailureKind::UnsupportedVersion, sentence);
    }
    if head.first() == Some(&TLS_HANDSHAKE) {
        return (FailureKind::Malformed, "This port does not use TLS; use http://.");
    }
    if head.starts_with(b"PROXY ") || head.trim_ascii_start().starts_with(PROXY_V2) {
        let sentence =
            "The connection begins with a PROXY header; set `proxy_protocol` for this listener.";
        return (FailureKind::Malformed, sentence);
    }
    let sentence = match text {
        "message head is too large" => {
            return (
                FailureKind::HeaderTooLarge,
                "The request header is too large or has too many fields.",
            );
        }
        "URI too long" => return (FailureKind::TargetTooLong, "The request target is too long."),
        "invalid HTTP version parsed" if !has_version(head) => {
            return (FailureKind::UnsupportedVersion, "Only HTTP/1.1 and HTTP/1.0 are supported.");
        }
        "invalid HTTP version parsed" => "The request target holds a space.",
        "invalid HTTP method parsed" => "The request line does not begin with a method.",
        "invalid URI" => "The request target holds a character that must be percent-encoded.",
        "invalid content-length parsed" => "The Content-Length field is invalid.",
        "invalid transfer-encoding parsed" => "The transfer coding of a request must be chunked.",
        "unexpected transfer-encoding parsed" => "HTTP/1.0 has no Transfer-Encoding.",
        "invalid HTTP header parsed" => field_fault(head),
        _ => "The request is not valid HTTP/1.1.",
    };
    (FailureKind::Malformed, sentence)
}

/// Whether the first line ends with a supported version.
fn has_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// Describes the first invalid header field.
fn field_fault(head: &[u8]) -> &'static str {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return "A header field is folded over several lines.";
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return "A header line has no colon.";
        };
        let (name, value) = line.split_at(colon);
        if name.ends_with(b" ") || name.ends_with(b"\t") {
            return "There is a space between the name of a header field and its colon.";
        }
        if name.is_empty() || !name.iter().all(is_name) {
            return "The name of a header field is empty or holds an invalid character.";
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return "The value of a header field holds a control character.";
        }
    }
    "A header field is malformed."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_invalid_field_is_described() {
        let fault = |field: &str| {
            field_fault(format!("GET / HTTP/1.1\r\nA: b\r\n{field}\r\n\r\n").as_bytes())
        };
        assert!(fault(" folded").contains("folded"));
        assert!(fault("nothing").contains("no colon"));
        assert!(fault("Name : x").contains("a space between"));
        assert!(fault(" : x").contains("folded"));
        assert!(fault(": x").contains("empty"));
        assert!(fault("N(a)me: x").contains("invalid character"));
        assert!(fault("Name: a\0b").contains("control character"));
    }

    #[test]
    fn a_target_with_a_space_differs_from_an_unsupported_version() {
        let of = |head: &str| diagnose("invalid HTTP version parsed", head.as_bytes()).0;
        assert_eq!(of("GET /a b HTTP/1.1\r\n"), FailureKind::Malformed);
        assert_eq!(of("GET /a HTTP/3.0\r\n"), FailureKind::UnsupportedVersion);
        let (kind, sentence) = diagnose("", b"\r\n\r\n\0\r\nQUIT\n\x21");
        assert!(kind == FailureKind::Malformed && sentence.contains("`proxy_protocol`"));
        assert_eq!(of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), FailureKind::UnsupportedVersion);
    }
}

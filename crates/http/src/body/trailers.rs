//! Trailer fields of a chunked body (RFC 9112 §7.1.2).
//!
//! Only fields that RFC 9110 §6.5.1 allows are passed on: a receiver may merge trailers into the header,
//! so a trailer must not change framing, routing, authentication, or the meaning of the message.

use super::BodyFault;
use crate::field::is_token_byte;

/// Maximum number of bytes of all field lines.
const MAX_BYTES: usize = 16 << 10;

/// Maximum number of fields.
const MAX_FIELDS: u8 = 100;

/// Names that are dropped, in lower case.
const FORBIDDEN: [&str; 44] = [
    // Framing and the connection.
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing, and what proxies say about the client.
    "forwarded",
    "host",
    "max-forwards",
    "x-real-ip",
    "x-request-id",
    // Authentication.
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    // Modifiers of a request.
    "cache-control",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "range",
    // Control data of a response.
    "age",
    "date",
    "expires",
    "location",
    "refresh",
    "retry-after",
    "vary",
    "warning",
    // Content.
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-type",
];

/// Begins the names that are dropped whatever follows.
const FORBIDDEN_PREFIX: &[u8] = b"x-forwarded-";

/// Reads field lines up to the empty line after them.
#[derive(Debug, Clone, Default)]
pub(super) struct TrailerSection {
    /// Fields that are passed on, then the line that is being read, finally the empty line.
    lines: Vec<u8>,
    /// Start of this line in `lines`.
    line: usize,
    /// Length of this line's name.
    name: usize,
    part: LinePart,
    /// Bytes of all field lines, also of the dropped ones.
    total: usize,
    /// Number of all fields, also of the dropped ones.
    count: u8,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, Default)]
enum LinePart {
    /// Part of a name, or the colon after it, or the CR of the empty line.
    #[default]
    Name,
    /// Part of a value, or the CR after it.
    Value,
    /// LF of a field line.
    Lf,
    /// LF of the empty line.
    LastLf,
}

impl TrailerSection {
    /// Reads a byte. Returns whether it was the last one. `is_forbidden` drops further names.
    pub(super) fn read(
        &mut self,
        byte: u8,
        is_forbidden: fn(&[u8]) -> bool,
    ) -> Result<bool, BodyFault> {
        let length = self.lines.len() - self.line;
        match (self.part, byte) {
            (LinePart::Name, b':') if length > 0 => {
                self.name = length;
                self.part = LinePart::Value;
            }
            (LinePart::Name, b'\r') if length == 0 => self.part = LinePart::LastLf,
            (LinePart::Name, _) if is_token_byte(byte) => {}
            (LinePart::Value, b'\r') => self.part = LinePart::Lf,
            (LinePart::Value, b'\t' | b' '..=b'~' | 0x80..) => {}
            (LinePart::Name | LinePart::Value, b'\n') => return Err(BodyFault::LineEnd),
            (LinePart::Name | LinePart::Value, _) => return Err(BodyFault::Trailer),
            (LinePart::Lf | LinePart::LastLf, b'\n') => {}
            (LinePart::Lf | LinePart::LastLf, _) => return Err(BodyFault::LineEnd),
        }
        self.lines.push(byte);
        match self.part {
            LinePart::LastLf => return Ok(byte == b'\n'),
            LinePart::Lf if byte == b'\n' => self.end_line(is_forbidden)?,
            _ => {}
        }
        self.total += 1;
        if self.total > MAX_BYTES { Err(BodyFault::TrailersTooLarge) } else { Ok(false) }
    }

    /// Fields that are passed on, each with its CRLF.
    pub(super) fn fields(&self) -> &[u8] {
        &self.lines[..self.line]
    }

    /// Fields that are passed on, and the empty line after them.
    pub(super) fn section(&self) -> &[u8] {
        &self.lines
    }

    /// Keeps or drops the field that has ended.
    fn end_line(&mut self, is_forbidden: fn(&[u8]) -> bool) -> Result<(), BodyFault> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(BodyFault::TrailersTooLarge);
        }
        let name = &self.lines[self.line..self.line + self.name];
        let name: Vec<u8> = name.iter().map(|byte| canonical(*byte)).collect();
        if is_forbidden_name(&name) || is_forbidden(&name) {
            self.lines.truncate(self.line);
        }
        self.line = self.lines.len();
        self.part = LinePart::Name;
        Ok(())
    }
}

/// Many frameworks read `_` in a name as `-`.
fn canonical(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

fn is_forbidden_name(name: &[u8]) -> bool {
    name.starts_with(FORBIDDEN_PREFIX)
        || FORBIDDEN.iter().any(|forbidden| forbidden.as_bytes() == name)
}

//! The head of a response.

use std::{ops::Range, time::Duration};

use http::{Method, StatusCode};

use super::{
    body::BodyLength,
    buffer::Buffer,
    date,
    fault::HeadFault,
    field::{FieldId, is_value},
    framing,
    head::{Head, HeadLimits, HeadScan},
    hop_by_hop,
    request::HttpVersion,
};

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub head: Head,
    /// The version of the backend.
    version: HttpVersion,
    /// Place of the reason phrase in the first line; `None`: the usual phrase.
    reason: Option<Range<usize>>,
    length: BodyLength,
    /// Whether the backend closes the connection after the response, or its end is not certain.
    closes: bool,
}

/// Reads the head of a response from bytes that arrive piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseParser(HeadScan);

impl ResponseParser {
    /// Takes the head of the response to a request with this method from the bytes that have arrived; `None` if it is
    /// not complete. The bytes behind the head stay in `input`.
    ///
    /// # Errors
    /// The head violates the rules or exceeds the limits.
    pub fn parse(
        &mut self,
        input: &mut Option<Buffer>,
        limits: HeadLimits,
        method: &Method,
    ) -> Result<Option<ResponseHead>, HeadFault> {
        let Some(buffer) = input.as_mut() else { return Ok(None) };
        if self.0.in_first_line() && !begins_response(buffer.filled()) {
            return Err(HeadFault::StatusLine);
        }
        let Some(length) = self.0.find(&buffer.filled()[..buffer.len().min(limits.size)])? else {
            return if buffer.len() < limits.size { Ok(None) } else { Err(HeadFault::TooLarge) };
        };
        *self = Self::default();
        let Some(mut bytes) = input.take() else { return Ok(None) };
        *input = bytes.split_off(length);
        ResponseHead::parse(bytes, limits.fields, method).map(Some)
    }
}

/// Whether the bytes may begin a status line.
fn begins_response(bytes: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(START.len());
    bytes[..known] == START[..known]
}

impl ResponseHead {
    /// Creates a response of the proxy's own, without fields.
    pub fn new(status: StatusCode) -> Self {
        let (version, length) = (HttpVersion::Http11, BodyLength::Exactly(0));
        Self { status, head: Head::empty(), version, reason: None, length, closes: false }
    }

    fn parse(bytes: Buffer, most_fields: usize, method: &Method) -> Result<Self, HeadFault> {
        let all = bytes.filled();
        let end = memchr::memchr(b'\n', all).ok_or(HeadFault::StatusLine)?;
        let line = all[..end].strip_suffix(b"\r").ok_or(HeadFault::LineEnd)?;
        let version = match line.get(..9) {
            Some(b"HTTP/1.1 ") => HttpVersion::Http11,
            Some(b"HTTP/1.0 ") => HttpVersion::Http10,
            _ => return Err(HeadFault::StatusLine),
        };
        let code = line.get(9..12).ok_or(HeadFault::StatusLine)?;
        let status = StatusCode::from_bytes(code).map_err(|_| HeadFault::StatusLine)?;
        let reason = match line.get(12) {
            None => 12..12,
            Some(b' ') => 13..line.len(),
            Some(_) => return Err(HeadFault::StatusLine),
        };
        if !is_value(&line[reason.clone()]) {
            return Err(HeadFault::StatusLine);
        }
        let head = Head::parse(bytes, end + 1, most_fields).map_err(|(fault, _)| fault)?;
        let length = BodyLength::UntilClose;
        let mut response =
            Self { status, head, version, reason: Some(reason), length, closes: false };
        response.decide_length(method)?;
        Ok(response)
    }

    /// Decides how long the body is (RFC 9112 §6.3).
    fn decide_length(&mut self, method: &Method) -> Result<(), HeadFault> {
        let both =
            self.head.has(FieldId::ContentLength) && self.head.has(FieldId::TransferEncoding);
        if both {
            self.head.remove(FieldId::ContentLength);
        } else if self.head.all(FieldId::ContentLength).nth(1).is_some() {
            // A backend that sends two lengths is not certain of either.
            return Err(HeadFault::ContentLengths);
        }
        let announced = framing::announced(&mut self.head, self.version == HttpVersion::Http11)?;
        let bodiless = self.status.is_informational()
            || method == Method::HEAD
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.length = match announced {
            _ if bodiless => BodyLength::Exactly(0),
            Some(length) => length,
            None => BodyLength::UntilClose,
        };
        let keeps = hop_by_hop::keeps_alive(&self.head, self.version);
        self.closes = both || !keeps || self.length == BodyLength::UntilClose;
        Ok(())
    }

    /// Whether this is an interim response, after which another one follows (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// How the length of the body is known.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// Sets another status, with its usual phrase. The length of the body stays.
    pub fn set_status(&mut self, status: StatusCode) {
        (self.status, self.reason) = (status, None);
    }

    /// Announces a body of another length: it has been replaced.
    pub fn set_length(&mut self, length: u64) {
        self.length = BodyLength::Exactly(length);
        self.head.remove(FieldId::ContentLength);
        if length == 0 {
            self.head.set(FieldId::ContentLength, "0");
        }
    }

    /// Whether the connection cannot be used for another request.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// How long the backend keeps an idle connection, if it says so.
    pub fn keep_alive_timeout(&self) -> Option<Duration> {
        hop_by_hop::keep_alive_timeout(&self.head)
    }

    /// Drops the fields of the backend's connection.
    pub fn strip_hop_by_hop(&mut self) {
        hop_by_hop::strip(&mut self.head, &[]);
        if self.status.is_informational() || self.status == StatusCode::NO_CONTENT {
            self.head.remove(FieldId::ContentLength);
        }
    }

    /// Writes the head for the client, with a body of this length.
    pub fn write(&self, out: &mut Buffer, body: BodyLength, client: ClientConnection<'_>) {
        out.reserve(self.head.size() + 256);
        let version = match client.version {
            HttpVersion::Http11 => "HTTP/1.1 ",
            HttpVersion::Http10 => "HTTP/1.0 ",
        };
        out.push(version.as_bytes());
        out.push(self.status.as_str().as_bytes());
        out.push(b" ");
        match &self.reason {
            Some(reason) => out.push(&self.head.first_line()[reason.clone()]),
            None => out.push(self.status.canonical_reason().unwrap_or_default().as_bytes()),
        }
        out.push(b"\r\n");
        self.head.write_fields(out);
        match body {
            BodyLength::Chunked => out.push(b"Transfer-Encoding: chunked\r\n"),
            BodyLength::Exactly(length) if length > 0 && !self.head.has(FieldId::ContentLength) => {
                out.push(b"Content-Length: ");
                out.push_number(length);
                out.push(b"\r\n");
            }
            BodyLength::Exactly(_) | BodyLength::UntilClose => {}
        }
        if !self.is_interim() && !self.head.has(FieldId::Date) {
            date::write(out);
        }
        match client.upgrade {
            Some(_) => hop_by_hop::write_upgrade(out, client.upgrade),
            None if self.is_interim() => {}
            None if client.closes => out.push(b"Connection: close\r\n"),
            None if client.version == HttpVersion::Http10 => {
                out.push(b"Connection: keep-alive\r\n")
            }
            None => {}
        }
        out.push(b"\r\n");
    }
}

/// What the head of a response says about the client's connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientConnection<'a> {
    /// The version of the request.
    pub version: HttpVersion,
    /// Whether the connection closes after the response.
    pub closes: bool,
    /// The protocol that the connection switches to.
    pub upgrade: Option<&'a str>,
}

#[cfg(test)]
mod tests;

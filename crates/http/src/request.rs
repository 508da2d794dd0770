//! The head of a request.

use http::Method;

use super::{
    body::BodyLength,
    buffer::Buffer,
    fault::HeadFault,
    field::{FieldId, is_token, is_token_byte},
    framing,
    head::{Head, HeadLimits, HeadScan, Rejected},
    hop_by_hop,
};

/// Version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Longest method, in bytes.
const MOST_METHOD: usize = 32;

/// Longest target, in bytes.
const MOST_TARGET: usize = 65_534;

/// Empty lines that are skipped before a request.
const MOST_EMPTY_LINES: u8 = 4;

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Connection preface of HTTP/2, up to its first line end (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Signature of a PROXY header of version 2, without the line ends before it.
const PROXY_V2: &[u8] = b"\0\r\nQUIT\n";

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The version of the client.
    pub version: HttpVersion,
    /// The fields.
    pub head: Head,
    target: TargetPlaces,
    length: BodyLength,
}

/// Places of a target and of its parts in the first line.
#[derive(Clone, Copy, Debug)]
struct TargetPlaces {
    start: u32,
    /// Start of path and query: of the target, except in absolute form.
    path: u32,
    /// Place of the `?` before the query; the end if there is none.
    query: u32,
    end: u32,
}

impl TargetPlaces {
    /// Finds the parts of a valid target that starts at `start`.
    fn of(target: &str, start: usize) -> Self {
        let path = absolute(target).map_or(0, |(_, rest)| target.len() - rest.len());
        let query = memchr::memchr(b'?', &target.as_bytes()[path..]);
        let query = query.map_or(target.len(), |at| path + at);
        // The length of a target is limited.
        let place = |at: usize| (start + at) as u32;
        Self { start: place(0), path: place(path), query: place(query), end: place(target.len()) }
    }
}

/// Reads the head of a request from bytes that arrive piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestParser {
    scan: HeadScan,
    /// Empty lines before the request.
    empty_lines: u8,
}

impl RequestParser {
    /// Takes the head from the bytes that have arrived; `None` if it is not complete. The bytes behind the head stay
    /// in `input`.
    ///
    /// # Errors
    /// The head violates the rules or exceeds the limits. `input` then holds the bytes of the head.
    pub fn parse(
        &mut self,
        input: &mut Option<Buffer>,
        limits: HeadLimits,
    ) -> Result<Option<RequestHead>, HeadFault> {
        let Some(buffer) = input.as_mut() else { return Ok(None) };
        if self.scan.in_first_line() {
            // Some clients send an empty line after a body (RFC 9112 §2.2).
            while buffer.filled().starts_with(b"\r\n") && self.empty_lines < MOST_EMPTY_LINES {
                buffer.consume(2);
                self.scan = HeadScan::default();
                self.empty_lines += 1;
            }
            if !begins_request(buffer.filled())? {
                return Ok(None);
            }
        }
        let was_in_first_line = self.scan.in_first_line();
        let scanned = self.scan.find(&buffer.filled()[..buffer.len().min(limits.size)]);
        if was_in_first_line && !self.scan.in_first_line() && !matches!(scanned, Ok(Some(_))) {
            // A client of HTTP/0.9 sends nothing behind its first line, and the fault must not depend on how the
            // bytes arrive.
            RequestLine::parse(buffer.filled())?;
        }
        let found = scanned.map_err(|fault| line_fault(buffer.filled(), fault))?;
        let Some(length) = found else {
            if buffer.len() < limits.size {
                return Ok(None);
            }
            let fault = if self.scan.in_first_line() {
                HeadFault::TargetTooLong
            } else {
                HeadFault::TooLarge
            };
            return Err(fault);
        };
        *self = Self::default();
        let Some(mut bytes) = input.take() else { return Ok(None) };
        *input = bytes.split_off(length);
        RequestHead::parse(bytes, limits.fields).map(Some).map_err(|(fault, bytes)| {
            *input = Some(bytes);
            fault
        })
    }
}

impl RequestHead {
    fn parse(bytes: Buffer, most_fields: usize) -> Result<Self, Rejected> {
        let line = match RequestLine::parse(bytes.filled()) {
            Ok(line) => line,
            Err(fault) => return Err((fault, bytes)),
        };
        let mut head = Head::parse(bytes, line.length, most_fields)?;
        let announced = framing::announced(&mut head, line.version == HttpVersion::Http11);
        let length = match announced {
            Ok(length) => length.unwrap_or(BodyLength::Exactly(0)),
            Err(fault) => return Err((fault, head.into_bytes())),
        };
        let RequestLine { method, version, target, .. } = line;
        Ok(Self { method, version, head, target, length })
    }

    /// Returns a part of the first line.
    fn part(&self, from: u32, to: u32) -> &str {
        let bytes = &self.head.first_line()[from as usize..to as usize];
        // Parsing has checked that the target is UTF-8.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Returns the target as it was sent.
    pub fn target(&self) -> &str {
        self.part(self.target.start, self.target.end)
    }

    /// Returns the request with another target. All else stays as it is.
    ///
    /// # Errors
    /// The target violates the rules of a request line, or is too long.
    pub fn with_target(self, target: &str) -> Result<Self, HeadFault> {
        if target.len() > MOST_TARGET {
            return Err(HeadFault::TargetTooLong);
        }
        let method = self.method.as_str();
        let text = check_target(target.as_bytes())?;
        let target = TargetPlaces::of(text, method.len() + 1);
        let version: &[u8] = match self.version {
            HttpVersion::Http10 => b" HTTP/1.0\r\n",
            HttpVersion::Http11 => b" HTTP/1.1\r\n",
        };
        let mut bytes = Buffer::new();
        [method.as_bytes(), b" ", text.as_bytes(), version]
            .into_iter()
            .for_each(|part| bytes.push(part));
        let first_line = bytes.len();
        self.head.write_fields(&mut bytes);
        bytes.push(b"\r\n");
        // The fields have been accepted before.
        let head = Head::parse(bytes, first_line, usize::MAX).map_err(|(fault, _)| fault)?;
        Ok(Self { head, target, ..self })
    }

    /// Returns the authority of a target in absolute form (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&str> {
        if self.target.path == self.target.start {
            return None;
        }
        absolute(self.target()).map(|(authority, _)| authority)
    }

    /// Returns path and query: the target in origin form. The target of CONNECT, and `*`, are returned as they are.
    pub fn path_and_query(&self) -> &str {
        let TargetPlaces { path, end, .. } = self.target;
        if path == end { "/" } else { self.part(path, end) }
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        let TargetPlaces { path, query, .. } = self.target;
        if path == query { "/" } else { self.part(path, query) }
    }

    /// Returns the query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        let TargetPlaces { query, end, .. } = self.target;
        (query < end).then(|| self.part(query + 1, end))
    }

    /// How the length of the body is known.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// Whether the request has a body, even an empty chunked one.
    pub fn has_body(&self) -> bool {
        self.length != BodyLength::Exactly(0)
    }

    /// Whether the client wants to keep the connection (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        hop_by_hop::keeps_alive(&self.head, self.version)
    }

    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.version == HttpVersion::Http11
            && self.has_body()
            && self.head.has_token(FieldId::Expect, "100-continue")
    }

    /// Drops the fields of this connection; those that `kept` names stay even if `Connection` names them.
    pub fn strip_hop_by_hop(&mut self, kept: &[FieldId]) {
        hop_by_hop::strip(&mut self.head, kept);
    }

    /// Writes the head for the next hop, in origin form and HTTP/1.1, with a body of this length. `upgrade` is the
    /// protocol that the request asks to switch to.
    pub fn write(&self, out: &mut Buffer, body: BodyLength, upgrade: Option<&str>) {
        let TargetPlaces { path, end, .. } = self.target;
        // Bytes: as text, they would be checked again.
        let path = &self.head.first_line()[path as usize..end as usize];
        out.reserve(self.head.size() + 256);
        out.push(self.method.as_str().as_bytes());
        out.push(b" ");
        if matches!(path, [] | [b'?', ..]) {
            out.push(b"/");
        }
        out.push(path);
        out.push(b" HTTP/1.1\r\n");
        self.head.write_fields(out);
        match body {
            BodyLength::Chunked => out.push(b"Transfer-Encoding: chunked\r\n"),
            BodyLength::Exactly(length) if !self.head.has(FieldId::ContentLength) && length > 0 => {
                out.push(b"Content-Length: ");
                out.push_number(length);
                out.push(b"\r\n");
            }
            BodyLength::Exactly(_) | BodyLength::UntilClose => {}
        }
        hop_by_hop::write_upgrade(out, upgrade);
        out.push(b"\r\n");
    }
}

/// The first line of a request.
struct RequestLine {
    method: Method,
    version: HttpVersion,
    target: TargetPlaces,
    /// Length with CRLF.
    length: usize,
}

impl RequestLine {
    fn parse(head: &[u8]) -> Result<Self, HeadFault> {
        let end = memchr::memchr(b'\r', head).ok_or(HeadFault::LineEnd)?;
        let line = &head[..end];
        // A CR within the line.
        if head.get(end + 1) != Some(&b'\n') {
            return Err(HeadFault::TargetCharacter);
        }
        let first = memchr::memchr(b' ', line).ok_or(HeadFault::Method)?;
        let method = &line[..first];
        if !is_token(method) || method.len() > MOST_METHOD {
            return Err(HeadFault::Method);
        }
        let method = Method::from_bytes(method).map_err(|_| HeadFault::Method)?;
        let last = memchr::memrchr(b' ', line).filter(|last| *last > first);
        let last = last.ok_or(HeadFault::Version)?;
        let version = match &line[last + 1..] {
            b"HTTP/1.1" => HttpVersion::Http11,
            b"HTTP/1.0" => HttpVersion::Http10,
            _ => return Err(HeadFault::Version),
        };
        let target = first + 1..last;
        if target.len() > MOST_TARGET {
            return Err(HeadFault::TargetTooLong);
        }
        let target = TargetPlaces::of(check_target(&line[target])?, first + 1);
        Ok(Self { method, version, target, length: end + 2 })
    }
}

/// Splits a target in absolute form into authority, and path with query.
fn absolute(target: &str) -> Option<(&str, &str)> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// Returns the target as text. Rejects characters that no target may hold. What browsers and apps put into targets
/// passes: quotes, brackets, braces, `|`, `^`, backtick, and UTF-8.
fn check_target(target: &[u8]) -> Result<&str, HeadFault> {
    if memchr::memchr(b' ', target).is_some() {
        return Err(HeadFault::TargetSpace);
    }
    let bad = target.iter().fold(target.is_empty(), |bad, byte| {
        bad | (*byte < 0x20) | (*byte == 0x7f) | (*byte == b'#')
    });
    if bad {
        return Err(HeadFault::TargetCharacter);
    }
    std::str::from_utf8(target).map_err(|_| HeadFault::TargetCharacter)
}

/// Rejects by its first bytes what is not a request, before a line is complete. False if more bytes are needed.
fn begins_request(bytes: &[u8]) -> Result<bool, HeadFault> {
    let Some(first) = bytes.first() else { return Ok(false) };
    if *first == TLS_HANDSHAKE {
        return Err(HeadFault::Tls);
    }
    if bytes.starts_with(PROXY_V2) || bytes.starts_with(b"PROXY ") {
        return Err(HeadFault::ProxyHeader);
    }
    if PROXY_V2.starts_with(bytes) {
        return Ok(false);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Err(HeadFault::Http2Preface);
    }
    if *first != b'\r' && !is_token_byte(*first) {
        return Err(HeadFault::Method);
    }
    Ok(true)
}

/// A bare LF at the end of a request line without a version is a request of HTTP/0.9.
fn line_fault(bytes: &[u8], fault: HeadFault) -> HeadFault {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let ended = bytes.get(line.len()) == Some(&b'\n');
    let words = line.split(|byte| *byte == b' ').count();
    if ended && words == 2 && !line.ends_with(b"\r") { HeadFault::Version } else { fault }
}

#[cfg(test)]
mod tests;

//! The requests that the echo server understands, and its reply headers.

use http::header;

use crate::net::accept;

const MAX_FIELDS: usize = 64;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// The small text.
    Text,
    /// A body of this number of bytes.
    Body(u64),
    /// A WebSocket that echoes.
    Echo,
    /// A WebSocket that sends this number of bytes; `None`: without end.
    Bulk(Option<u64>),
}

/// A complete request at the start of a connection's input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What the request is for.
    pub(super) kind: RequestKind,
    /// Bytes of header and body.
    pub(super) length: usize,
    /// Whether the connection closes after it.
    pub(super) last: bool,
    /// Whether the reply has no body.
    head_only: bool,
    /// `Sec-WebSocket-Key`; empty if the request is not an upgrade.
    key: String,
}

/// An invalid or unsupported request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidRequest;

impl Request {
    /// Parses the request at the start of `input`; `None` if more bytes are needed.
    pub(super) fn parse(input: &[u8]) -> Option<Result<Self, InvalidRequest>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(input) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return None,
            Err(_) => return Some(Err(InvalidRequest)),
        };
        let mut read = Self {
            kind: RequestKind::Text,
            length: head,
            last: request.version != Some(1),
            head_only: request.method == Some("HEAD"),
            key: String::new(),
        };
        for field in request.headers.iter() {
            if let Err(invalid) = read.field(field) {
                return Some(Err(invalid));
            }
        }
        if input.len() < read.length {
            return None;
        }
        read.kind = kind(request.path.unwrap_or_default(), !read.key.is_empty());
        Some(Ok(read))
    }

    /// Appends the reply: its header, and its body if it has one. The bytes of [`Request::body`] follow.
    pub(super) fn answer(&self, out: &mut Vec<u8>, head: &[u8], body: &[u8]) {
        match self.kind {
            RequestKind::Text => {
                out.extend_from_slice(head);
                if !self.head_only {
                    out.extend_from_slice(body);
                }
                return;
            }
            RequestKind::Body(bytes) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                out.extend_from_slice(head.as_bytes());
                return;
            }
            RequestKind::Echo | RequestKind::Bulk(_) => {}
        }
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
        );
        out.extend_from_slice(accept(&self.key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Bytes of a body that [`Request::answer`] has left out.
    pub(super) fn body(&self) -> u64 {
        match self.kind {
            RequestKind::Body(bytes) if !self.head_only => bytes,
            _ => 0,
        }
    }

    /// Whether the connection becomes a WebSocket.
    pub(super) fn is_upgrade(&self) -> bool {
        matches!(self.kind, RequestKind::Echo | RequestKind::Bulk(_))
    }

    fn field(&mut self, field: &httparse::Header<'_>) -> Result<(), InvalidRequest> {
        let is = |name: &header::HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        let value = || std::str::from_utf8(field.value).map_err(|_| InvalidRequest);
        if is(&header::CONTENT_LENGTH) {
            let body: usize = value()?.parse().map_err(|_| InvalidRequest)?;
            self.length = self.length.checked_add(body).ok_or(InvalidRequest)?;
        } else if is(&header::TRANSFER_ENCODING) {
            return Err(InvalidRequest);
        } else if is(&header::CONNECTION) {
            self.last |= value()?.eq_ignore_ascii_case("close");
        } else if is(&header::SEC_WEBSOCKET_KEY) {
            value()?.clone_into(&mut self.key);
        }
        Ok(())
    }
}

fn kind(target: &str, upgrade: bool) -> RequestKind {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let bytes = || query.split('&').find_map(|pair| pair.strip_prefix("bytes=")?.parse().ok());
    match (path.ends_with("/bulk"), upgrade) {
        (true, true) => RequestKind::Bulk(bytes()),
        (true, false) => bytes().map_or(RequestKind::Text, RequestKind::Body),
        (false, true) => RequestKind::Echo,
        (false, false) => RequestKind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &str) -> Option<Result<Request, InvalidRequest>> {
        Request::parse(input.as_bytes())
    }

    #[test]
    fn request_is_complete_with_its_body() {
        let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(parse(post), None);
        let whole = format!("{post}abcGET");
        assert_eq!(parse(&whole).unwrap().unwrap().length, post.len() + 3);
        assert!(parse("nonsense\r\n\r\n").unwrap().is_err());
        let huge = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        assert!(parse(&huge).unwrap().is_err());
    }

    #[test]
    fn path_selects_echo_or_bulk() {
        let kind = |path: &str| {
            parse(&format!("GET {path} HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n"))
                .unwrap()
                .unwrap()
                .kind
        };
        assert_eq!(kind("/"), RequestKind::Echo);
        assert_eq!(kind("/a/bulk"), RequestKind::Bulk(None));
        assert_eq!(kind("/bulk?x=1&bytes=42"), RequestKind::Bulk(Some(42)));
        let plain = |request: &str| parse(request).unwrap().unwrap();
        assert_eq!(plain("GET /bulk HTTP/1.1\r\n\r\n").kind, RequestKind::Text);
        let get = plain("GET /bulk?bytes=7 HTTP/1.1\r\n\r\n");
        assert_eq!((get.kind, get.body()), (RequestKind::Body(7), 7));
        assert_eq!(plain("HEAD /bulk?bytes=7 HTTP/1.1\r\n\r\n").body(), 0);
    }
}

//! What the echo origin reads of a request, and the head of its answer.

use http::header;

use crate::net::accept;

const MAX_FIELDS: usize = 64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The small text.
    Text,
    /// A WebSocket that echoes.
    Echo,
    /// A WebSocket that pushes so many bytes; `None`: without end.
    Bulk(Option<u64>),
}

/// One whole request at the start of a connection's input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What it asks for.
    pub(super) asked: Asked,
    /// Bytes of head and body.
    pub(super) length: usize,
    /// Whether the connection ends with it.
    pub(super) last: bool,
    /// Whether the reply has no body.
    head_only: bool,
    /// What a 101 answers.
    key: String,
}

/// Bytes that are no request that could be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Request {
    /// Reads the request at the start of `input`; `None` where more bytes are needed.
    pub(super) fn parse(input: &[u8]) -> Option<Result<Self, Malformed>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(input) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return None,
            Err(_) => return Some(Err(Malformed)),
        };
        let mut read = Self {
            asked: Asked::Text,
            length: head,
            last: request.version != Some(1),
            head_only: request.method == Some("HEAD"),
            key: String::new(),
        };
        for field in request.headers.iter() {
            if let Err(malformed) = read.field(field) {
                return Some(Err(malformed));
            }
        }
        if input.len() < read.length {
            return None;
        }
        if !read.key.is_empty() {
            read.asked = asked(request.path.unwrap_or_default());
        }
        Some(Ok(read))
    }

    /// Appends the answer's head, and its body where there is one.
    pub(super) fn answer(&self, out: &mut Vec<u8>, head: &[u8], body: &[u8]) {
        if self.asked == Asked::Text {
            out.extend_from_slice(head);
            if !self.head_only {
                out.extend_from_slice(body);
            }
            return;
        }
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
        );
        out.extend_from_slice(accept(&self.key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    fn field(&mut self, field: &httparse::Header<'_>) -> Result<(), Malformed> {
        let is = |name: &header::HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        let value = || std::str::from_utf8(field.value).map_err(|_| Malformed);
        if is(&header::CONTENT_LENGTH) {
            let body: usize = value()?.parse().map_err(|_| Malformed)?;
            self.length = self.length.checked_add(body).ok_or(Malformed)?;
        } else if is(&header::TRANSFER_ENCODING) {
            return Err(Malformed);
        } else if is(&header::CONNECTION) {
            self.last |= value()?.eq_ignore_ascii_case("close");
        } else if is(&header::SEC_WEBSOCKET_KEY) {
            value()?.clone_into(&mut self.key);
        }
        Ok(())
    }
}

fn asked(target: &str) -> Asked {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !path.ends_with("/bulk") {
        return Asked::Echo;
    }
    let bytes = query.split('&').find_map(|pair| pair.strip_prefix("bytes=")?.parse().ok());
    Asked::Bulk(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &str) -> Option<Result<Request, Malformed>> {
        Request::parse(input.as_bytes())
    }

    #[test]
    fn a_request_is_whole_with_its_body() {
        let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(parse(post), None);
        let whole = format!("{post}abcGET");
        assert_eq!(parse(&whole).unwrap().unwrap().length, post.len() + 3);
        assert!(parse("nonsense\r\n\r\n").unwrap().is_err());
        let huge = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        assert!(parse(&huge).unwrap().is_err());
    }

    #[test]
    fn paths_say_what_is_asked() {
        let asked = |path: &str| {
            parse(&format!("GET {path} HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n"))
                .unwrap()
                .unwrap()
                .asked
        };
        assert_eq!(asked("/"), Asked::Echo);
        assert_eq!(asked("/a/bulk"), Asked::Bulk(None));
        assert_eq!(asked("/bulk?x=1&bytes=42"), Asked::Bulk(Some(42)));
        assert_eq!(parse("GET /bulk HTTP/1.1\r\n\r\n").unwrap().unwrap().asked, Asked::Text);
    }
}

//! Reads and writes HTTP/1.1 messages: small, strict and independent of the parser under test.

/// A request or a response with its decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// First line, without its CRLF.
    pub(crate) start: String,
    /// Fields in the order sent; names as sent.
    pub(crate) headers: Fields,
    /// Body without chunked coding.
    pub(crate) body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub(crate) trailers: Fields,
}

/// Names and values.
type Fields = Vec<(String, String)>;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes.
    Length(usize),
    /// Chunked coding.
    Chunked,
    /// A response without either: the body ends with the connection.
    Close,
}

impl Message {
    /// Returns the head of the first message in `bytes` and its length. `None`: incomplete.
    pub(crate) fn head(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = find(bytes, b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&bytes[..end - 4]).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.map(field).collect();
        Some((Self { start, headers, body: Vec::new(), trailers: Vec::new() }, end))
    }

    /// Returns the first complete message in `bytes` and its length. `None`: incomplete, or a response that
    /// ends with the connection.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let (mut message, head) = Self::head(bytes)?;
        let rest = &bytes[head..];
        match message.framing() {
            Framing::Length(length) => {
                message.body = rest.get(..length)?.to_vec();
                Some((message, head + length))
            }
            Framing::Chunked => {
                let (body, trailers, taken) = chunks(rest)?;
                message.body = body;
                message.trailers = trailers;
                Some((message, head + taken))
            }
            Framing::Close => None,
        }
    }

    /// Framing of the body (RFC 9112 §6.3), without regard to the request method.
    pub(crate) fn framing(&self) -> Framing {
        let bodiless = matches!(self.try_status(), Some(100..=199 | 204 | 304));
        if bodiless {
            Framing::Length(0)
        } else if self.header("transfer-encoding").is_some() {
            Framing::Chunked
        } else if let Some(length) = self.header("content-length") {
            Framing::Length(length.parse().expect("a valid content-length"))
        } else if self.try_status().is_some() {
            Framing::Close
        } else {
            Framing::Length(0)
        }
    }

    /// Status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.try_status().unwrap_or_else(|| panic!("not a response: {:?}", self.start))
    }

    fn try_status(&self) -> Option<u16> {
        self.start.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }

    /// Method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// First value of a field, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every value of a field, by its lower-case name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, v)| v.as_str()).collect()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Makes a `200` response with this body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    reply("200 OK", "", body)
}

/// Makes a response. `status` is the code and reason; each line of `headers` ends with CRLF.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Makes a `GET` request. Each line of `headers` ends with CRLF.
pub(crate) fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n").into_bytes()
}

/// Makes a `POST` request with a Content-Length. Each line of `headers` ends with CRLF.
pub(crate) fn post(target: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

/// Index of the first `needle` in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

/// Decodes a chunked body. Returns body, trailers and encoded length. `None`: incomplete.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, Fields, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        bytes.get(..at)?;
    }
    let mut trailers = Vec::new();
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let text = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        at += line + 2;
        if line == 0 {
            return Some((body, trailers, at));
        }
        trailers.push(field(&text));
    }
}

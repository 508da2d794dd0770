//! The WebSocket handshake (RFC 6455, section 4), and replies of servers that do not upgrade.

use std::io;

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Reply, Stream, WebSocket, failures};
use crate::stats::{ErrorKind, Failure};

/// Maximum bytes of the header of a reply.
const MAX_HEAD: usize = 32 << 10;
/// Maximum bytes of an error reply's body that are kept.
const MAX_BODY: usize = 8 << 10;
const MAX_FIELDS: usize = 100;
/// Bytes per read: a 101 is shorter.
const CHUNK: usize = 1 << 10;
/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why an upgrade failed.
#[derive(Debug)]
pub(crate) enum UpgradeError {
    /// The server answered with a status other than 101.
    Rejected(Box<Reply>),
    /// There was no reply.
    Failed(Failure),
}

impl From<Failure> for UpgradeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<UpgradeError> for Failure {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Failed(failure) => failure,
            UpgradeError::Rejected(reply) => Self::new(
                ErrorKind::UpgradeRefused,
                format!("{} to the upgrade", reply.description()),
            ),
        }
    }
}

/// Requests the upgrade and waits for the reply. Sends the headers of the first map before those of the
/// second.
pub(super) async fn upgrade(
    mut stream: Stream,
    path_and_query: &str,
    headers: [&HeaderMap; 2],
) -> Result<(WebSocket, HeaderMap), UpgradeError> {
    let key = BASE64_STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    let request = request(path_and_query, &key, headers);
    stream.write_all(&request).await.map_err(|error| failures::lost(&error))?;
    stream.flush().await.map_err(|error| failures::lost(&error))?;

    let mut input = Vec::new();
    let (head, length) = loop {
        read(&mut stream, &mut input).await?;
        if let Some(found) = parse(&input)? {
            break found;
        }
        if input.len() > MAX_HEAD {
            return Err(protocol("the head of the server's reply is too long").into());
        }
    };
    input.drain(..length);
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        let body = body(&mut stream, &head.headers, input).await;
        let reply = Reply { status: head.status, headers: head.headers, body };
        return Err(UpgradeError::Rejected(Box::new(reply)));
    }
    if head.headers.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes)
        != Some(accept(&key).as_bytes())
    {
        return Err(protocol(
            "the server's 101 does not match the Sec-WebSocket-Key of the request",
        )
        .into());
    }
    Ok((WebSocket::new(stream, &input), head.headers))
}

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &str) -> String {
    let mut digest = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    BASE64_STANDARD.encode(digest.finish())
}

fn request(path_and_query: &str, key: &str, headers: [&HeaderMap; 2]) -> Vec<u8> {
    let mut request = Vec::with_capacity(512);
    request.extend_from_slice(b"GET ");
    request.extend_from_slice(path_and_query.as_bytes());
    request.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers.into_iter().flatten() {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(
        b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ",
    );
    request.extend_from_slice(key.as_bytes());
    request.extend_from_slice(b"\r\n\r\n");
    request
}

struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

/// Parses the header at the start of `input` and returns its length; `None` if more bytes are needed.
fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) if input.first().copied().is_some_and(failures::is_tls_record) => {
            return Err(failures::server_uses_tls());
        }
        Err(error) => return Err(protocol(&format!("the server's reply is not HTTP ({error})"))),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default())
        .map_err(|_| protocol("the server's reply has no status"))?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) else {
            return Err(protocol("the server's reply has a malformed header field"));
        };
        headers.append(name, value);
    }
    Ok(Some((Head { status, headers }, length)))
}

/// Reads the body of an error reply. An incomplete body is good enough.
async fn body(stream: &mut Stream, headers: &HeaderMap, mut input: Vec<u8>) -> Bytes {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(MAX_BODY)
        .min(MAX_BODY);
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    while input.len() < length && !(chunked && input.ends_with(b"0\r\n\r\n")) {
        if read(stream, &mut input).await.is_err() {
            break;
        }
    }
    if chunked {
        input = unchunked(&input);
    }
    input.truncate(length);
    input.into()
}

/// Returns the data of all complete chunks.
fn unchunked(mut input: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(input) {
        let end = start.saturating_add(size as usize);
        let Some(chunk) = input.get(start..end).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        data.extend_from_slice(chunk);
        input = input.get(end + 2..).unwrap_or_default();
    }
    data
}

async fn read(stream: &mut Stream, input: &mut Vec<u8>) -> Result<(), Failure> {
    input.reserve(CHUNK);
    match stream.read_buf(input).await {
        Ok(0) => Err(failures::ended()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(failures::ended()),
        Err(error) => Err(failures::lost(&error)),
    }
}

fn protocol(description: &str) -> Failure {
    Failure::new(ErrorKind::Protocol, description)
}

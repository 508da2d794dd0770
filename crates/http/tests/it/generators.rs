//! Heads and chunked bodies for property tests: valid ones, and ones with a few wrong bytes.

use proptest::{collection::vec, prelude::*, sample::select};

/// Bytes that matter to a parser of chunks and fields.
const SYNTAX: &[u8] = b"\r\n\r\n;: \t0179afAFgx+-_\"=,\0\x7f\x80\xff";

/// A valid chunked body and its data.
#[derive(Debug, Clone)]
pub(crate) struct ValidBody {
    pub(crate) bytes: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// Bodies that follow the rules.
pub(crate) fn valid_bodies() -> impl Strategy<Value = ValidBody> {
    let chunk = (vec(any::<u8>(), 1..40), 0..4_usize, any::<bool>(), extensions());
    let trailer = select(
        &[
            "grpc-status: 0",
            "Grpc-Message: a b",
            "ETag:\"x\"",
            "Content-Length: 5",
            "X_Forwarded_For: 1",
            "X-Empty:",
            "x-binary:\t\u{e9}\t",
        ][..],
    );
    (vec(chunk, 0..6), 1..4_usize, extensions(), vec(trailer, 0..4)).prop_map(
        |(chunks, zeros, last_extension, trailers)| {
            let mut body = ValidBody { bytes: vec![], data: vec![] };
            for (data, zeros, upper, extension) in chunks {
                let (size, zeros) = (data.len(), "0".repeat(zeros));
                let size = if upper { format!("{size:X}") } else { format!("{size:x}") };
                body.bytes.extend(format!("{zeros}{size}{extension}\r\n").bytes());
                body.bytes.extend(&data);
                body.bytes.extend(b"\r\n");
                body.data.extend(data);
            }
            body.bytes.extend(format!("{}{last_extension}\r\n", "0".repeat(zeros)).bytes());
            body.bytes.extend(trailers.iter().flat_map(|line| format!("{line}\r\n").into_bytes()));
            body.bytes.extend(b"\r\n");
            body
        },
    )
}

/// Bodies with up to three wrong bytes: replaced, inserted or removed.
pub(crate) fn damaged_bodies() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..3_u8, select(SYNTAX));
    (valid_bodies(), vec(edit, 1..4)).prop_map(|(body, edits)| damage(body.bytes, edits))
}

/// Bytes that consist of syntax only.
pub(crate) fn syntax() -> impl Strategy<Value = Vec<u8>> {
    vec(select(SYNTAX), 0..60)
}

fn extensions() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", ";", ";a", ";a=1;b=\"x;\\\"y\"", " ; a", "\t;\u{fc}= 0"][..])
}

/// Requests that follow the rules.
pub(crate) fn request_heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(
        &[
            "GET / HTTP/1.1",
            "POST /socket.io/?EIO=4&transport=polling&sid=a HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET http://other.test:8080/x?y HTTP/1.1",
            "GET /\"<>{}|\u{fc} HTTP/1.1",
            "M-SEARCH /?? HTTP/1.1",
            "HEAD / HTTP/1.0",
        ][..],
    );
    let framing =
        select(&["", "", "Content-Length: 3", "content-length:0", "Expect: 100-continue"][..]);
    (line, fields(), framing, fields()).prop_map(head)
}

/// Responses that follow the rules.
pub(crate) fn response_heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(
        &[
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200",
            "HTTP/1.1 404 ",
            "HTTP/1.0 500 Not \u{e4} good",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
            "HTTP/1.1 100 Continue",
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 999 x",
        ][..],
    );
    let framing =
        select(&["", "Content-Length: 3", "Content-Length:\t0 ", "content-length: 00012"][..]);
    (line, fields(), framing, fields()).prop_map(head)
}

/// Heads with wrong lines, and up to three wrong bytes.
pub(crate) fn damaged_heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(
        &[
            "Content-Length: 3",
            "Content-Length: +3",
            "Content-Length: 3, 3",
            "Content-Length: 9007199254740993",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: ,\tChunked",
            "Transfer-Encoding:",
            "Transfer-Encoding: xchunked",
            "Name : x",
            " folded",
            ": x",
            "nothing",
            "a: b\u{1}",
            "a\rb: c",
            "a: b\nc: d",
        ][..],
    );
    let edit = (any::<prop::sample::Index>(), 0..3_u8, select(SYNTAX));
    let valid = prop_oneof![request_heads(), response_heads()];
    (valid, vec(line, 0..3), vec(edit, 0..3)).prop_map(|(mut bytes, lines, edits)| {
        bytes.truncate(bytes.len() - 2);
        bytes.extend(lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()));
        bytes.extend(b"\r\n");
        damage(bytes, edits)
    })
}

fn fields() -> impl Strategy<Value = Vec<&'static str>> {
    let line = select(
        &[
            "Host: a",
            "host:b:80",
            "X-Empty:",
            "X-Spaces: \t a  b\t ",
            "x-~!#$%&'*+.^_`|: \u{e9}",
            "Cookie: a=1; b=2",
            "Cookie: c=3",
            "Connection: keep-alive, X-Spaces",
            "Connection: close",
            "TE: trailers",
            "Keep-Alive: timeout=5",
        ][..],
    );
    vec(line, 0..5)
}

fn head((line, fields, framing, more): (&str, Vec<&str>, &str, Vec<&str>)) -> Vec<u8> {
    let framing = Some(framing).filter(|framing| !framing.is_empty());
    let lines = [line].into_iter().chain(fields).chain(framing).chain(more);
    let lines = lines.map(|line| format!("{line}\r\n")).collect::<String>();
    format!("{lines}\r\n").into_bytes()
}

fn damage(mut bytes: Vec<u8>, edits: Vec<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
    for (at, kind, byte) in edits {
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => {}
        }
    }
    bytes
}

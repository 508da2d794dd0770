//! Tests of the decision and of the codings.

use std::io::Read as _;

use super::{negotiation::Acceptable, *};
use crate::proxy::testing::{request, response};

const ALL: [ContentCoding; 3] = [ContentCoding::Zstd, ContentCoding::Brotli, ContentCoding::Gzip];

fn accepted(field: &str) -> Acceptable {
    let head = request(&format!("GET / HTTP/1.1\r\nAccept-Encoding: {field}\r\n")).head;
    Acceptable::of(&head, &ALL)
}

#[test]
fn the_client_chooses_the_coding() {
    use ContentCoding::{Brotli, Gzip, Zstd};
    for (field, expected) in [
        ("gzip, deflate, br, zstd", Some(Zstd)),
        ("gzip, deflate, br", Some(Brotli)),
        ("GZIP", Some(Gzip)),
        ("x-gzip", Some(Gzip)),
        ("br;q=0.1, gzip;q=0.9", Some(Gzip)),
        ("br;q=0, *", Some(Zstd)),
        ("*;q=0, gzip", Some(Gzip)),
        ("gzip;q=0.4, identity;q=0.5", None),
        ("gzip;q=0.5, identity;q=0.5", Some(Gzip)),
        ("gzip;q=0", None),
        ("gzip;q=2", None),
        ("gzip;q=x", None),
        ("gzip;q=", None),
        ("identity", None),
        ("deflate", None),
        ("", None),
        (",;q=1,,", None),
    ] {
        assert_eq!(accepted(field).coding, expected, "{field}");
    }
    assert!(accepted("gzip, identity;q=0").only_encoded && accepted("gzip, *;q=0").only_encoded);
    assert!(!accepted("gzip, *;q=0, identity;q=0.1").only_encoded && !accepted("").only_encoded);
}

fn config() -> CompressConfig {
    CompressConfig { types: None, min_size: 100, encodings: ALL.to_vec(), level: 4 }
}

/// The head after the compression of a response with these fields, and whether its body is compressed.
fn compressed(accepts: &str, status: &str, fields: &str, length: u64) -> (ResponseHead, bool) {
    let request = request(&format!("GET / HTTP/1.1\r\nAccept-Encoding: {accepts}\r\n"));
    let mut head = response(&format!("HTTP/1.1 {status}\r\n{fields}"));
    let compression = Compression::of(&config(), &request);
    let filter = compression.apply(&mut head, BodyLength::Exactly(length));
    (head, filter.is_some())
}

#[test]
fn type_and_size_decide() {
    for (fields, length, expected) in [
        ("Content-Type: text/html; charset=utf-8\r\n", 100, true),
        ("Content-Type: Text/CSS\r\n", 100, true),
        ("Content-Type: application/problem+json\r\n", 100, true),
        ("Content-Type: image/svg+xml\r\n", 100, true),
        ("Content-Type: text/html\r\n", 99, false),
        ("Content-Type: image/png\r\n", 1000, false),
        ("", 1000, false),
        ("Content-Type: text/event-stream\r\n", 1000, false),
        ("Content-Type: text/html\r\nContent-Encoding: br\r\n", 1000, false),
        ("Content-Type: text/html\r\nCache-Control: private, No-Transform\r\n", 1000, false),
        ("Content-Type: text/html\r\nContent-Range: bytes 0-99/1000\r\n", 100, false),
    ] {
        let (head, is_compressed) = compressed("gzip", "200 OK", fields, length);
        assert_eq!(is_compressed, expected, "{fields}");
        assert_eq!(
            head.head.has(FieldId::ContentEncoding) || fields.contains("br"),
            expected || fields.contains("br")
        );
    }
    for status in ["204 No Content", "206 Partial Content", "205 Reset Content"] {
        assert!(!compressed("gzip", status, "Content-Type: text/html\r\n", 1000).1, "{status}");
    }
    assert!(compressed("gzip", "404 Not Found", "Content-Type: text/html\r\n", 1000).1);
    // A client that refuses plain bodies gets no plain one.
    assert!(compressed("gzip, identity;q=0", "200 OK", "Content-Type: image/png\r\n", 5).1);
}

#[test]
fn the_head_describes_the_encoded_body() {
    let fields = "Content-Type: text/html\r\nContent-Length: 1000\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n\
                  Content-MD5: x\r\nVary: Origin\r\n";
    let (head, _) = compressed("br", "200 OK", fields, 1000);
    let one = |name: &str| head.head.named(name).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(one("content-encoding"), [b"br"]);
    assert_eq!(one("etag"), [b"W/\"a\""]);
    assert_eq!(one("vary"), [&b"Origin"[..], b"Accept-Encoding"]);
    for gone in ["content-length", "accept-ranges", "content-md5"] {
        assert!(one(gone).is_empty(), "{gone}");
    }
    // Another client could have got another response.
    let (head, is_compressed) = compressed("", "200 OK", fields, 1000);
    assert!(!is_compressed && head.head.has_token(FieldId::Vary, "accept-encoding"));
    assert_eq!(head.head.named("etag").next(), Some(&b"\"a\""[..]));
    let (head, _) = compressed("br", "200 OK", "Content-Type: text/html\r\nVary: *\r\n", 1000);
    assert_eq!(head.head.all(FieldId::Vary).count(), 1);
    // What will never be compressed does not vary.
    let (head, _) = compressed("", "200 OK", "Content-Type: image/png\r\n", 1000);
    assert!(!head.head.has(FieldId::Vary));
    let (head, _) = compressed("br", "304 Not Modified", "ETag: \"a\"\r\n", 0);
    assert_eq!(head.head.named("etag").next(), Some(&b"W/\"a\""[..]));
}

fn decoded(coding: ContentCoding, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1 << 20];
    let mut length = 0;
    let mut reader: Box<dyn std::io::Read> = match coding {
        ContentCoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        ContentCoding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
        ContentCoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
    };
    // A flushed body has no end: the decoder must return all data before it.
    while let Ok(read @ 1..) = reader.read(&mut out[length..]) {
        length += read;
    }
    out.truncate(length);
    out
}

#[test]
fn every_flushed_piece_can_be_decoded_at_once() {
    for coding in ALL {
        for level in [1, 4, 9] {
            let (mut encoder, mut out) = (Encoder::new(coding, level).unwrap(), Vec::new());
            let mut expected = Vec::new();
            for at in 0..5 {
                let piece = format!("piece {at} ").repeat(at * 500 + 1);
                expected.extend_from_slice(piece.as_bytes());
                encoder.feed(piece.as_bytes(), &mut out).unwrap();
                encoder.flush(&mut out).unwrap();
                assert_eq!(decoded(coding, &out), expected, "{coding:?} {level}");
            }
            encoder.end(&mut out).unwrap();
            assert_eq!(decoded(coding, &out), expected, "{coding:?} {level}");
            assert!(out.len() < expected.len() / 4, "{coding:?} {level}");
        }
        let (mut encoder, mut out) = (Encoder::new(coding, 4).unwrap(), Vec::new());
        encoder.end(&mut out).unwrap();
        assert!(decoded(coding, &out).is_empty() && !out.is_empty(), "{coding:?}");
    }
}

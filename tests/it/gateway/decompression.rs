//! Decompression of requests.

use std::io::Write as _;

use super::{get, routed};
use crate::support::{Backend, Message, Proxy, Raw, message};

fn encoded(coding: &str, data: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 9, 22);
            encoder.write_all(data).unwrap();
            encoder.into_inner()
        }
        _ => zstd::stream::encode_all(data, 9).unwrap(),
    }
}

async fn post(proxy: &Proxy, coding: &str, body: &[u8]) -> Message {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\nContent-Digest: x\r\n\r\n",
        body.len()
    );
    Raw::ask(proxy.web(), [head.as_bytes(), body].concat()).await
}

const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

#[tokio::test]
async fn a_backend_gets_the_decoded_body() {
    let backend = Backend::answering(|request| message::ok(&request.text())).await;
    let keys =
        "decompress = true\ntransform = { request = { drop = \"a\", other_types = \"pass\" } }\n";
    let proxy = routed(&backend, keys).await;
    for coding in CODINGS {
        let reply = post(&proxy, coding, &encoded(coding, b"some text")).await;
        assert_eq!(reply.text(), "some text", "{coding}");
        let request = backend.requests().last().unwrap().clone();
        assert_eq!(
            (request.header("content-encoding"), request.header("content-digest")),
            (None, None)
        );
        assert_eq!(request.all("content-length"), ["9"]);
    }
    // Decoded first, changed afterwards; chunked or not.
    let body = encoded("gzip", b"{\"a\":1,\"b\":2}");
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Encoding: GZip\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n", body.len());
    let request = [head.as_bytes(), chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(Raw::ask(proxy.web(), request).await.text(), "{\"b\":2}");
    // What is not encoded passes.
    assert_eq!(post(&proxy, "identity", b"plain").await.text(), "plain");
    assert_eq!(get(&proxy, "/", "Content-Encoding: gzip\r\n").await.status(), 200);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_bomb_or_a_wrong_coding_reaches_no_backend() {
    let backend = Backend::replying("hello").await;
    let proxy =
        routed(&backend, "decompress = { ratio = 50, max = \"1MiB\" }\nmax_body = \"200KiB\"\n")
            .await;
    let zeros = vec![0; 8 << 20];
    for coding in CODINGS {
        let reply = post(&proxy, coding, &encoded(coding, &zeros)).await;
        assert_eq!(reply.status(), 413, "{coding}");
        assert_eq!(post(&proxy, coding, b"not encoded at all").await.status(), 400, "{coding}");
    }
    // Random bytes have no ratio: `max_body` counts them after decoding.
    let random: Vec<u8> = (0..150 << 10).map(|_| fastrand::u8(..)).collect();
    assert_eq!(post(&proxy, "gzip", &encoded("gzip", &random)).await.status(), 200);
    let text: Vec<u8> = random.iter().flat_map(|byte| [*byte, b' ']).collect();
    assert_eq!(post(&proxy, "br", &encoded("br", &text)).await.status(), 413);
    for unknown in ["compress", "gzip, br", "x", "gzip, gzip"] {
        let reply = post(&proxy, unknown, b"x").await;
        assert_eq!(reply.status(), 415, "{unknown}");
        assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate, br, zstd"));
    }
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

//! Chunked bodies for property tests: valid ones, and ones with a few wrong bytes.

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
    (valid_bodies(), vec(edit, 1..4)).prop_map(|(body, edits)| {
        let mut bytes = body.bytes;
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
    })
}

/// Bytes that consist of syntax only.
pub(crate) fn syntax() -> impl Strategy<Value = Vec<u8>> {
    vec(select(SYNTAX), 0..60)
}

fn extensions() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", ";", ";a", ";a=1;b=\"x;\\\"y\"", " ; a", "\t;\u{fc}= 0"][..])
}

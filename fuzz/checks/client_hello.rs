//! Properties of the ClientHello parser that hold for all input.

use moorline::net::client_hello::{ClientHello, MOST_PEEKED, Peeked, read};

/// All prefixes up to this length are checked, longer ones only in part: parsing takes time by length.
const EACH: usize = 700;

/// Panics if a property is violated.
pub(crate) fn check(bytes: &[u8]) {
    let mut before = read(&[]);
    let (each, rest) = (bytes.len().min(EACH), (bytes.len() / 8).max(1));
    let ends = (1..=each).chain((each..bytes.len()).step_by(rest)).chain([bytes.len()]);
    for end in ends {
        let now = read(&bytes[..end]);
        match before {
            Peeked::Incomplete => {}
            _ => assert_eq!(before, now, "more bytes change a decided result"),
        }
        before = now;
    }
    assert!(
        bytes.len() < MOST_PEEKED || before != Peeked::Incomplete,
        "the parser waits for more bytes than it reads"
    );
    let Peeked::Hello(hello) = &before else { return };
    check_names(hello);
    for tail in [&[0][..], b"\x14\x03\x03\x00\x01\x01", &[0xff; 300]] {
        assert_eq!(
            read(&[bytes, tail].concat()),
            before,
            "bytes after the ClientHello change the result"
        );
    }
    check_record_lengths(bytes, &before);
}

/// Asserts that names and protocols are valid.
fn check_names(hello: &ClientHello) {
    if let Some(name) = hello.sni.as_deref() {
        assert!((1..=253).contains(&name.len()), "{name:?}");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        assert_eq!(name, name.to_ascii_lowercase());
        assert!(!name.ends_with('.') && name.parse::<std::net::IpAddr>().is_err(), "{name:?}");
    }
    assert!(hello.protocols().all(|protocol| !protocol.is_empty()));
    let first = hello.first_protocol();
    assert!(first.is_none() || hello.protocols().next().is_some());
}

/// Asserts that the length of the records does not change the result.
fn check_record_lengths(bytes: &[u8], whole: &Peeked) {
    let Some(message) = handshake_message(bytes) else { return };
    for length in [31, 512, 16 << 10] {
        let mut records = Vec::new();
        for piece in message.chunks(length) {
            records.extend([22, 3, 1]);
            records.extend((piece.len() as u16).to_be_bytes());
            records.extend(piece);
        }
        assert_eq!(&read(&records), whole, "in records of {length} bytes");
    }
}

/// Returns the first handshake message, without its records.
fn handshake_message(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut joined, mut rest) = (Vec::new(), bytes);
    loop {
        let (head, after) = rest.split_first_chunk::<5>()?;
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let fragment = &after[..length.min(after.len())];
        joined.extend(fragment);
        rest = &after[fragment.len()..];
        if let Some(&[_, a, b, c]) = joined.first_chunk::<4>() {
            let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if joined.len() >= whole {
                joined.truncate(whole);
                return Some(joined);
            }
        }
    }
}

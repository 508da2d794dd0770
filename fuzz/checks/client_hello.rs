//! What holds of the ClientHello's reader, whatever bytes it is given.

use moorline::net::client_hello::{ClientHello, MOST_PEEKED, Peeked, read};

/// Prefixes that are looked at one by one: reading each costs its length.
const EACH: usize = 700;

/// Panics where something does not hold.
pub(crate) fn holds(bytes: &[u8]) {
    let mut before = read(&[]);
    let (each, rest) = (bytes.len().min(EACH), (bytes.len() / 8).max(1));
    let ends = (1..=each).chain((each..bytes.len()).step_by(rest)).chain([bytes.len()]);
    for end in ends {
        let now = read(&bytes[..end]);
        match before {
            Peeked::Incomplete => {}
            _ => assert_eq!(before, now, "more bytes change what was decided"),
        }
        before = now;
    }
    assert!(
        bytes.len() < MOST_PEEKED || before != Peeked::Incomplete,
        "it waits for more than it looks at"
    );
    let Peeked::Hello(hello) = &before else { return };
    sound(hello);
    for tail in [&[0][..], b"\x14\x03\x03\x00\x01\x01", &[0xff; 300]] {
        assert_eq!(read(&[bytes, tail].concat()), before, "what follows has no part in it");
    }
    cut_otherwise(bytes, &before);
}

/// Names and protocols are what they may be.
fn sound(hello: &ClientHello) {
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

/// The same message in records of other lengths says the same.
fn cut_otherwise(bytes: &[u8], whole: &Peeked) {
    let Some(message) = joined(bytes) else { return };
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

/// The first handshake message, out of its records.
fn joined(bytes: &[u8]) -> Option<Vec<u8>> {
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

//! Properties of the PROXY header parser that hold for all input.

use std::net::{IpAddr, SocketAddr};

use moorline::{
    config::{ProxyOut, Tlvs},
    net::proxy_protocol::{
        ConnectionOrigin, MOST, ParsedHeader, ProxiedClient, ProxyHeader, header, parse,
    },
};

/// Panics if a property is violated.
pub(crate) fn check(bytes: &[u8]) {
    let mut before = parse(&[]);
    for end in 1..=bytes.len().min(MOST + 16) {
        let now = parse(&bytes[..end]);
        check_transition(&before, &now);
        if let ParsedHeader::Whole(header) = &now {
            check_length(header, end);
        }
        before = now;
    }
    if let ParsedHeader::Whole(header) = before {
        check_tail(bytes, header);
        check_round_trip(header);
    }
}

/// Asserts that more bytes decide an undecided result and never change a decided one.
fn check_transition(before: &ParsedHeader, now: &ParsedHeader) {
    match before {
        ParsedHeader::Undecided => {}
        ParsedHeader::Partial => assert!(
            matches!(now, ParsedHeader::Partial | ParsedHeader::Whole(_) | ParsedHeader::Broken(_)),
            "the beginning of a header becomes {now:?}"
        ),
        ParsedHeader::Absent | ParsedHeader::Whole(_) | ParsedHeader::Broken(_) => {
            assert_eq!(before, now)
        }
    }
}

/// Asserts that a header is whole as soon as its last byte arrives.
fn check_length(header: &ProxyHeader, end: usize) {
    assert!((1..=MOST).contains(&header.length), "{header:?}");
    assert!(header.length <= end, "{header:?} after {end} bytes");
}

/// Asserts that bytes after the header are ignored, and that the header needs all of its bytes.
fn check_tail(bytes: &[u8], header: ProxyHeader) {
    let own = &bytes[..header.length];
    for tail in [&b""[..], b"\r\n", b"PROXY ", &[0xff; 300]] {
        assert_eq!(parse(&[own, tail].concat()), ParsedHeader::Whole(header));
    }
    let short = &own[..own.len() - 1];
    assert!(matches!(parse(short), ParsedHeader::Partial), "{header:?} is whole without its end");
}

/// Asserts that a header to a backend carries the same addresses.
fn check_round_trip(read: ProxyHeader) {
    let Some((source, destination)) = read.ends else { return };
    let client = ProxiedClient { source, destination, secured: None, id: "an id".into() };
    let introduction = ConnectionOrigin::Client(client.into());
    let canonical = |end: SocketAddr| -> (IpAddr, u16) { (end.ip().to_canonical(), end.port()) };
    for version in [ProxyOut::V1, ProxyOut::V2(Tlvs::default()), ProxyOut::V2(Tlvs::ALL)] {
        let written = header(version, &introduction);
        let ParsedHeader::Whole(again) = parse(&written) else { panic!("{:?}", parse(&written)) };
        assert_eq!(again.length, written.len());
        let (from, to) = again.ends.expect("both ends");
        assert_eq!((canonical(from), canonical(to)), (canonical(source), canonical(destination)));
    }
}

//! What holds of the PROXY header's reader, whatever bytes it is given.

use std::net::{IpAddr, SocketAddr};

use moorline::{
    config::{ProxyOut, Tlvs},
    net::proxy_protocol::{
        ConnectionOrigin, MOST, ParsedHeader, ProxiedClient, ProxyHeader, header, parse,
    },
};

/// Panics where something does not hold.
pub(crate) fn holds(bytes: &[u8]) {
    let mut before = parse(&[]);
    for end in 1..=bytes.len().min(MOST + 16) {
        let now = parse(&bytes[..end]);
        follows(&before, &now);
        if let ParsedHeader::Whole(header) = &now {
            bounded(header, end);
        }
        before = now;
    }
    if let ParsedHeader::Whole(header) = before {
        alone(bytes, header);
        told_on(header);
    }
}

/// More bytes decide what was open and change nothing of what was decided.
fn follows(before: &ParsedHeader, now: &ParsedHeader) {
    match before {
        ParsedHeader::Undecided => {}
        ParsedHeader::Partial => assert!(
            matches!(now, ParsedHeader::Partial | ParsedHeader::Whole(_) | ParsedHeader::Broken(_)),
            "what had begun like a header is {now:?}"
        ),
        ParsedHeader::Absent | ParsedHeader::Whole(_) | ParsedHeader::Broken(_) => {
            assert_eq!(before, now)
        }
    }
}

/// It is whole once its last byte is there.
fn bounded(header: &ProxyHeader, end: usize) {
    assert!((1..=MOST).contains(&header.length), "{header:?}");
    assert!(header.length <= end, "{header:?} after {end} bytes");
}

/// What follows it has no part in it, and none of it is missing.
fn alone(bytes: &[u8], header: ProxyHeader) {
    let own = &bytes[..header.length];
    for tail in [&b""[..], b"\r\n", b"PROXY ", &[0xff; 300]] {
        assert_eq!(parse(&[own, tail].concat()), ParsedHeader::Whole(header));
    }
    let short = &own[..own.len() - 1];
    assert!(matches!(parse(short), ParsedHeader::Partial), "{header:?} is whole without its end");
}

/// A backend is told the same.
fn told_on(read: ProxyHeader) {
    let Some((source, destination)) = read.ends else { return };
    let client = ProxiedClient { source, destination, secured: None, id: "an id".into() };
    let introduction = ConnectionOrigin::Client(client.into());
    let canonical = |end: SocketAddr| -> (IpAddr, u16) { (end.ip().to_canonical(), end.port()) };
    for version in [ProxyOut::V1, ProxyOut::V2(Tlvs::default()), ProxyOut::V2(Tlvs::ALL)] {
        let told = header(version, &introduction);
        let ParsedHeader::Whole(again) = parse(&told) else { panic!("{:?}", parse(&told)) };
        assert_eq!(again.length, told.len());
        let (from, to) = again.ends.expect("both ends");
        assert_eq!((canonical(from), canonical(to)), (canonical(source), canonical(destination)));
    }
}

//! Headers of both versions: good ones, bad ones, whatever a client may send, and how they come in.

use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::{
    config::{ProxyIn, ProxyOut, Tlv, Tlvs},
    error::FailureKind,
    net::tls::ClientCertificate,
};

/// Version 2 with everything that it can tell.
const V2: ProxyOut = ProxyOut::V2(Tlvs::ALL);

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Parsed::Whole(header) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

fn broken(bytes: &[u8]) -> &'static str {
    match parse(bytes) {
        Parsed::Broken(why) => why,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// A header of version 2 with whatever comes after its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, rest].concat()
}

/// 192.0.2.7:4711 to 198.51.100.1:443, with whatever TLVs.
fn tcp4(tlvs: &[u8]) -> Vec<u8> {
    let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    v2(0x21, 0x11, &[&ends[..], tlvs].concat())
}

fn client(source: &str, destination: &str) -> Introduced {
    let (source, destination) = (at(source), at(destination));
    Introduced { source, destination, secured: None, id: "r-1".into() }
}

fn introduced(client: Introduced) -> Introduction {
    Introduction::Client(Arc::new(client))
}

#[test]
fn lines_of_the_specification_are_read() {
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET /";
    let header = whole(line);
    assert_eq!(header.ends, Some((at("192.0.2.7:4711"), at("198.51.100.1:443"))));
    assert_eq!(header.length, line.len() - 5);
    let line = b"PROXY TCP6 2001:db8::7 ::1 65535 0\r\n";
    assert_eq!(whole(line).ends, Some((at("[2001:db8::7]:65535"), at("[::1]:0"))));
    let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    for unknown in [&b"PROXY UNKNOWN\r\n"[..], longest] {
        assert_eq!(whole(unknown), Header { length: unknown.len(), ends: None });
    }
}

#[test]
fn what_is_no_line_of_the_specification_is_broken() {
    let lines = [
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 04711 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +4711 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 \r\n",
        "PROXY TCP4 ::1 ::1 4711 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY TCP6 [::1] [::1] 4711 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
    ];
    for line in lines {
        broken(line.as_bytes());
    }
    broken(b"PROXY UNKNOWN \xff\r\n");
}

#[test]
fn a_line_has_107_bytes_at_most() {
    let line =
        |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
    assert_eq!(whole(&line(LONGEST_LINE)).length, LONGEST_LINE);
    assert_eq!(broken(&line(LONGEST_LINE + 1)), "its line is too long");
    assert_eq!(parse(&line(LONGEST_LINE)[..LONGEST_LINE - 1]), Parsed::Partial);
    broken(&line(LONGEST_LINE + 1)[..LONGEST_LINE]);
}

#[test]
fn every_family_of_version_2_is_read() {
    let ends = Some((at("192.0.2.7:4711"), at("198.51.100.1:443")));
    let bytes = tcp4(&[]);
    assert_eq!(whole(&bytes), Header { length: bytes.len(), ends });

    let mut six = at("[2001:db8::7]:0").ip().to_string().parse::<std::net::Ipv6Addr>().unwrap();
    let mut rest = six.octets().to_vec();
    six = std::net::Ipv6Addr::LOCALHOST;
    rest.extend(six.octets());
    rest.extend([0x12, 0x67, 0x01, 0xbb]);
    let ends = Some((at("[2001:db8::7]:4711"), at("[::1]:443")));
    assert_eq!(whole(&v2(0x21, 0x21, &rest)).ends, ends);

    assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])).ends, None, "paths are no addresses");
    assert_eq!(whole(&v2(0x21, 0x00, b"whatever")).ends, None, "the sender does not know");
    for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
        assert_eq!(whole(&v2(0x20, family, b"?")).ends, None, "a proxy's own, of {family:#x}");
    }
}

#[test]
fn what_version_2_does_not_have_is_broken_as_soon_as_it_is_seen() {
    let why = broken(&v2(0x22, 0x11, &[])[..13]);
    assert_eq!(why, "its command is neither LOCAL nor PROXY");
    assert_eq!(broken(&v2(0x11, 0x11, &[])[..13]), "its version is neither 1 nor 2");
    assert_eq!(broken(&v2(0x21, 0x41, &[])[..14]), "its address family is not known");
    assert_eq!(broken(&v2(0x21, 0x10, &[])[..14]), "its address family is not known");
    assert_eq!(broken(&v2(0x21, 0x12, &[])[..14]), "it speaks of datagrams");
    assert_eq!(broken(&v2(0x21, 0x11, &[0; 11])[..16]), "it is shorter than its addresses");
    assert_eq!(broken(&v2(0x21, 0x31, &[0; 215])[..16]), "it is shorter than its addresses");
    assert_eq!(broken(&v2(0x20, 0x00, &[0; MOST])[..16]), "it is too long");
    assert_eq!(whole(&v2(0x20, 0x00, &[0; MOST - FIXED])).length, MOST);
}

#[test]
fn tlvs_end_with_the_header() {
    let bytes = tcp4(b"\x02\0\x08app.test\x05\0\x02r9\x04\0\x03\0\0\0\xe7\0\0");
    assert_eq!(whole(&bytes).length, bytes.len());
    for overrun in [&b"\x02"[..], b"\x02\0", b"\x02\0\x01", b"\x02\0\x08app.tes", b"\x04\xff\xff"] {
        assert_eq!(broken(&tcp4(overrun)), "a TLV of it overruns its end");
    }
    let long = [&b"\x05\0\x81"[..], &[b'i'; 129]].concat();
    assert_eq!(broken(&tcp4(&long)), "its id is too long");
}

#[test]
fn a_checksum_is_held_against_the_header() {
    let good = header(V2, &introduced(client("192.0.2.7:1", "192.0.2.8:2")));
    whole(&good);
    // The fixed part is known by other rules, and what is no checksum any more is none that is wrong.
    let kind = good.len() - 7;
    for n in (FIXED..good.len()).filter(|n| *n != kind) {
        let mut bad = good.clone();
        bad[n] ^= 1;
        assert!(!matches!(parse(&bad), Parsed::Whole(_)), "byte {n}");
    }
    assert_eq!(broken(&tcp4(b"\x03\0\x03abc")), "its checksum is none");
    assert_eq!(broken(&tcp4(b"\x03\0\x04abcd")), "its checksum is wrong");
}

#[test]
fn what_begins_otherwise_is_no_header_and_what_may_be_one_is_waited_for() {
    for other in
        ["GET / HTTP/1.1", "PRI * HTTP/2.0", "PROPFIND /", "PROXX", "\x16\x03\x01", "\r\n\r\nG"]
    {
        assert_eq!(parse(other.as_bytes()), Parsed::Absent, "{other:?}");
    }
    for length in 0..6 {
        assert_eq!(parse(&b"PROXY "[..length]), Parsed::Undecided);
    }
    for length in 0..12 {
        assert_eq!(parse(&SIGNATURE[..length]), Parsed::Undecided);
    }
}

#[test]
fn headers_name_both_ends_in_one_family() {
    let line = |source, destination| {
        String::from_utf8(header(ProxyOut::V1, &introduced(client(source, destination)))).unwrap()
    };
    let four = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    assert_eq!(line("192.0.2.7:4711", "198.51.100.1:443"), four);
    assert_eq!(line("[::ffff:192.0.2.7]:4711", "[::ffff:198.51.100.1]:443"), four);
    let six = "PROXY TCP6 2001:db8::7 ::ffff:198.51.100.1 4711 443\r\n";
    assert_eq!(line("[2001:db8::7]:4711", "198.51.100.1:443"), six);
    let mixed = introduced(client("192.0.2.7:4711", "[2001:db8::1]:443"));
    for version in [ProxyOut::V1, V2] {
        let bytes = header(version, &mixed);
        let ends = (at("[::ffff:192.0.2.7]:4711"), at("[2001:db8::1]:443"));
        assert_eq!(whole(&bytes).ends, Some(ends));
    }
}

#[test]
fn our_own_connections_name_nobody() {
    assert_eq!(header(ProxyOut::V1, &Introduction::Local), b"PROXY UNKNOWN\r\n");
    assert_eq!(header(V2, &Introduction::Local), v2(0x20, 0x00, &[]));
}

#[test]
fn tls_is_told_in_tlvs() {
    let certificate = ClientCertificate {
        subject: "O=moorline,CN=ada".into(),
        common_name: Some("ada".into()),
        fingerprint: "ab".repeat(32).into(),
    };
    let secured = TlsInfo {
        sni: Some("app.test".into()),
        alpn: Some("http/1.1".into()),
        version: Some(("TLSv1.3", "TLS_AES_128_GCM_SHA256")),
        client: Some(certificate),
    };
    let with = |secured| {
        let secured = Some(Arc::new(secured));
        introduced(Introduced { secured, ..client("192.0.2.7:1", "192.0.2.8:2") })
    };
    let bytes = header(V2, &with(secured.clone()));
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
    assert!(has(b"\x05\0\x03r-1"));
    assert!(has(b"\x02\0\x08app.test") && has(b"\x01\0\x08http/1.1"));
    let inner = b"\x21\0\x07TLSv1.3\x23\0\x16TLS_AES_128_GCM_SHA256\x22\0\x03ada";
    let tls = [&b"\x20\0\x2e\x05\0\0\0\0"[..], inner].concat();
    assert_eq!(tls.len(), 3 + 0x2e);
    assert!(has(&tls), "{}", bytes.escape_ascii());
    assert!(has(b"\xe0\0\x11O=moorline,CN=ada") && has(b"\xe1\0\x40abab"));

    let nobody = TlsInfo { client: None, ..secured.clone() };
    let bytes = header(V2, &with(nobody));
    assert!(
        bytes.windows(8).any(|part| part == b"\x20\0\x28\x01\0\0\0\x01"),
        "nothing was verified"
    );

    // Nothing was terminated: what was offered is not agreed on, and the TLS is the backend's.
    let passed = TlsInfo { version: None, client: None, ..secured };
    let bytes = header(V2, &with(passed));
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
    assert!(has(b"\x02\0\x08app.test") && !has(b"http/1.1") && !has(b"TLS"));
}

#[test]
fn a_header_has_the_tlvs_that_are_wanted_and_no_others() {
    let certificate = ClientCertificate {
        subject: "CN=ada".into(),
        common_name: Some("ada".into()),
        fingerprint: "ab".repeat(32).into(),
    };
    let secured = TlsInfo {
        sni: Some("app.test".into()),
        alpn: Some("http/1.1".into()),
        version: Some(("TLSv1.3", "TLS_AES_128_GCM_SHA256")),
        client: Some(certificate),
    };
    let told = introduced(Introduced {
        secured: Some(Arc::new(secured)),
        ..client("[2001:db8::1]:1", "[2001:db8::2]:2")
    });
    let with = |tlvs: &[Tlv]| header(ProxyOut::V2(tlvs.iter().copied().collect()), &told);
    // No longer than the longest line of version 1, whatever is known of the client.
    let bare = with(&[]);
    assert_eq!(bare.len(), 52);
    assert_eq!(whole(&bare).length, 52);
    let after = |tlvs: &[Tlv]| with(tlvs)[52..].to_vec();
    assert_eq!(after(&[Tlv::UniqueId]), b"\x05\0\x03r-1");
    assert_eq!(after(&[Tlv::Authority]), b"\x02\0\x08app.test");
    assert_eq!(after(&[Tlv::Alpn]), b"\x01\0\x08http/1.1");
    assert_eq!(after(&[Tlv::Ssl]), b"\x20\0\x0f\x05\0\0\0\0\x21\0\x07TLSv1.3");
    assert!(after(&[Tlv::CertCn]).ends_with(b"\x21\0\x07TLSv1.3\x22\0\x03ada"));
    assert!(after(&[Tlv::SslCipher]).ends_with(b"\x23\0\x16TLS_AES_128_GCM_SHA256"));
    assert_eq!(after(&[Tlv::CertSubject]), b"\xe0\0\x06CN=ada");
    assert!(after(&[Tlv::CertFingerprint]).starts_with(b"\xe1\0\x40abab"));
    let summed = with(&[Tlv::Crc32c]);
    assert_eq!((summed.len(), &summed[52..55]), (59, &b"\x03\0\x04"[..]));
    assert_eq!(whole(&summed).length, 59, "the sum is right");
}

#[test]
fn a_header_is_short_whatever_it_tells() {
    let long: Box<str> = "x".repeat(60_000).into();
    let certificate = ClientCertificate {
        subject: long.clone(),
        common_name: Some(long.clone()),
        fingerprint: long.clone(),
    };
    let (sni, alpn) = (Some(long.clone()), Some(long.clone()));
    let secured =
        TlsInfo { sni, alpn, version: Some(("TLSv1.3", "suite")), client: Some(certificate) };
    let secured = Some(Arc::new(secured));
    let client = Introduced { secured, id: long, ..client("192.0.2.7:1", "192.0.2.8:2") };
    whole(&header(V2, &introduced(client)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        parse(&bytes);
        parse(&[&b"PROXY "[..], &bytes].concat());
        parse(&[&SIGNATURE[..], &bytes].concat());
        parse(&v2(0x21, 0x11, &bytes));
        parse(&v2(0x21, 0x21, &bytes));
    }

    #[test]
    fn what_is_built_is_read_back_and_no_beginning_of_it_is_taken_for_it(
        source: SocketAddr,
        destination: SocketAddr,
        v1: bool,
        id in "[!-~]{0,128}",
    ) {
        let version = if v1 { ProxyOut::V1 } else { V2 };
        let told = Introduced { source, destination, secured: None, id: id.as_str().into() };
        let bytes = header(version, &introduced(told));
        let read = whole(&bytes);
        prop_assert_eq!(read.length, bytes.len());
        let (from, to) = read.ends.unwrap();
        prop_assert_eq!(from.ip().to_canonical(), source.ip().to_canonical());
        prop_assert_eq!(to.ip().to_canonical(), destination.ip().to_canonical());
        prop_assert_eq!((from.port(), to.port()), (source.port(), destination.port()));
        let told = [&[0x05, 0, id.len() as u8], id.as_bytes()].concat();
        let tells = bytes.windows(told.len()).any(|part| part == told);
        prop_assert!(v1 || id.is_empty() || tells);
        for length in 0..bytes.len() {
            prop_assert!(matches!(parse(&bytes[..length]), Parsed::Undecided | Parsed::Partial));
        }
        let longer = [&bytes[..], b"\r\n\0PROXY"].concat();
        prop_assert_eq!(whole(&longer).length, bytes.len());
    }
}

const LONG: Duration = Duration::from_secs(20);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    (client, accepted.unwrap().0)
}

fn terms(required: bool, from: &str) -> ProxyIn {
    ProxyIn { required, from: vec![from.parse().unwrap()] }
}

async fn received(socket: &TcpStream, terms: &ProxyIn) -> Result<Option<Announced>, HeaderError> {
    let wait = Wait { deadline: Instant::now() + LONG, server_first: false };
    receive(socket, terms, socket.peer_addr().unwrap(), wait).await
}

/// What a required header, then the end, comes to.
async fn kind_of(bytes: &[u8], terms: &ProxyIn) -> FailureKind {
    let (mut client, socket) = pair().await;
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    received(&socket, terms).await.unwrap_err().kind()
}

#[tokio::test]
async fn exactly_the_header_is_taken_however_it_is_split() {
    let six = introduced(client("[2001:db8::7]:4711", "[::1]:443"));
    let lines = [header(ProxyOut::V1, &six), header(V2, &six)];
    for bytes in &lines {
        for split in 1..bytes.len() {
            let (mut client, mut socket) = pair().await;
            let (first, rest) = bytes.split_at(split);
            client.write_all(first).await.unwrap();
            let terms = terms(split % 2 == 0, "127.0.0.0/8");
            let sent = async {
                // By then the first piece has been looked at.
                tokio::task::yield_now().await;
                client.write_all(&[rest, b"GET"].concat()).await.unwrap();
            };
            let (announced, ()) = tokio::join!(received(&socket, &terms), sent);
            let announced = announced.unwrap().unwrap();
            assert_eq!(announced.source, at("[2001:db8::7]:4711"), "split at {split}");
            assert_eq!(announced.destination, at("[::1]:443"));
            let mut after = [0; 3];
            socket.read_exact(&mut after).await.unwrap();
            assert_eq!(&after, b"GET");
        }
    }
}

#[tokio::test]
async fn a_long_header_comes_in_byte_by_byte() {
    let bytes = tcp4(&[&b"\x04\x01\x00"[..], &[0; 256], b"\x05\0\x03abc"].concat());
    let (mut client, mut socket) = pair().await;
    let terms = terms(true, "127.0.0.1/32");
    let sent = async {
        for byte in &bytes {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let (announced, ()) = tokio::join!(received(&socket, &terms), sent);
    assert_eq!(announced.unwrap().unwrap().source, at("192.0.2.7:4711"));
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_is_taken_of_what_is_no_header() {
    let (mut client, mut socket) = pair().await;
    client.write_all(b"PRO").await.unwrap();
    let terms = terms(false, "127.0.0.1/32");
    let sent = async {
        tokio::task::yield_now().await;
        client.write_all(b"PFIND").await.unwrap();
    };
    let (announced, ()) = tokio::join!(received(&socket, &terms), sent);
    assert_eq!(announced.unwrap(), None);
    let mut all = [0; 8];
    socket.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"PROPFIND");
}

#[tokio::test]
async fn each_way_to_fail_has_its_kind() {
    let here = terms(true, "127.0.0.0/8");
    let elsewhere = terms(true, "192.0.2.0/24");
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    assert_eq!(kind_of(line, &elsewhere).await, FailureKind::Untrusted);
    assert_eq!(kind_of(b"GET /", &elsewhere).await, FailureKind::Untrusted);
    assert_eq!(kind_of(b"GET /", &here).await, FailureKind::Missing);
    assert_eq!(kind_of(b"", &here).await, FailureKind::Missing);
    assert_eq!(kind_of(b"PROXY TCP5 ", &here).await, FailureKind::Incomplete);
    assert_eq!(kind_of(b"PROXY TCP5 \r\n", &here).await, FailureKind::Malformed);
    assert_eq!(kind_of(&line[..20], &here).await, FailureKind::Incomplete);
    assert_eq!(kind_of(b"PRO", &here).await, FailureKind::Incomplete);
    let optional = ProxyIn { required: false, ..elsewhere };
    assert_eq!(kind_of(line, &optional).await, FailureKind::Untrusted);
    assert_eq!(kind_of(&tcp4(&[])[..12], &optional).await, FailureKind::Untrusted);
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_out_where_the_server_may_speak_first_and_fails_elsewhere() {
    let (mut client, socket) = pair().await;
    let peer = socket.peer_addr().unwrap();
    // Whom a peer would be believed by makes no difference.
    for from in ["127.0.0.0/8", "192.0.2.0/24"] {
        let begun = Instant::now();
        let wait = |server_first| Wait { deadline: Instant::now() + LONG, server_first };
        let optional = terms(false, from);
        assert_eq!(receive(&socket, &optional, peer, wait(true)).await.unwrap(), None);
        assert_eq!(begun.elapsed().as_secs(), GRACE.as_secs());
        let begun = Instant::now();
        let error = receive(&socket, &optional, peer, wait(false)).await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed().as_secs()),
            (FailureKind::TimedOut, LONG.as_secs())
        );
    }
    let required = terms(true, "127.0.0.0/8");
    for server_first in [false, true] {
        let begun = Instant::now();
        let wait = Wait { deadline: begun + LONG, server_first };
        let error = receive(&socket, &required, peer, wait).await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed().as_secs()),
            (FailureKind::TimedOut, LONG.as_secs())
        );
    }

    // What may be the beginning of one is waited for until the deadline.
    client.write_all(b"PRO").await.unwrap();
    socket.readable().await.unwrap();
    let wait = Wait { deadline: Instant::now() + LONG, server_first: true };
    let error = receive(&socket, &terms(false, "127.0.0.0/8"), peer, wait).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::TimedOut);
}

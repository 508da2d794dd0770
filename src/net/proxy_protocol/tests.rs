//! Headers of both versions: valid, invalid and arbitrary input, and reading them from a socket.

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

/// Version 2 with all TLVs.
const V2: ProxyOut = ProxyOut::V2(Tlvs::ALL);

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn whole(bytes: &[u8]) -> ProxyHeader {
    match parse(bytes) {
        ParsedHeader::Whole(header) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

fn broken(bytes: &[u8]) -> &'static str {
    match parse(bytes) {
        ParsedHeader::Broken(why) => why,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// A version 2 header with `rest` after its length field.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, rest].concat()
}

/// 192.0.2.7:4711 to 198.51.100.1:443, followed by `tlvs`.
fn tcp4(tlvs: &[u8]) -> Vec<u8> {
    let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    v2(0x21, 0x11, &[&ends[..], tlvs].concat())
}

fn client(source: &str, destination: &str) -> ProxiedClient {
    let (source, destination) = (at(source), at(destination));
    ProxiedClient { source, destination, secured: None, id: "r-1".into() }
}

fn from_client(client: ProxiedClient) -> ConnectionOrigin {
    ConnectionOrigin::Client(Arc::new(client))
}

#[test]
fn valid_version_1_lines_are_parsed() {
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET /";
    let header = whole(line);
    assert_eq!(header.ends, Some((at("192.0.2.7:4711"), at("198.51.100.1:443"))));
    assert_eq!(header.length, line.len() - 5);
    let line = b"PROXY TCP6 2001:db8::7 ::1 65535 0\r\n";
    assert_eq!(whole(line).ends, Some((at("[2001:db8::7]:65535"), at("[::1]:0"))));
    let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    for unknown in [&b"PROXY UNKNOWN\r\n"[..], longest] {
        assert_eq!(whole(unknown), ProxyHeader { length: unknown.len(), ends: None });
    }
}

#[test]
fn invalid_version_1_lines_are_rejected() {
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
fn version_1_line_is_limited_to_107_bytes() {
    let line =
        |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
    assert_eq!(whole(&line(LONGEST_LINE)).length, LONGEST_LINE);
    assert_eq!(broken(&line(LONGEST_LINE + 1)), "the line is too long");
    assert_eq!(parse(&line(LONGEST_LINE)[..LONGEST_LINE - 1]), ParsedHeader::Partial);
    broken(&line(LONGEST_LINE + 1)[..LONGEST_LINE]);
}

#[test]
fn every_version_2_family_is_parsed() {
    let ends = Some((at("192.0.2.7:4711"), at("198.51.100.1:443")));
    let bytes = tcp4(&[]);
    assert_eq!(whole(&bytes), ProxyHeader { length: bytes.len(), ends });

    let mut six = at("[2001:db8::7]:0").ip().to_string().parse::<std::net::Ipv6Addr>().unwrap();
    let mut rest = six.octets().to_vec();
    six = std::net::Ipv6Addr::LOCALHOST;
    rest.extend(six.octets());
    rest.extend([0x12, 0x67, 0x01, 0xbb]);
    let ends = Some((at("[2001:db8::7]:4711"), at("[::1]:443")));
    assert_eq!(whole(&v2(0x21, 0x21, &rest)).ends, ends);

    assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])).ends, None, "unix paths are not addresses");
    assert_eq!(whole(&v2(0x21, 0x00, b"whatever")).ends, None, "the sender does not know");
    for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
        assert_eq!(whole(&v2(0x20, family, b"?")).ends, None, "LOCAL with family {family:#x}");
    }
}

#[test]
fn invalid_version_2_fields_are_rejected_at_once() {
    let why = broken(&v2(0x22, 0x11, &[])[..13]);
    assert_eq!(why, "the command is not LOCAL or PROXY");
    assert_eq!(broken(&v2(0x11, 0x11, &[])[..13]), "the version is not 1 or 2");
    assert_eq!(broken(&v2(0x21, 0x41, &[])[..14]), "the address family is unknown");
    assert_eq!(broken(&v2(0x21, 0x10, &[])[..14]), "the address family is unknown");
    assert_eq!(broken(&v2(0x21, 0x12, &[])[..14]), "datagram protocols are not supported");
    let short = "the length is too small for the addresses";
    assert_eq!(broken(&v2(0x21, 0x11, &[0; 11])[..16]), short);
    assert_eq!(broken(&v2(0x21, 0x31, &[0; 215])[..16]), short);
    assert_eq!(broken(&v2(0x20, 0x00, &[0; MOST])[..16]), "the header is too long");
    assert_eq!(whole(&v2(0x20, 0x00, &[0; MOST - FIXED])).length, MOST);
}

#[test]
fn tlvs_must_end_with_the_header() {
    let bytes = tcp4(b"\x02\0\x08app.test\x05\0\x02r9\x04\0\x03\0\0\0\xe7\0\0");
    assert_eq!(whole(&bytes).length, bytes.len());
    for overrun in [&b"\x02"[..], b"\x02\0", b"\x02\0\x01", b"\x02\0\x08app.tes", b"\x04\xff\xff"] {
        assert_eq!(broken(&tcp4(overrun)), "a TLV extends beyond the end of the header");
    }
    let long = [&b"\x05\0\x81"[..], &[b'i'; 129]].concat();
    assert_eq!(broken(&tcp4(&long)), "the unique id is too long");
}

#[test]
fn checksum_is_verified() {
    let good = header(V2, &from_client(client("192.0.2.7:1", "192.0.2.8:2")));
    whole(&good);
    // The fixed part is validated separately, and a changed TLV type removes the checksum.
    let kind = good.len() - 7;
    for n in (FIXED..good.len()).filter(|n| *n != kind) {
        let mut bad = good.clone();
        bad[n] ^= 1;
        assert!(!matches!(parse(&bad), ParsedHeader::Whole(_)), "byte {n}");
    }
    assert_eq!(broken(&tcp4(b"\x03\0\x03abc")), "the checksum does not have 4 bytes");
    assert_eq!(broken(&tcp4(b"\x03\0\x04abcd")), "the checksum is wrong");
}

#[test]
fn other_bytes_are_not_a_header_and_a_prefix_is_undecided() {
    for other in
        ["GET / HTTP/1.1", "PRI * HTTP/2.0", "PROPFIND /", "PROXX", "\x16\x03\x01", "\r\n\r\nG"]
    {
        assert_eq!(parse(other.as_bytes()), ParsedHeader::Absent, "{other:?}");
    }
    for length in 0..6 {
        assert_eq!(parse(&b"PROXY "[..length]), ParsedHeader::Undecided);
    }
    for length in 0..12 {
        assert_eq!(parse(&SIGNATURE[..length]), ParsedHeader::Undecided);
    }
}

#[test]
fn both_addresses_have_one_family() {
    let line = |source, destination| {
        String::from_utf8(header(ProxyOut::V1, &from_client(client(source, destination)))).unwrap()
    };
    let four = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    assert_eq!(line("192.0.2.7:4711", "198.51.100.1:443"), four);
    assert_eq!(line("[::ffff:192.0.2.7]:4711", "[::ffff:198.51.100.1]:443"), four);
    let six = "PROXY TCP6 2001:db8::7 ::ffff:198.51.100.1 4711 443\r\n";
    assert_eq!(line("[2001:db8::7]:4711", "198.51.100.1:443"), six);
    let mixed = from_client(client("192.0.2.7:4711", "[2001:db8::1]:443"));
    for version in [ProxyOut::V1, V2] {
        let bytes = header(version, &mixed);
        let ends = (at("[::ffff:192.0.2.7]:4711"), at("[2001:db8::1]:443"));
        assert_eq!(whole(&bytes).ends, Some(ends));
    }
}

#[test]
fn local_connections_carry_no_addresses() {
    assert_eq!(header(ProxyOut::V1, &ConnectionOrigin::Local), b"PROXY UNKNOWN\r\n");
    assert_eq!(header(V2, &ConnectionOrigin::Local), v2(0x20, 0x00, &[]));
}

#[test]
fn tls_details_are_sent_as_tlvs() {
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
        from_client(ProxiedClient { secured, ..client("192.0.2.7:1", "192.0.2.8:2") })
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

    let without_certificate = TlsInfo { client: None, ..secured.clone() };
    let bytes = header(V2, &with(without_certificate));
    assert!(
        bytes.windows(8).any(|part| part == b"\x20\0\x28\x01\0\0\0\x01"),
        "no certificate was verified"
    );

    // TLS passthrough: offered protocols are not negotiated, and the backend terminates TLS.
    let passed = TlsInfo { version: None, client: None, ..secured };
    let bytes = header(V2, &with(passed));
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
    assert!(has(b"\x02\0\x08app.test") && !has(b"http/1.1") && !has(b"TLS"));
}

#[test]
fn header_has_only_the_configured_tlvs() {
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
    let client = from_client(ProxiedClient {
        secured: Some(Arc::new(secured)),
        ..client("[2001:db8::1]:1", "[2001:db8::2]:2")
    });
    let with = |tlvs: &[Tlv]| header(ProxyOut::V2(tlvs.iter().copied().collect()), &client);
    // Without TLVs the header is no longer than the longest line of version 1.
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
    assert_eq!(whole(&summed).length, 59, "the checksum must be right");
}

#[test]
fn header_length_is_bounded() {
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
    let client = ProxiedClient { secured, id: long, ..client("192.0.2.7:1", "192.0.2.8:2") };
    whole(&header(V2, &from_client(client)));
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        parse(&bytes);
        parse(&[&b"PROXY "[..], &bytes].concat());
        parse(&[&SIGNATURE[..], &bytes].concat());
        parse(&v2(0x21, 0x11, &bytes));
        parse(&v2(0x21, 0x21, &bytes));
    }

    #[test]
    fn built_headers_are_parsed_and_their_prefixes_are_not(
        source: SocketAddr,
        destination: SocketAddr,
        v1: bool,
        id in "[!-~]{0,128}",
    ) {
        let version = if v1 { ProxyOut::V1 } else { V2 };
        let client = ProxiedClient { source, destination, secured: None, id: id.as_str().into() };
        let bytes = header(version, &from_client(client));
        let read = whole(&bytes);
        prop_assert_eq!(read.length, bytes.len());
        let (from, to) = read.ends.unwrap();
        prop_assert_eq!(from.ip().to_canonical(), source.ip().to_canonical());
        prop_assert_eq!(to.ip().to_canonical(), destination.ip().to_canonical());
        prop_assert_eq!((from.port(), to.port()), (source.port(), destination.port()));
        let tlv = [&[0x05, 0, id.len() as u8], id.as_bytes()].concat();
        let has_id = bytes.windows(tlv.len()).any(|part| part == tlv);
        prop_assert!(v1 || id.is_empty() || has_id);
        for length in 0..bytes.len() {
            prop_assert!(matches!(parse(&bytes[..length]), ParsedHeader::Undecided | ParsedHeader::Partial));
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

async fn received(
    socket: &TcpStream,
    terms: &ProxyIn,
) -> Result<Option<ProxiedAddresses>, HeaderError> {
    let wait = HeaderWait { deadline: Instant::now() + LONG, server_first: false };
    receive(socket, terms, socket.peer_addr().unwrap(), wait).await
}

/// Sends `bytes`, closes, and returns the kind of the failure.
async fn kind_of(bytes: &[u8], terms: &ProxyIn) -> FailureKind {
    let (mut client, socket) = pair().await;
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    received(&socket, terms).await.unwrap_err().kind()
}

#[tokio::test]
async fn exactly_the_header_is_consumed_for_any_split() {
    let six = from_client(client("[2001:db8::7]:4711", "[::1]:443"));
    let lines = [header(ProxyOut::V1, &six), header(V2, &six)];
    for bytes in &lines {
        for split in 1..bytes.len() {
            let (mut client, mut socket) = pair().await;
            let (first, rest) = bytes.split_at(split);
            client.write_all(first).await.unwrap();
            let terms = terms(split % 2 == 0, "127.0.0.0/8");
            let sent = async {
                // The first piece has been inspected by now.
                tokio::task::yield_now().await;
                client.write_all(&[rest, b"GET"].concat()).await.unwrap();
            };
            let (addresses, ()) = tokio::join!(received(&socket, &terms), sent);
            let addresses = addresses.unwrap().unwrap();
            assert_eq!(addresses.source, at("[2001:db8::7]:4711"), "split at {split}");
            assert_eq!(addresses.destination, at("[::1]:443"));
            let mut after = [0; 3];
            socket.read_exact(&mut after).await.unwrap();
            assert_eq!(&after, b"GET");
        }
    }
}

#[tokio::test]
async fn long_header_arrives_byte_by_byte() {
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
    let (addresses, ()) = tokio::join!(received(&socket, &terms), sent);
    assert_eq!(addresses.unwrap().unwrap().source, at("192.0.2.7:4711"));
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn bytes_that_are_not_a_header_stay_in_the_socket() {
    let (mut client, mut socket) = pair().await;
    client.write_all(b"PRO").await.unwrap();
    let terms = terms(false, "127.0.0.1/32");
    let sent = async {
        tokio::task::yield_now().await;
        client.write_all(b"PFIND").await.unwrap();
    };
    let (addresses, ()) = tokio::join!(received(&socket, &terms), sent);
    assert_eq!(addresses.unwrap(), None);
    let mut all = [0; 8];
    socket.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"PROPFIND");
}

#[tokio::test]
async fn each_failure_has_its_kind() {
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
async fn silent_client_is_accepted_after_a_grace_period_only_if_the_server_may_send_first() {
    let (mut client, socket) = pair().await;
    let peer = socket.peer_addr().unwrap();
    // Trust in the peer makes no difference.
    for from in ["127.0.0.0/8", "192.0.2.0/24"] {
        let begun = Instant::now();
        let wait = |server_first| HeaderWait { deadline: Instant::now() + LONG, server_first };
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
        let wait = HeaderWait { deadline: begun + LONG, server_first };
        let error = receive(&socket, &required, peer, wait).await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed().as_secs()),
            (FailureKind::TimedOut, LONG.as_secs())
        );
    }

    // A possible beginning of a header is waited for until the deadline.
    client.write_all(b"PRO").await.unwrap();
    socket.readable().await.unwrap();
    let wait = HeaderWait { deadline: Instant::now() + LONG, server_first: true };
    let error = receive(&socket, &terms(false, "127.0.0.0/8"), peer, wait).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::TimedOut);
}

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::ServerName;

use super::*;

/// The first flight of a rustls client, with its post-quantum key share.
fn flight(name: &'static str, alpn: &[&str]) -> Vec<u8> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn list16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &list16(data)].concat()
}

fn name(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &list16(name)].concat()
}

fn names(list: &[Vec<u8>]) -> Vec<u8> {
    extension(SERVER_NAME, &list16(&list.concat()))
}

/// A handshake message with these extensions; `None` omits the extensions field.
fn handshake(extensions: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[0], &list16(&[0x13, 0x01]), &[1, 0]].concat();
    if let Some(extensions) = extensions {
        body.extend(list16(&extensions.concat()));
    }
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO][..], &length[1..], &body].concat()
}

fn records(message: &[u8], each: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[HANDSHAKE, 3, 1][..], &list16(piece)].concat();
    message.chunks(each).flat_map(record).collect()
}

fn with(extensions: &[Vec<u8>]) -> Peeked {
    read(&records(&handshake(Some(extensions)), MOST_RECORD))
}

fn hello(peeked: Peeked) -> ClientHello {
    match peeked {
        Peeked::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn sni(peeked: Peeked) -> Option<String> {
    hello(peeked).sni.map(String::from)
}

fn protocols_of(hello: &ClientHello) -> Vec<&[u8]> {
    hello.protocols().collect()
}

#[test]
fn real_client_hello_is_parsed_for_any_record_size() {
    let bytes = flight("Chat.Example.com", &["h2", "http/1.1"]);
    assert!(bytes.len() > 1200, "no post-quantum share in {} bytes", bytes.len());
    let whole = hello(read(&bytes));
    assert_eq!(whole.sni.as_deref(), Some("chat.example.com"));
    assert_eq!(protocols_of(&whole), [&b"h2"[..], b"http/1.1"]);
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]), Peeked::Incomplete, "{end}");
    }
    let message = &bytes[RECORD_HEADER..];
    for each in 1..message.len() {
        let cut = records(message, each);
        assert_eq!(read(&cut), Peeked::Hello(whole.clone()), "records of {each}");
        assert_eq!(read(&cut[..cut.len() - 1]), Peeked::Incomplete, "records of {each}");
    }
}

#[test]
fn bytes_after_the_message_are_ignored() {
    let mut bytes = flight("a.test", &[]);
    bytes.extend(b"\x17\x03\x03\x00\x05early");
    assert_eq!(sni(read(&bytes)).as_deref(), Some("a.test"));
}

#[test]
fn reserved_values_and_encrypted_hellos_are_skipped() {
    const ECH: u16 = 0xfe0d;
    let grease = extension(0x1a1a, b"");
    let alpn = extension(ALPN, &list16(b"\x02\x3a\x3a\x02h2"));
    let ech = extension(ECH, &[9; 300]);
    let outer = names(&[name(0, b"public.test")]);
    let found = hello(with(&[grease, ech, alpn, outer, extension(0x2a2a, b"\0")]));
    assert_eq!(found.sni.as_deref(), Some("public.test"));
    assert_eq!(found.first_protocol().as_deref(), Some("h2"));
    assert_eq!(protocols_of(&found).len(), 2);
}

#[test]
fn server_name_must_be_a_single_dns_name() {
    type Name<'n> = (u8, &'n [u8]);
    let cases: [(&[Name<'_>], Option<&str>); 12] = [
        (&[(0, b"A.test")], Some("a.test")),
        (&[(0, b"a.test.")], Some("a.test")),
        (&[(0, b"under_score.xn--bcher-kva.test")], Some("under_score.xn--bcher-kva.test")),
        (&[(7, b"\xff"), (0, b"a.test")], Some("a.test")),
        (&[(0, b"a.test"), (0, b"b.test")], None),
        (&[(0, b"a.test"), (0, b"\xff")], None),
        (&[(0, b"192.0.2.7")], None),
        (&[(0, b"2001:db8::7")], None),
        (&[(0, "b\u{fc}cher.test".as_bytes())], None),
        (&[(0, b"")], None),
        (&[(0, b".a..test")], None),
        (&[], None),
    ];
    for (list, expected) in cases {
        let list: Vec<_> = list.iter().map(|(kind, bytes)| name(*kind, bytes)).collect();
        assert_eq!(sni(with(&[names(&list)])).as_deref(), expected, "{list:?}");
    }
    let long = [b"a.".repeat(126), b"a".to_vec()].concat();
    assert_eq!(sni(with(&[names(&[name(0, &long)])])).map(|name| name.len()), Some(253));
    let longer = [b"a.".repeat(127), b"a".to_vec()].concat();
    assert_eq!(sni(with(&[names(&[name(0, &longer)])])), None);
}

#[test]
fn extensions_are_optional() {
    assert_eq!(hello(read(&records(&handshake(None), 9))), ClientHello::default());
    assert_eq!(hello(with(&[])), ClientHello::default());
    let many: Vec<_> = (1000..2500).map(|kind| extension(kind, b"")).collect();
    assert_eq!(hello(with(&many)), ClientHello::default());
}

#[test]
fn first_bytes_decide_that_it_is_not_tls() {
    for other in
        [&b"G"[..], b"GET / HTTP/1.1", b"\x80\x2e\x01", b"\x15\x03\x01", b"\x16\x02", b"\0"]
    {
        assert_eq!(read(other), Peeked::NotTls, "{other:?}");
    }
    assert_eq!(read(b""), Peeked::Incomplete);
}

#[test]
fn invalid_client_hellos_are_broken() {
    let message = handshake(Some(&[names(&[name(0, b"a.test")])]));
    let broken = |bytes: &[u8]| matches!(read(bytes), Peeked::Broken(_));
    let mut server = message.clone();
    server[0] = 2;
    assert!(broken(&records(&server, 40)[..RECORD_HEADER + 1]), "another message type");
    assert!(broken(b"\x16\x03\x01\x00\x00"), "an empty record");
    assert!(broken(b"\x16\x03\x01\x40\x01"), "a record that is too long");
    assert!(broken(b"\x16\x03\x01\x00\x04\x01\x00\x40\x01"), "a message that is too long");
    let two = records(&message, 40);
    for (at, why) in [(0, "an alert inside the message"), (1, "no TLS version")] {
        let mut other = two.clone();
        other[RECORD_HEADER + 40 + at] = 0x15;
        assert!(broken(&other), "{why}");
    }
    let alpn = |list: &[u8]| extension(ALPN, list);
    let one = || names(&[name(0, b"a.test")]);
    for extensions in [
        vec![one(), one()],
        vec![alpn(b"\0\x03\x02h2"), alpn(b"\0\x03\x02h2")],
        vec![alpn(b"\0\0")],
        vec![alpn(b"\0\x01\0")],
        vec![alpn(b"\0\x03\x03h2")],
        vec![alpn(b"\0\x03\x02h2x")],
        vec![extension(SERVER_NAME, b"\0\x05\0\0\x03a")],
        vec![extension(SERVER_NAME, b"")],
        vec![b"\0".to_vec()],
    ] {
        assert!(matches!(with(&extensions), Peeked::Broken(_)), "{extensions:?}");
    }
    for end in MESSAGE_HEADER..message.len() {
        let mut short = message[..end].to_vec();
        short[1..4].copy_from_slice(&(end as u32 - 4).to_be_bytes()[1..]);
        // Every length is invalid, except the one that ends where extensions may begin.
        let whole = end == handshake(None).len();
        assert_eq!(broken(&records(&short, MOST_RECORD)), !whole, "{end}");
    }
}

#[test]
fn oversized_client_hello_is_broken_before_it_is_complete() {
    let padding = extension(21, &vec![0; MOST - 100]);
    let long = handshake(Some(&[padding]));
    assert!(matches!(read(&records(&long, MOST_RECORD)), Peeked::Hello(_)));
    let crumbs = records(&long, 2);
    assert_eq!(read(&crumbs[..MOST_PEEKED - 1]), Peeked::Incomplete);
    assert!(matches!(read(&crumbs[..MOST_PEEKED]), Peeked::Broken(_)));
}

proptest! {
    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let framed = records(&[&[CLIENT_HELLO, 0, 1, 0][..], &bytes].concat(), 50);
        let _ = read(&framed);
    }

    /// A changed byte may or may not parse, but no prefix of a message parses as a complete one.
    #[test]
    fn changed_byte_is_handled(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = flight("a.example.com", &["h2"]);
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Peeked::Hello(hello) = read(&bytes) {
            hello.protocols().for_each(|protocol| assert!(!protocol.is_empty()));
            hello.first_protocol();
        }
    }
}

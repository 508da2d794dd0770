//! Compares the codec with what real servers and the npm parsers write.

use std::{borrow::Cow, fs, path::Path};

use proptest::prelude::*;

use super::{
    engine_io::{EngineIoError, Frame, Handshake, Packet},
    socket_io::{self, Kind},
};
use crate::scenario::Protocol;

/// `[message 2["é€😀"], ping probe, message 00 01 fe ff, noop]` as `engine.io-parser` 2.2.1 writes it,
/// with and without binary support.
const V3_BINARY: &[u8] =
    b"\x00\x01\x05\xff42[\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"]\x00\x06\xff2probe\x01\x05\xff\x04\x00\x01\xfe\xff\x00\x01\xff6";
const V3_TEXT: &str = "10:42[\"é€😀\"]6:2probe10:b4AAH+/w==1:6";
/// The same packets as `engine.io-parser` 5.2.3 writes them.
const V4: &str = "42[\"é€😀\"]\u{1e}2probe\u{1e}bAAH+/w==\u{1e}6";

fn packets() -> Vec<Packet<'static>> {
    vec![
        Packet::Text("2[\"é€😀\"]"),
        Packet::Ping("probe"),
        Packet::Binary(Cow::Borrowed(&[0, 1, 254, 255])),
        Packet::Noop,
    ]
}

fn frames() -> Vec<Frame> {
    vec![
        Frame::Text("42[\"é€😀\"]".to_owned()),
        Frame::Text("2probe".to_owned()),
        Frame::Binary(vec![0, 1, 254, 255]),
        Frame::Text("6".to_owned()),
    ]
}

#[test]
fn payloads_match_the_npm_parsers() {
    assert_eq!(Packet::from_payload(V3_BINARY, Protocol::V3).unwrap(), packets());
    assert_eq!(Packet::from_payload(V3_TEXT.as_bytes(), Protocol::V3).unwrap(), packets());
    assert_eq!(Packet::from_payload(V4.as_bytes(), Protocol::V4).unwrap(), packets());
    assert_eq!(Frame::payload(&frames(), Protocol::V3), (V3_BINARY.to_vec(), true));
    assert_eq!(Frame::payload(&frames(), Protocol::V4), (V4.into(), false));
    let texts: Vec<Frame> =
        frames().into_iter().filter(|frame| matches!(frame, Frame::Text(_))).collect();
    let expected = "10:42[\"é€😀\"]6:2probe1:6";
    assert_eq!(Frame::payload(&texts, Protocol::V3), (expected.into(), false));
}

/// Lines of the index of recordings, as `(name, status, content type, request)`.
fn recordings() -> Vec<(String, String, String, String)> {
    let index = fs::read_to_string(recorded("index.tsv")).unwrap();
    let lines = index.lines().map(|line| {
        let mut cells = line.split('\t').map(str::to_owned);
        let mut next = || cells.next().unwrap();
        (next(), next(), next(), next())
    });
    lines.collect()
}

fn recorded(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/engine_io").join(name)
}

#[test]
fn every_recorded_handshake_is_parsed() {
    let mut read = 0;
    for (name, status, _, request) in recordings() {
        let body = fs::read(recorded(&format!("{name}.body"))).unwrap();
        let protocol = if request.contains("EIO=3") { Protocol::V3 } else { Protocol::V4 };
        let packets = match status.as_str() {
            "101" => vec![Packet::from_text(std::str::from_utf8(&body).unwrap()).unwrap()],
            // JSONP is not supported.
            "200" if !request.contains("&j=") => Packet::from_payload(&body, protocol)
                .unwrap_or_else(|error| panic!("{name}: {error}")),
            _ => continue,
        };
        let Some(Packet::Open(data)) = packets.first() else { panic!("{name}: {packets:?}") };
        let handshake = Handshake::parse(data).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!handshake.sid.is_empty(), "{name}");
        // These servers offer an upgrade on polling, but not on WebSocket.
        let offered = handshake.upgrades.iter().any(|to| to == "websocket");
        match name.as_str() {
            "v4-polling" | "v2-polling" | "v4-eio3-polling" => assert!(offered, "{name}"),
            "v4-frame" | "v2-frame" | "v4-eio3-frame" => assert!(!offered, "{name}"),
            _ => {}
        }
        read += 1;
    }
    assert!(read >= 20, "only {read} recordings");
}

#[test]
fn every_recorded_error_is_parsed() {
    let mut read = 0;
    for (name, status, kind, request) in recordings() {
        // The errors of Python's servers have their own texts, without a code.
        if !matches!(status.as_str(), "400" | "403") || name.starts_with("python") {
            continue;
        }
        let body = fs::read(recorded(&format!("{name}.body"))).unwrap();
        let Some(error) = EngineIoError::parse(&body) else {
            assert!(kind.contains("html"), "{name} ({kind}) is not an Engine.IO error");
            continue;
        };
        assert_eq!(error.code == 1, request.contains("sid=nobody"), "{name}: {error}");
        read += 1;
    }
    assert!(read >= 15, "only {read} recordings");
}

#[test]
fn socket_io_packets_match_the_npm_parsers() {
    let bare = socket_io::Packet::bare;
    let placeholder = "[\"echo\",{\"_placeholder\":true,\"num\":0}]";
    let attached = "[{\"_placeholder\":true,\"num\":0},\"y\",{\"_placeholder\":true,\"num\":1}]";
    let cases = [
        ("0", bare(Kind::Connect)),
        (
            "0/admin,{\"token\":1}",
            socket_io::Packet { namespace: "/admin", data: "{\"token\":1}", ..bare(Kind::Connect) },
        ),
        ("2[\"echo\",\"x\"]", socket_io::Packet { data: "[\"echo\",\"x\"]", ..bare(Kind::Event) }),
        (
            "51-/a,12[\"echo\",{\"_placeholder\":true,\"num\":0}]",
            socket_io::Packet {
                attachments: 1,
                namespace: "/a",
                id: Some(12),
                data: placeholder,
                kind: Kind::Event,
            },
        ),
        (
            "62-0[{\"_placeholder\":true,\"num\":0},\"y\",{\"_placeholder\":true,\"num\":1}]",
            socket_io::Packet { attachments: 2, id: Some(0), data: attached, ..bare(Kind::Ack) },
        ),
        ("37[]", socket_io::Packet { id: Some(7), data: "[]", ..bare(Kind::Ack) }),
        ("1/a,", socket_io::Packet { namespace: "/a", ..bare(Kind::Disconnect) }),
        (
            "4{\"message\":\"no\"}",
            socket_io::Packet { data: "{\"message\":\"no\"}", ..bare(Kind::ConnectError) },
        ),
    ];
    for (text, packet) in cases {
        assert_eq!(socket_io::Packet::parse(text), Ok(packet), "{text}");
        let mut written = String::new();
        packet.write(&mut written);
        assert_eq!(written, text);
    }
    // Versions 1.x and 2.x omit the comma after a namespace without data.
    assert_eq!(socket_io::Packet::parse("0/a").unwrap().namespace, "/a");
}

#[test]
fn malformed_packets_are_rejected() {
    for body in ["", "5:4ab", ":4", "x:4", "1", "1:9", "3:b4!", "-1:4"] {
        assert!(Packet::from_payload(body.as_bytes(), Protocol::V3).is_err(), "{body}");
    }
    for body in [&b"\x00\x01"[..], b"\x00\x0a\xff4", b"\x02\x01\xff4", b"\x01\x01\xff\x03"] {
        assert!(Packet::from_payload(body, Protocol::V3).is_err(), "{body:?}");
    }
    for body in ["", "4a\u{1e}", "b!", "7"] {
        assert!(Packet::from_payload(body.as_bytes(), Protocol::V4).is_err(), "{body}");
    }
    for text in ["", "7", "5[]", "5x-[]", "50-[]", "511-[]", "299999999999999999999[]"] {
        assert!(socket_io::Packet::parse(text).is_err(), "{text}");
    }
    assert!(socket_io::Packet::parse("2{}").unwrap().arguments().is_err());
    assert!(Handshake::parse("{\"sid\":\"a\"}").is_err());
    let old = Handshake::parse("{\"sid\":\"a\",\"pingInterval\":1}").unwrap();
    assert_eq!(old.max_payload, usize::MAX);
    let text = br#"{"code":"1","message":"Session ID unknown"}"#;
    assert_eq!(EngineIoError::parse(text).map(|error| error.code), Some(1));
    assert_eq!(EngineIoError::parse(br#"{"code":"one","message":"no"}"#), None);
    assert_eq!(EngineIoError::parse(b"<html>Bad Gateway</html>"), None);
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        // A text cannot contain the separator: JSON escapes it.
        "4[^\u{1e}]{0,40}".prop_map(Frame::Text),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Frame::Binary),
    ]
}

proptest! {
    #[test]
    fn a_post_is_at_most_as_large_as_the_server_accepts(
        frames in prop::collection::vec(any_frame(), 1..20),
        limit in 0_usize..1000,
    ) {
        let fitting = Frame::fitting(&frames, limit);
        let size = |count: usize| Frame::payload(&frames[..count], Protocol::V4).0.len();
        prop_assert!(fitting == 1 || (fitting > 1 && size(fitting) <= limit));
        prop_assert!(fitting == frames.len() || size(fitting + 1) > limit);
    }
}

fn received(frame: &Frame) -> Packet<'_> {
    match frame {
        Frame::Text(text) => Packet::from_text(text).unwrap(),
        Frame::Binary(data) => Packet::Binary(data.into()),
    }
}

proptest! {
    #[test]
    fn payloads_round_trip(frames in prop::collection::vec(any_frame(), 1..8)) {
        for protocol in [Protocol::V3, Protocol::V4] {
            let (body, binary) = Frame::payload(&frames, protocol);
            prop_assert!(binary || std::str::from_utf8(&body).is_ok());
            let packets = Packet::from_payload(&body, protocol).unwrap();
            let expected: Vec<_> = frames.iter().map(received).collect();
            prop_assert_eq!(packets, expected);
        }
    }

    #[test]
    fn binary_frames_round_trip(data: Vec<u8>) {
        for protocol in [Protocol::V3, Protocol::V4] {
            let frame = Frame::binary(data.clone(), protocol);
            let packet = Packet::from_binary(&frame, protocol).unwrap();
            prop_assert_eq!(packet, Packet::Binary(data.as_slice().into()));
        }
    }

    #[test]
    fn socket_io_packets_round_trip(
        event: bool,
        attachments in 0_u32..=10,
        namespace in "(/|/[a-z]{1,8})",
        id: Option<u64>,
        data in "\\[[^\u{0}]{0,20}\\]",
    ) {
        let kind = if event { Kind::Event } else { Kind::Ack };
        let namespace = namespace.as_str();
        let packet = socket_io::Packet { kind, attachments, namespace, id, data: &data };
        let mut text = String::new();
        packet.write(&mut text);
        prop_assert_eq!(socket_io::Packet::parse(&text), Ok(packet));
    }

    #[test]
    fn parsers_do_not_panic(bytes: Vec<u8>, text: String) {
        for protocol in [Protocol::V3, Protocol::V4] {
            let _ = Packet::from_payload(&bytes, protocol);
            let _ = Packet::from_payload(text.as_bytes(), protocol);
            let _ = Packet::from_binary(&bytes, protocol);
        }
        let _ = Packet::from_text(&text);
        let _ = socket_io::Packet::parse(&text).map(|packet| packet.arguments().is_ok());
        let _ = (Handshake::parse(&text), EngineIoError::parse(&bytes));
    }
}

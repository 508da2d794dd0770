use super::*;

const LIMITS: HeadLimits = HeadLimits { size: 1024, fields: 10 };

fn parsed(bytes: impl AsRef<[u8]>) -> Result<RequestHead, HeadFault> {
    let mut input = Some(Buffer::of(bytes.as_ref()));
    RequestParser::default().parse(&mut input, LIMITS).map(|head| head.expect("a whole head"))
}

fn fault(bytes: impl AsRef<[u8]>) -> Option<HeadFault> {
    parsed(bytes).err()
}

fn with_fields(fields: &str) -> Result<RequestHead, HeadFault> {
    parsed(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

fn written(head: &RequestHead) -> String {
    let mut out = Buffer::new();
    head.write(&mut out, head.length(), None);
    String::from_utf8(out.filled().to_vec()).unwrap()
}

#[test]
fn a_request_is_written_as_it_was_read() {
    let text = "GET /a?b=1 HTTP/1.1\r\nhost: a\r\nX-Case: Kept\r\n\r\n";
    let head = parsed(text).unwrap();
    assert_eq!((head.method.as_str(), head.path(), head.query()), ("GET", "/a", Some("b=1")));
    assert_eq!(written(&head), text);
}

#[test]
fn a_target_is_forwarded_in_origin_form() {
    for (target, authority, path, forwarded) in [
        ("/x", None, "/x", "/x"),
        ("http://real.test/x?y", Some("real.test"), "/x", "/x?y"),
        ("HTTP://real.test", Some("real.test"), "/", "/"),
        ("https://real.test?y", Some("real.test"), "/", "/?y"),
        ("*", None, "*", "*"),
        ("ws://a/x", None, "ws://a/x", "ws://a/x"),
    ] {
        let head = parsed(format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap();
        assert_eq!((head.authority(), head.path()), (authority, path), "{target}");
        assert!(written(&head).starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{target}");
    }
}

#[test]
fn a_request_gets_another_target_and_keeps_the_rest() {
    let text =
        "POST /app/x?y=1 HTTP/1.0\r\nhost: a\r\nX-Odd:  spaced \r\nContent-Length: 3\r\n\r\n";
    let mut head = parsed(text).unwrap();
    head.head.remove_named(b"host");
    let head = head.with_target("/x?y=1").unwrap();
    assert_eq!((head.path(), head.query(), head.version), ("/x", Some("y=1"), HttpVersion::Http10));
    assert_eq!(head.length(), BodyLength::Exactly(3));
    assert_eq!(
        written(&head),
        "POST /x?y=1 HTTP/1.1\r\nX-Odd: spaced\r\nContent-Length: 3\r\n\r\n"
    );
    for (target, expected) in [
        ("/a b", HeadFault::TargetSpace),
        ("/a\r\nX:y", HeadFault::TargetCharacter),
        ("", HeadFault::TargetCharacter),
        (&"/".repeat(MOST_TARGET + 1), HeadFault::TargetTooLong),
    ] {
        let error = parsed("GET / HTTP/1.1\r\n\r\n").unwrap().with_target(target).err();
        assert_eq!(error, Some(expected), "{target:?}");
    }
}

#[test]
fn characters_of_browsers_and_apps_pass_in_a_target() {
    for target in ["/\"<>{}|^`[]\\", "/ü?\u{1f600}", "/a%20b"] {
        assert_eq!(parsed(format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap().target(), target);
    }
    for (target, fault) in [
        (&b"/a b"[..], HeadFault::TargetSpace),
        (b"/a#b", HeadFault::TargetCharacter),
        (b"/a\tb", HeadFault::TargetCharacter),
        (b"/a\x7f", HeadFault::TargetCharacter),
        (b"/\xff", HeadFault::TargetCharacter),
        (b"", HeadFault::TargetCharacter),
        (b"/a\rb", HeadFault::TargetCharacter),
    ] {
        let bytes = [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parsed(bytes).err(), Some(fault), "{target:?}");
    }
}

#[test]
fn other_protocols_are_recognized_by_their_first_bytes() {
    for (bytes, expected) in [
        (&b"\x16\x03\x01\x02"[..], HeadFault::Tls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadFault::Http2Preface),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", HeadFault::ProxyHeader),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", HeadFault::ProxyHeader),
        (b"GET /\r\n\r\n", HeadFault::Version),
        (b"GET /\r\n", HeadFault::Version),
        (b"GET / HTTP/2.0\r\nA", HeadFault::Version),
        (b"GET /a#b HTTP/1.1\r\n", HeadFault::TargetCharacter),
        (b"GET /\n", HeadFault::Version),
        (b"GET / HTTP/3.0\r\n\r\n", HeadFault::Version),
        (b"GET\r\n\r\n", HeadFault::Method),
        (b"(GET) / HTTP/1.1\r\n\r\n", HeadFault::Method),
        (b"\0abc", HeadFault::Method),
        (b"GET / HTTP/1.1\n", HeadFault::LineEnd),
        (b"GET / HTTP/1.1\r\nA: b\n", HeadFault::LineEnd),
    ] {
        assert_eq!(fault(bytes), Some(expected), "{bytes:?}");
    }
}

#[test]
fn a_head_is_limited_in_bytes_and_fields() {
    let long = "x".repeat(LIMITS.size);
    assert_eq!(fault(format!("GET /{long}")), Some(HeadFault::TargetTooLong));
    assert_eq!(fault(format!("GET / HTTP/1.1\r\nA: {long}")), Some(HeadFault::TooLarge));
    let fields = "A: b\r\n".repeat(LIMITS.fields + 1);
    assert_eq!(fault(format!("GET / HTTP/1.1\r\n{fields}\r\n")), Some(HeadFault::TooManyFields));
}

#[test]
fn any_split_of_the_bytes_gives_the_same_head_and_the_rest_stays() {
    let text = b"\r\n\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /b";
    for at in 0..text.len() {
        let mut parser = RequestParser::default();
        let mut input = Some(Buffer::of(&text[..at]));
        let mut head = parser.parse(&mut input, LIMITS).unwrap();
        let rest = input.get_or_insert_with(Buffer::new);
        rest.push(&text[at..]);
        if head.is_none() {
            head = parser.parse(&mut input, LIMITS).unwrap();
        }
        let head = head.unwrap();
        assert_eq!((head.path(), head.length()), ("/a", BodyLength::Exactly(3)));
        assert_eq!(input.unwrap().filled(), b"abcGET /b", "split at {at}");
    }
}

#[test]
fn a_body_has_one_length() {
    let length = |fields| with_fields(fields).map(|head| head.length());
    assert_eq!(length(""), Ok(BodyLength::Exactly(0)));
    assert_eq!(length("Content-Length: 9007199254740992\r\n"), Ok(BodyLength::Exactly(1 << 53)));
    assert_eq!(length("Transfer-Encoding:\tChunked \r\n"), Ok(BodyLength::Chunked));
    for (fields, fault) in [
        ("Content-Length: 3\r\nContent-Length: 4\r\n", HeadFault::ContentLengths),
        ("Content-Length: 42, 42\r\n", HeadFault::ContentLength),
        ("Content-Length: +5\r\n", HeadFault::ContentLength),
        ("Content-Length: -5\r\n", HeadFault::ContentLength),
        ("Content-Length: 0x5\r\n", HeadFault::ContentLength),
        ("Content-Length:\r\n", HeadFault::ContentLength),
        ("Content-Length: 9007199254740993\r\n", HeadFault::ContentLength),
        ("Content-Length: 99999999999999999999999\r\n", HeadFault::ContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadFault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", HeadFault::LengthAndCoding),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadFault::Coding),
        ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", HeadFault::Coding),
        ("Transfer-Encoding: xchunked\r\n", HeadFault::Codings),
        ("Transfer-Encoding: identity\r\n", HeadFault::Codings),
        ("Transfer-Encoding: chunked, chunked\r\n", HeadFault::Codings),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadFault::Codings),
        ("Transfer-Encoding: chunked, gzip\r\n", HeadFault::Codings),
        ("Transfer-Encoding: chunked,\r\n", HeadFault::Codings),
        ("Transfer-Encoding: ,chunked\r\n", HeadFault::Codings),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n", HeadFault::Codings),
        ("Transfer-Encoding:\r\n", HeadFault::Codings),
    ] {
        assert_eq!(length(fields), Err(fault), "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(fault(old), Some(HeadFault::CodingVersion));
}

#[test]
fn identical_lengths_are_merged() {
    let head = with_fields("Content-Length: 3\r\nContent-Length: 3\r\n").unwrap();
    assert_eq!(written(&head), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
}

#[test]
fn a_connection_is_kept_by_the_rules_of_the_version() {
    let keeps = |version, fields| {
        parsed(format!("GET / HTTP/{version}\r\n{fields}\r\n")).unwrap().keeps_alive()
    };
    assert!(keeps("1.1", "") && !keeps("1.1", "Connection: x, Close\r\n"));
    assert!(!keeps("1.0", "") && keeps("1.0", "Connection: Keep-Alive\r\n"));
}

#[test]
fn an_upgrade_and_a_chunked_body_are_announced() {
    let mut head = with_fields("Connection: Upgrade\r\nUpgrade: websocket\r\n").unwrap();
    head.strip_hop_by_hop(&[]);
    let mut out = Buffer::new();
    head.write(&mut out, BodyLength::Exactly(0), Some("websocket"));
    let text = "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(out.filled(), text.as_bytes());
    out.clear();
    head.write(&mut out, BodyLength::Chunked, None);
    assert!(out.filled().ends_with(b"Transfer-Encoding: chunked\r\n\r\n"));
    out.clear();
    head.write(&mut out, BodyLength::Exactly(7), None);
    assert!(out.filled().ends_with(b"Content-Length: 7\r\n\r\n"));
}

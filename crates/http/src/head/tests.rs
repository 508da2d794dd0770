use super::*;

const LIMIT: usize = 100;

fn head(fields: &str) -> Result<Head, HeadFault> {
    let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
    Head::parse(Buffer::of(text.as_bytes()), 16, LIMIT).map_err(|(fault, _)| fault)
}

fn written(head: &Head) -> String {
    let mut out = Buffer::new();
    head.write_fields(&mut out);
    String::from_utf8(out.filled().to_vec()).unwrap()
}

#[test]
fn fields_keep_their_bytes_and_are_found_by_name() {
    let text = "Host: a\r\nX-Odd:b \r\nCOOKIE:\t x=1; y=2\r\nempty:\r\nCookie: z\r\n";
    let head = head(text).unwrap();
    assert_eq!(
        written(&head),
        "Host: a\r\nX-Odd: b\r\nCOOKIE: x=1; y=2\r\nempty: \r\nCookie: z\r\n",
        "only the spaces around a value are not passed on"
    );
    assert_eq!(head.get(FieldId::Host), Some(&b"a"[..]));
    assert_eq!(head.all(FieldId::Cookie).collect::<Vec<_>>(), [&b"x=1; y=2"[..], b"z"]);
    assert_eq!(head.named("x-ODD").collect::<Vec<_>>(), [b"b"]);
    assert_eq!(head.named("empty").collect::<Vec<_>>(), [b""]);
    assert_eq!(head.only(FieldId::Cookie), None);
    assert_eq!(head.only(FieldId::Host), Some(&b"a"[..]));
    assert!(!head.has(FieldId::Upgrade) && head.get(FieldId::Upgrade).is_none());
}

#[test]
fn lists_are_read_over_all_lines() {
    let head = head("Connection: close , ,Upgrade\r\nconnection: x\r\n").unwrap();
    assert_eq!(
        head.tokens(FieldId::Connection).collect::<Vec<_>>(),
        [&b"close"[..], b"Upgrade", b"x"]
    );
    assert!(
        head.has_token(FieldId::Connection, "upgrade") && !head.has_token(FieldId::Connection, "y")
    );
}

#[test]
fn a_change_drops_a_field_or_appends_one() {
    let mut head = head("A: 1\r\nHost: a\r\nB: 2\r\nHost: b\r\nC: 3\r\n").unwrap();
    head.set(FieldId::Host, "c:80");
    head.remove_named(b"b");
    head.append_named("X-New", b"n");
    head.append_named("not a token", b"n");
    head.append(FieldId::Origin, b"a\r\nb: c");
    assert_eq!(written(&head), "A: 1\r\nC: 3\r\nHost: c:80\r\nX-New: n\r\n");
    assert_eq!(head.get(FieldId::Host), Some(&b"c:80"[..]));
    assert!(!head.has(FieldId::Origin));
    head.retain(|field| field.id != FieldId::Host);
    assert!(!head.has(FieldId::Host));
    assert_eq!(head.fields().count(), 3);
}

#[test]
fn invalid_fields_are_rejected() {
    for (line, fault) in [
        (" folded", HeadFault::Folded),
        ("A: b\r\n\tc", HeadFault::Folded),
        ("nothing", HeadFault::NoColon),
        ("Name : x", HeadFault::SpaceBeforeColon),
        (": x", HeadFault::Name),
        ("N(a)me: x", HeadFault::Name),
        ("Näme: x", HeadFault::Name),
        ("Name: a\0b", HeadFault::Value),
        ("Name: a\rb", HeadFault::Value),
        ("Name: a\u{7f}b", HeadFault::Value),
        ("A: b\nC: d", HeadFault::LineEnd),
    ] {
        assert_eq!(head(&format!("{line}\r\n")).err(), Some(fault), "{line:?}");
    }
    assert!(head("Name: ä\t\u{80}\r\n").is_ok());
    let many = "a: b\r\n".repeat(LIMIT);
    assert!(head(&many).is_ok());
    assert_eq!(head(&format!("{many}a: b\r\n")).err(), Some(HeadFault::TooManyFields));
}

#[test]
fn the_end_is_found_however_the_bytes_arrive() {
    let bytes = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n";
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            let mut scan = HeadScan::default();
            let ends = [first, second, bytes.len()].map(|end| scan.find(&bytes[..end]));
            let found = ends.into_iter().find_map(Result::transpose);
            assert_eq!(found, Some(Ok(24)));
        }
    }
    for bad in [&b"GET / HTTP/1.1\nA"[..], b"\n", b"G\r\nA: b\n", b"G\r\n\n"] {
        assert_eq!(HeadScan::default().find(bad), Err(HeadFault::LineEnd), "{bad:?}");
    }
}

#[test]
fn formatted_values_are_appended_or_left_out_whole() {
    let mut head = head("Host: a\r\nX-Real-IP: 6.6.6.6\r\n").unwrap();
    head.set_fmt(FieldId::XRealIp, format_args!("{}", std::net::Ipv4Addr::LOCALHOST));
    head.set_fmt(FieldId::XForwardedHost, format_args!("a\r\nX-Evil: {}", 1));
    head.set_fmt(FieldId::Other, format_args!("x"));
    head.set_fmt(FieldId::Host, format_args!("b:{}", 80));
    assert_eq!(written(&head), "X-Real-IP: 127.0.0.1\r\nHost: b:80\r\n");
    assert!(!head.has(FieldId::XForwardedHost));
    assert_eq!(head.get(FieldId::Host), Some(&b"b:80"[..]));
}

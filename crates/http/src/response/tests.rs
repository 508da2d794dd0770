use super::*;

const LIMITS: HeadLimits = HeadLimits { size: 1024, fields: 10 };
const CLIENT: ClientConnection<'_> =
    ClientConnection { version: HttpVersion::Http11, closes: false, upgrade: None };

fn parsed_for(method: &Method, text: &str) -> Result<ResponseHead, HeadFault> {
    let mut input = Some(Buffer::of(text.as_bytes()));
    let head = ResponseParser::default().parse(&mut input, LIMITS, method);
    head.map(|head| head.expect("a whole head"))
}

fn parsed(text: &str) -> Result<ResponseHead, HeadFault> {
    parsed_for(&Method::GET, text)
}

fn written(head: &ResponseHead, client: ClientConnection<'_>) -> String {
    let mut out = Buffer::new();
    head.write(&mut out, head.length(), client);
    String::from_utf8(out.filled().to_vec()).unwrap()
}

#[test]
fn a_response_is_written_as_it_was_read() {
    let text = "HTTP/1.1 200 Fine, thanks\r\nDate: x\r\nX-Case: Kept\r\nContent-Length: 3\r\n\r\n";
    let head = parsed(text).unwrap();
    assert_eq!(
        (head.status, head.length(), head.closes()),
        (StatusCode::OK, BodyLength::Exactly(3), false)
    );
    assert_eq!(written(&head, CLIENT), text);
    let old = ClientConnection { version: HttpVersion::Http10, ..CLIENT };
    assert!(written(&head, old).starts_with("HTTP/1.0 200 Fine"));
    assert!(written(&head, old).ends_with("Connection: keep-alive\r\n\r\n"));
    let closes = ClientConnection { closes: true, ..CLIENT };
    assert!(written(&head, closes).ends_with("Connection: close\r\n\r\n"));
}

#[test]
fn status_lines_without_a_reason_are_accepted_and_other_lines_are_not() {
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 599 x"] {
        assert!(parsed(&format!("{line}\r\n\r\n")).is_ok(), "{line}");
    }
    for line in [
        "HTTP/2 200",
        "HTTP/1.1 2000",
        "HTTP/1.1 2x0",
        "HTTP/1.1 20",
        "ICY 200 OK",
        "HTTP/1.1  200",
        "HTTP/1.1 200 a\0",
    ] {
        assert_eq!(parsed(&format!("{line}\r\n\r\n")).err(), Some(HeadFault::StatusLine), "{line}");
    }
    assert_eq!(parsed("<html>").err(), Some(HeadFault::StatusLine));
    assert_eq!(parsed("HTTP/1.1 200 OK\nA: b\r\n\r\n").err(), Some(HeadFault::LineEnd));
}

#[test]
fn the_length_of_the_body_follows_status_method_and_fields() {
    let length = |method, text: &str| {
        parsed_for(&method, &format!("HTTP/1.1 {text}\r\n\r\n")).map(|head| head.length())
    };
    assert_eq!(length(Method::GET, "200\r\nTransfer-Encoding: chunked"), Ok(BodyLength::Chunked));
    assert_eq!(length(Method::GET, "200"), Ok(BodyLength::UntilClose));
    for text in
        ["204", "304\r\nContent-Length: 5", "100", "103", "204\r\nTransfer-Encoding: chunked"]
    {
        assert_eq!(length(Method::GET, text), Ok(BodyLength::Exactly(0)), "{text}");
    }
    assert_eq!(length(Method::HEAD, "200\r\nContent-Length: 5"), Ok(BodyLength::Exactly(0)));
    for (fields, fault) in [
        ("Content-Length: 5\r\nContent-Length: 6", HeadFault::ContentLengths),
        ("Content-Length: x", HeadFault::ContentLength),
        ("Transfer-Encoding: gzip, chunked", HeadFault::Coding),
        ("Transfer-Encoding: identity", HeadFault::Codings),
        ("Transfer-Encoding: chunked, chunked", HeadFault::Codings),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", HeadFault::Codings),
    ] {
        assert_eq!(length(Method::GET, &format!("200\r\n{fields}")), Err(fault), "{fields}");
    }
    let old = parsed("HTTP/1.0 200\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.err(), Some(HeadFault::CodingVersion));
}

#[test]
fn chunked_beats_a_length_and_the_connection_is_not_used_again() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut head = parsed(text).unwrap();
    assert!(head.closes());
    head.strip_hop_by_hop();
    let written = written(&head, CLIENT);
    assert!(!written.contains("Content-Length") && written.contains("Transfer-Encoding: chunked"));
}

#[test]
fn a_connection_is_kept_by_the_rules_of_the_version() {
    let closes =
        |text: &str| parsed(&format!("HTTP/{text}\r\nContent-Length: 0\r\n\r\n")).unwrap().closes();
    assert!(!closes("1.1 200") && closes("1.1 200\r\nConnection: close"));
    assert!(closes("1.0 200") && !closes("1.0 200\r\nConnection: keep-alive"));
    assert!(
        parsed("HTTP/1.1 200 OK\r\n\r\n").unwrap().closes(),
        "the body ends with the connection"
    );
}

#[test]
fn own_responses_have_a_date_and_their_fields() {
    let mut head = ResponseHead::new(StatusCode::NOT_FOUND);
    head.head.set(FieldId::ContentType, "text/plain");
    let mut out = Buffer::new();
    head.write(&mut out, BodyLength::Exactly(4), CLIENT);
    let text = std::str::from_utf8(out.filled()).unwrap();
    let (before, date) = text.split_once("Date: ").unwrap();
    assert_eq!(
        before,
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n"
    );
    assert_eq!(date.len(), 29 + 4);
}

#[test]
fn interim_responses_and_switches_have_their_fields() {
    let mut hints =
        parsed("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: x\r\n\r\n").unwrap();
    assert!(hints.is_interim());
    hints.strip_hop_by_hop();
    assert_eq!(written(&hints, CLIENT), "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nDate: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let mut switch = parsed(switch).unwrap();
    assert!(!switch.is_interim());
    switch.strip_hop_by_hop();
    let client = ClientConnection { upgrade: Some("websocket"), ..CLIENT };
    assert!(
        written(&switch, client).ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    );
}

//! Conditions of routes.

use moorline_http::{Buffer, HeadLimits, RequestParser};

use super::*;

fn request(head: &str) -> RequestHead {
    let mut input = Some(Buffer::of(head.as_bytes()));
    let limits = HeadLimits { size: 1 << 20, fields: 100 };
    RequestParser::default().parse(&mut input, limits).unwrap().unwrap()
}

/// The first condition that a request from 192.0.2.7 does not meet.
fn unmet(config: RouteConditions, head: &str) -> Option<UnmetCondition> {
    let request = request(head);
    let path = crate::config::path::normal(request.path());
    let facts = RouteFacts {
        request: &request,
        path: &path,
        host: "a.test",
        upgrade: false,
        client: "::ffff:192.0.2.7".parse().unwrap(),
        secure: false,
        certificate: None,
    };
    Conditions::new(&config).unwrap().unmet(&facts)
}

fn text(kind: TextKind, name: &str, text: TextCondition) -> RouteConditions {
    let mut config = RouteConditions::default();
    match kind {
        TextKind::Header => &mut config.headers,
        TextKind::Query => &mut config.query,
        TextKind::Cookie => &mut config.cookies,
    }
    .push((name.to_owned(), text));
    config
}

fn one_of(texts: &[&str]) -> TextCondition {
    TextCondition::OneOf(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn texts_are_compared_as_they_are_meant() {
    let head = "GET /x?a=1&b=%7e+&b=2&c HTTP/1.1\r\nHost: a.test\r\nX-Beta: no\r\nx-beta: yes\r\n\
                Cookie: group=b; other=\"1\"\r\nCookie: last=2\r\n\r\n";
    let prefix = |text: &str| TextCondition::Prefix(text.to_owned());
    let pattern = |text: &str| TextCondition::Pattern(text.to_owned());
    use TextKind::{Cookie, Header, Query};
    for (kind, name, condition, expected) in [
        (Header, "X-BETA", one_of(&["yes"]), true),
        (Header, "X-Beta", one_of(&["Yes", "ye"]), false),
        (Header, "X-Beta", TextCondition::Present, true),
        (Header, "X-Beta", TextCondition::Absent, false),
        (Header, "X-Other", TextCondition::Absent, true),
        (Header, "X-Beta", prefix("ye"), true),
        (Header, "X-Beta", pattern("y|yes"), true),
        (Header, "X-Beta", pattern("ye"), false),
        (Query, "b", one_of(&["~ "]), true),
        (Query, "b", one_of(&["2"]), true),
        (Query, "c", one_of(&[""]), true),
        (Query, "B", TextCondition::Present, false),
        (Cookie, "group", one_of(&["a", "b"]), true),
        (Cookie, "last", TextCondition::Present, true),
        (Cookie, "Last", TextCondition::Present, false),
    ] {
        let found = unmet(text(kind, name, condition.clone()), head);
        assert_eq!(found.is_none(), expected, "{name} {condition:?}: {found:?}");
    }
}

#[test]
fn every_condition_has_to_be_met() {
    let config = RouteConditions {
        methods: vec!["GET".to_owned()],
        client: vec!["192.0.2.0/24".parse().unwrap()],
        expression: Some("request.headers['x'] == '1' && client.ip == '192.0.2.7'".to_owned()),
        ..text(TextKind::Query, "a", TextCondition::Present)
    };
    let check = |head: &str| unmet(config.clone(), head);
    assert_eq!(check("GET /?a HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"), None);
    let post = "POST /?a HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n";
    assert_eq!(check(post), Some(UnmetCondition::Method));
    let other = UnmetCondition::Text(TextKind::Query, "a".into());
    assert_eq!(check("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(other));
    let missing = check("GET /?a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(missing, Some(UnmetCondition::NotEvaluated(_))), "{missing:?}");
    let repeated = check("GET /?a HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n");
    assert_eq!(repeated, Some(UnmetCondition::Expression));
    let client = RouteConditions { client: vec!["10.0.0.0/8".parse().unwrap()], ..config.clone() };
    assert_eq!(unmet(client, "GET /?a HTTP/1.1\r\nHost: a\r\n\r\n"), Some(UnmetCondition::Client));
}

#[test]
fn a_certificate_is_compared_with_its_identity() {
    let certificate = ClientCertificate {
        subject: "CN=client,O=Moorline".into(),
        common_name: None,
        fingerprint: "ab".repeat(32).into(),
    };
    let identity = |subject: Option<TextCondition>, fingerprint: Option<&str>| {
        CertificateCondition::Identity {
            subject,
            fingerprints: fingerprint.map(|text| text.repeat(32)).into_iter().collect(),
        }
    };
    let prefix = Some(TextCondition::Prefix("CN=client,".to_owned()));
    for (condition, with, without) in [
        (CertificateCondition::Present, true, false),
        (CertificateCondition::Absent, false, true),
        (identity(prefix.clone(), None), true, false),
        (identity(prefix.clone(), Some("ab")), true, false),
        (identity(prefix, Some("cd")), false, false),
        (identity(Some(one_of(&["CN=client"])), None), false, false),
        (identity(None, Some("ab")), true, false),
    ] {
        let config =
            RouteConditions { certificate: Some(condition.clone()), ..RouteConditions::default() };
        let conditions = Conditions::new(&config).unwrap();
        let certificate_match = conditions.certificate.unwrap();
        assert_eq!(certificate_match.is_met(Some(&certificate)), with, "{condition:?}");
        assert_eq!(certificate_match.is_met(None), without, "{condition:?}");
    }
}

#[test]
fn a_template_matches_whole_paths_in_every_spelling() {
    for (path, expected) in [
        ("/rooms/7", true),
        ("//r%6foms/7", true),
        // Routes look the other reading up, too, and refuse a request with two answers.
        ("/rooms%2F7", false),
        ("/rooms/a%20b", true),
        ("/rooms/", false),
        ("/rooms/7/x", false),
        ("/Rooms/7", false),
    ] {
        let path_condition = RouteConditions {
            path: Some("/rooms/{room}".to_owned()),
            ..RouteConditions::default()
        };
        let found = unmet(path_condition, &format!("GET {path}?x HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(found, (!expected).then_some(UnmetCondition::Path), "{path}");
    }
}

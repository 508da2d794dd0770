use proptest::prelude::*;

use super::{
    claims::{address, is_tls, port_of},
    *,
};
use crate::{
    observe::ForwardingFault,
    proxy::{testing::request, validate},
};

fn head(fields: &[(&str, &str)]) -> Head {
    let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    request(&format!("GET / HTTP/1.1\r\n{}", lines.collect::<String>())).head
}

fn value(head: &Head, name: &str) -> String {
    let values: Vec<_> = head.named(name).map(String::from_utf8_lossy).collect();
    values.join("|")
}

fn claims(fields: &[(&str, &str)]) -> Box<ForwardedClaims> {
    ForwardedClaims::read(&head(fields)).unwrap()
}

fn origin(
    peer: SocketAddr,
    trusted: bool,
    certificate: Option<&ClientCertificate>,
) -> ForwardingContext<'_> {
    let client = peer.ip();
    ForwardingContext {
        peer,
        trusted,
        claims: None,
        client,
        forwarded_always: false,
        tls: true,
        certificate,
        hops: 0,
        host: "",
        id: "1",
    }
}

#[test]
fn only_the_certificate_identifies_a_client() {
    let ada = ClientCertificate {
        subject: "CN=ada".into(),
        common_name: None,
        fingerprint: "f00d".into(),
    };
    let peer = "192.0.2.7:5".parse().unwrap();
    let claims = [
        ("x-client-cert-subject", "CN=eve"),
        ("x_client_cert_subject", "CN=eve"),
        ("x-client-cert-fingerprint", "666"),
        ("x-client-cert-other", "1"),
    ];
    let sent = |trusted, certificate| {
        let mut head = head(&claims);
        add_forwarding(&mut head, &origin(peer, trusted, certificate));
        let sent = head.fields().filter(|field| begins(field.name, b"x-client-cert"));
        let text = sent.map(|field| String::from_utf8_lossy(field.value).into_owned());
        text.collect::<Vec<_>>()
    };
    for trusted in [false, true] {
        assert_eq!(sent(trusted, None), [""; 0], "a trusted peer may not know these fields");
        assert_eq!(sent(trusted, Some(&ada)), ["CN=ada", "f00d"]);
    }
}

#[test]
fn connection_cannot_remove_the_count_of_hops() {
    let text = "GET / HTTP/1.1\r\nConnection: X-Moorline-Hops, X-Custom\r\nX-Custom: 1\r\nX-Moorline-Hops: 3\r\n";
    let mut request = request(text);
    strip(&mut request);
    let names: Vec<_> = request.head.fields().map(|field| field.name).collect();
    assert_eq!(names, [b"X-Moorline-Hops"]);
}

#[test]
fn fields_of_an_untrusted_peer_and_their_aliases_are_replaced() {
    let mut sent = head(&[
        ("X-Client-Cert-Subject", "CN=eve"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("X-FORWARDED-For", "6.6.6.6"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X_Real-Ip", "6.6.6.6"),
        ("X-Request-Id", "forged"),
        ("X-Request_Id", "forged"),
        ("X-Forwarded", "kept"),
    ]);
    let peer = "[::ffff:192.0.2.7]:5".parse().unwrap();
    let origin = ForwardingContext { host: "chat.test:444", ..origin(peer, false, None) };
    let dropped = add_forwarding(&mut sent, &origin);
    assert_eq!(dropped.as_deref(), Some("x-forwarded-for"), "an alias is not reported");
    let fields = [
        ("X-Forwarded", "kept"),
        ("X-Real-IP", "192.0.2.7"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "chat.test:444"),
        ("X-Forwarded-Port", "444"),
        ("X-Moorline-Hops", "1"),
        ("X-Request-Id", "1"),
    ];
    let is = |(field, (name, value)): (Field<'_>, (&str, &str))| {
        field.name == name.as_bytes() && field.value == value.as_bytes()
    };
    assert!(sent.fields().zip(fields).all(is) && sent.fields().count() == 8, "{sent:?}");
    assert_eq!(add_forwarding(&mut head(&[]), &origin), None);
}

#[test]
fn fields_of_a_trusted_peer_stay_without_their_aliases() {
    let mut sent = head(&[
        ("X-Forwarded-For", "192.0.2.1"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("X-Forwarded-Prefix", "/app"),
    ]);
    let claims = ForwardedClaims::read(&sent);
    let peer = "10.0.0.1:5".parse().unwrap();
    let client = "192.0.2.1".parse().unwrap();
    let claims = claims.as_deref();
    let origin = ForwardingContext { claims, client, ..origin(peer, true, None) };
    assert_eq!(add_forwarding(&mut sent, &origin), None);
    assert_eq!(value(&sent, "x-forwarded-for"), "192.0.2.1, 10.0.0.1");
    assert_eq!(value(&sent, "x-real-ip"), "192.0.2.1");
    assert_eq!(value(&sent, "x-forwarded-prefix"), "/app");
    assert_eq!(value(&sent, "x_forwarded_for"), "");
}

#[test]
fn forwarded_is_sent_on_request_even_to_the_first_proxy() {
    let mut sent = head(&[]);
    let peer = "[2001:db8::7]:5".parse().unwrap();
    let origin = ForwardingContext {
        forwarded_always: true,
        host: "chat.test:444",
        ..origin(peer, false, None)
    };
    add_forwarding(&mut sent, &origin);
    let expected = "for=\"[2001:db8::7]\";proto=https;host=\"chat.test:444\"";
    assert_eq!(value(&sent, "forwarded"), expected);
}

#[test]
fn hops_are_counted_up_to_a_limit() {
    let mut counted = head(&[]);
    for before in 0..MAX_HOPS {
        assert_eq!(hops(&counted), Some(before));
        count_hop(&mut counted, before);
    }
    assert_eq!(hops(&counted), None);
    assert_eq!(hops(&head(&[("x-moorline-hops", "x"), ("X-Moorline-Hops", "7")])), Some(7));
}

#[test]
fn trailers_cannot_set_the_proxys_own_fields() {
    for name in ["x-moorline-hops", "x-client-cert-subject", "x-client-cert-"] {
        assert!(is_forbidden_trailer(name.as_bytes()), "{name}");
    }
    assert!(!is_forbidden_trailer(b"x-checksum") && !is_forbidden_trailer(b"x-client"));
}

#[test]
fn addresses_are_read_in_every_form() {
    for (text, expected) in [
        ("192.0.2.1", Some(("192.0.2.1", None))),
        ("192.0.2.1:80", Some(("192.0.2.1", Some(80)))),
        ("\"192.0.2.1:80\"", Some(("192.0.2.1", Some(80)))),
        ("2001:DB8::1", Some(("2001:db8::1", None))),
        ("[2001:db8::1]", Some(("2001:db8::1", None))),
        ("[2001:db8::1]:80", Some(("2001:db8::1", Some(80)))),
        ("[fe80::1%eth0]:80", Some(("fe80::1", Some(80)))),
        ("::ffff:192.0.2.1", Some(("192.0.2.1", None))),
        ("192.0.2.1:_port", Some(("192.0.2.1", None))),
        ("192.0.2.1:", None),
        ("192.0.2.1:99999", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]x", None),
        ("unknown", None),
        ("", None),
        (":80", None),
    ] {
        let expected = expected.map(|(ip, port)| (ip.parse().unwrap(), port));
        assert_eq!(address(text), expected, "{text}");
    }
}

#[test]
fn the_client_is_the_nearest_address_that_is_not_trusted() {
    let peer: SocketAddr = "10.0.0.1:5".parse().unwrap();
    let trusts = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 10);
    let of = |chain| claims(&[("x-forwarded-for", chain)]).client(peer, trusts).address.to_string();
    assert_eq!(of("6.6.6.6, 192.0.2.1, 10.0.0.2"), "192.0.2.1:0");
    assert_eq!(of("10.0.0.3, 10.0.0.2:7"), "10.0.0.3:0");
    assert_eq!(of("192.0.2.1, garbage"), "10.0.0.1:5");
    assert_eq!(of("192.0.2.1, unknown, 10.0.0.2"), "10.0.0.2:0");
}

#[test]
fn a_field_that_violates_the_grammar_is_ignored() {
    for bad in ["for", "for=", "for=\"a", "for=a;for=b", "for=a b", "=a", "for=a,;x", "f r=a"] {
        let claims = claims(&[("forwarded", bad)]);
        assert_eq!(claims.fault(), Some(ForwardingFault::Unreadable("Forwarded")), "{bad}");
        assert_eq!(claims.nodes, [], "{bad}");
    }
    for good in ["for=a, , for=b", "for=192.0.2.1;", ";for=_a", "for=_a ; by=_b", "x=\"\""] {
        assert_eq!(claims(&[("forwarded", good)]).fault(), None, "{good}");
    }
}

#[test]
fn invalid_values_are_skipped_and_reported() {
    for (name, shown, bad) in [
        ("x-forwarded-proto", "X-Forwarded-Proto", "ht tp"),
        ("x-forwarded-host", "X-Forwarded-Host", "a/b"),
        ("x-forwarded-port", "X-Forwarded-Port", "0"),
        ("x-forwarded-for", "X-Forwarded-For", "me"),
    ] {
        assert_eq!(claims(&[(name, bad)]).fault(), Some(ForwardingFault::Unreadable(shown)));
    }
}

#[test]
fn families_contradict_each_other_if_a_value_differs() {
    let x = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
    for (forwarded, contradicts) in [
        ("for=192.0.2.1;proto=https", false),
        ("for=\"192.0.2.1:80\"", false),
        ("proto=HTTPS", false),
        ("for=192.0.2.2", true),
        ("for=192.0.2.1, for=192.0.2.2", true),
        ("for=192.0.2.1;proto=http", true),
        ("for=unknown", true),
    ] {
        let claimed = claims(&[x[0], x[1], ("forwarded", forwarded)]);
        let fault = contradicts.then_some(ForwardingFault::Contradiction);
        assert_eq!(claimed.fault(), fault, "{forwarded}");
    }
    let host = [("x-forwarded-host", "a.test"), ("x-forwarded-port", "8443")];
    let with = |claimed| claims(&[host[0], host[1], ("forwarded", claimed)]).fault();
    assert_eq!(with("host=\"A.test:8443\""), None);
    assert_eq!(with("host=\"a.test:443\""), Some(ForwardingFault::Contradiction));
}

/// Parses one family of the written fields, as a backend that trusts this proxy would.
fn as_read(written: &Head, family: &[FieldId]) -> (Vec<Option<IpAddr>>, Option<Box<str>>, String) {
    let fields = written.fields().filter(|field| family.contains(&field.id));
    let fields = fields.map(|f| (f.id.name(), std::str::from_utf8(f.value).unwrap()));
    let claims = ForwardedClaims::read(&head(&fields.collect::<Vec<_>>())).unwrap();
    let nodes = claims.nodes.iter().map(|node| node.address.map(|(ip, _)| ip)).collect();
    let proto = claims.proto.first().cloned();
    let host = claims.host.first().cloned().unwrap_or_default();
    let usual = if proto.as_deref().is_some_and(is_tls) { 443 } else { 80 };
    let port = claims.port.first().copied().or(port_of(&host)).unwrap_or(usual);
    (nodes, proto, format!("{}:{port}", validate::without_port(&host)))
}

const X_FORWARDED: [FieldId; 4] = [
    FieldId::XForwardedFor,
    FieldId::XForwardedProto,
    FieldId::XForwardedHost,
    FieldId::XForwardedPort,
];

proptest! {
    #[test]
    fn both_families_are_written_with_equal_values(
        nodes in prop::collection::vec("(192\\.0\\.2\\.[1-3](:[1-9]{1,3})?|\\[2001:db8::[1-3]\\]|unknown|junk)", 0..4),
        protos in prop::collection::vec("(https?|wss|HTTP|!)", 0..4),
        hosts in prop::collection::vec("[ab]\\.test(:8[0-9]{1,3})?", 0..3),
        ports in prop::collection::vec("[1-9][0-9]{0,3}", 0..3),
        forwarded in prop::option::of("(for=192\\.0\\.2\\.[1-3](;proto=https?)?(;host=[ab]\\.test)?(, )?){1,3}"),
    ) {
        let (nodes, protos) = (nodes.join(", "), protos.join(","));
        let (hosts, ports) = (hosts.join(", "), ports.join(", "));
        let mut fields = Vec::new();
        for (name, text) in [
            ("x-forwarded-for", &nodes),
            ("x-forwarded-proto", &protos),
            ("x-forwarded-host", &hosts),
            ("x-forwarded-port", &ports),
        ] {
            if !text.is_empty() {
                fields.push((name, text.as_str()));
            }
        }
        if let Some(forwarded) = &forwarded {
            fields.push(("forwarded", forwarded));
        }
        let mut written = head(&fields);
        let claims = ForwardedClaims::read(&written);
        let peer: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let own = OwnHop { peer: peer.ip(), tls: false, host: "own.test" };
        write::write(&mut written, claims.as_deref(), own, peer.ip(), true);
        let x = as_read(&written, &X_FORWARDED);
        let f = as_read(&written, &[FieldId::Forwarded]);
        prop_assert_eq!(x, f, "{:?}", written);
    }
}

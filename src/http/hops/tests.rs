use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn claims(fields: &[(&'static str, &str)]) -> Box<ForwardedClaims> {
    ForwardedClaims::read(&map(fields)).unwrap()
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
fn as_read(
    headers: &HeaderMap,
    family: &[HeaderName],
) -> (Vec<Option<IpAddr>>, Option<Box<str>>, String) {
    let only: HeaderMap = headers
        .iter()
        .filter(|(name, _)| family.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let claims = ForwardedClaims::read(&only).unwrap();
    let nodes = claims.nodes.iter().map(|node| node.address.map(|(ip, _)| ip)).collect();
    let proto = claims.proto.first().cloned();
    let host = claims.host.first().cloned().unwrap_or_default();
    let usual = if proto.as_deref().is_some_and(is_tls) { 443 } else { 80 };
    let port = claims.port.first().copied().or(port_of(&host)).unwrap_or(usual);
    (nodes, proto, format!("{}:{port}", validation::without_port(&host)))
}

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
        let mut headers = map(&fields);
        let claims = ForwardedClaims::read(&headers);
        let peer: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let own = OwnHop { peer: peer.ip(), tls: false, host: "own.test" };
        write(&mut headers, claims.as_deref(), own, peer.ip(), true);
        let x = as_read(&headers, &[X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PORT]);
        let f = as_read(&headers, &[FORWARDED]);
        prop_assert_eq!(x, f, "{:?}", headers);
    }
}

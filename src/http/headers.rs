//! Header hygiene: what must not cross a proxy, and what a proxy adds.
//!
//! Pure functions over [`HeaderMap`]; RFC 9110 §7.6.1 for hop-by-hop fields, RFC 7239 for
//! `Forwarded`. Stripping comes before adding, so that no client can have our own fields removed by
//! naming them in `Connection`.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::observe::ClientCertificate;

/// Fields that `Connection` may not name away: framing, routing, authentication and ours.
const KEPT: [HeaderName; 5] = [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE, TRAILER];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
/// Carries one request's id through every hop and log.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over from a trusted peer.
const MAX_REQUEST_ID: usize = 128;

/// Who sent the request, for the fields that tell the backend.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    /// Address of the peer that connected to us.
    pub(super) peer: SocketAddr,
    /// Whether its own claims about earlier hops are believed.
    pub(super) trusted: bool,
    /// Whether it came over TLS.
    pub(super) tls: bool,
    /// Who it has proved to be.
    pub(super) certificate: Option<&'a ClientCertificate>,
    /// The request's host, with its port as sent.
    pub(super) host: &'a str,
    /// The request's id.
    pub(super) id: &'a str,
}

/// Removes every field that concerns one hop only, those named by `Connection` included. `TE` is
/// kept as far as it says `trailers`.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !KEPT.contains(name))
            .collect();
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    if headers.contains_key(TE) {
        let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// Whether a list field holds this token, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The elements of a comma-separated field, over all its lines.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Tells the backend who the client is. Claims of an untrusted peer are removed first, aliases with
/// underscores too: many frameworks read `X_Forwarded_For` and `X-Forwarded-For` as one. Who a client
/// has proved to be is told of this connection's client alone, whoever claims otherwise.
pub(super) fn add_forwarding(headers: &mut HeaderMap, origin: &Origin<'_>) {
    drop_claims(headers, origin.trusted);
    if let Some(certificate) = origin.certificate {
        // Both are visible ASCII.
        let told = [
            (X_CLIENT_CERT_SUBJECT, &certificate.subject),
            (X_CLIENT_CERT_FINGERPRINT, &certificate.fingerprint),
        ];
        headers.extend(told.into_iter().filter_map(|(name, value)| {
            HeaderValue::from_str(value).ok().map(|value| (name, value))
        }));
    }
    let client = origin.peer.ip().to_canonical();
    append(headers, X_FORWARDED_FOR, &client.to_string());
    let proto = if origin.tls { "https" } else { "http" };
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Ok(host) = HeaderValue::from_str(origin.host)
        && !host.is_empty()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    let mut element = String::with_capacity(64);
    // Writing to a string cannot fail.
    let _ = match client {
        IpAddr::V4(ip) => write!(element, "for={ip};proto={proto}"),
        IpAddr::V6(ip) => write!(element, "for=\"[{ip}]\";proto={proto}"),
    };
    if !origin.host.is_empty() {
        let _ = write!(element, ";host=\"{}\"", origin.host);
    }
    append(headers, FORWARDED, &element);
    if let Ok(id) = HeaderValue::from_str(origin.id) {
        headers.insert(X_REQUEST_ID, id);
    }
}

/// Removes from a request's trailers all that only its header may say: a backend may merge them (RFC 9110
/// §6.5.1), and nobody who is believed has reason to put it there.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    drop_claims(trailers, false);
}

/// The client's address: the peer's, or behind trusted peers the nearest one in `X-Forwarded-For` that
/// is not trusted itself. An address from there has port 0.
pub(super) fn client(
    headers: &HeaderMap,
    peer: SocketAddr,
    trusts: impl Fn(IpAddr) -> bool,
) -> SocketAddr {
    if !trusts(peer.ip()) {
        return peer;
    }
    let hops: Vec<&str> = tokens(headers, &X_FORWARDED_FOR).collect();
    let known = hops.iter().rev().map_while(|hop| hop.parse::<IpAddr>().ok());
    let mut nearest = peer;
    for hop in known {
        nearest = SocketAddr::new(hop, 0);
        if !trusts(hop) {
            break;
        }
    }
    nearest
}

/// Whether a trusted peer says that its own client came over TLS.
pub(super) fn came_over_tls(headers: &HeaderMap) -> bool {
    headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https")
}

/// The request's id: a trusted peer's own, else a new one of 32 hex digits.
pub(super) fn request_id(headers: &HeaderMap, trusted: bool) -> Box<str> {
    let claimed = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match claimed {
        Some(id) if trusted && !id.is_empty() && id.len() <= MAX_REQUEST_ID => id.into(),
        _ => format!("{:032x}", fastrand::u128(..)).into(),
    }
}

/// How long the peer keeps the connection, where its `Keep-Alive` field says so.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    tokens(headers, &KEEP_ALIVE)
        .find_map(|token| token.strip_prefix("timeout="))
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs)
}

/// Removes what a peer claims of who sent a request; claims of earlier hops stand where they are believed.
fn drop_claims(headers: &mut HeaderMap, believed: bool) {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| is_claim(name.as_str(), believed)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

fn is_claim(name: &str, believed: bool) -> bool {
    let aliased = name.contains('_');
    let dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let starts = |prefix: &str| {
        name.len() >= prefix.len()
            && name.bytes().map(dash).zip(prefix.bytes()).all(|(a, b)| a == b)
    };
    let is = |other: &HeaderName| name.len() == other.as_str().len() && starts(other.as_str());
    // Whoever is in front of us appends to the fields that all proxies know. These it may not know, and
    // hand on as its own client sent them.
    if starts("x-client-cert-") {
        return true;
    }
    if believed && !aliased {
        return false;
    }
    starts("x-forwarded-") || is(&FORWARDED) || is(&X_REAL_IP) || is(&X_REQUEST_ID)
}

/// Appends an element to a list field, on its last line.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let joined =
        match headers.get_all(&name).iter().map(|v| v.to_str()).collect::<Result<Vec<_>, _>>() {
            Ok(earlier) if !earlier.is_empty() => format!("{}, {element}", earlier.join(", ")),
            _ => element.to_owned(),
        };
    if let Ok(value) = HeaderValue::from_str(&joined) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn origin(
        peer: SocketAddr,
        trusted: bool,
        certificate: Option<&ClientCertificate>,
    ) -> Origin<'_> {
        Origin { peer, trusted, tls: true, certificate, host: "", id: "1" }
    }

    #[test]
    fn who_a_client_is_only_its_certificate_says() {
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
        let told = |trusted, certificate| {
            let mut headers = map(&claims);
            add_forwarding(&mut headers, &origin(peer, trusted, certificate));
            let told = headers.iter().filter(|(name, _)| is_certificate(name.as_str()));
            let mut told: Vec<_> =
                told.map(|(_, value)| value.to_str().unwrap().to_owned()).collect();
            told.sort_unstable();
            told
        };
        for trusted in [false, true] {
            assert_eq!(told(trusted, None), [""; 0], "a trusted peer may not know these fields");
            assert_eq!(told(trusted, Some(&ada)), ["CN=ada", "f00d"]);
        }
    }

    fn is_certificate(name: &str) -> bool {
        name.replace('_', "-").starts_with("x-client-cert")
    }

    #[test]
    fn connection_names_fields_away_but_never_framing_host_or_auth() {
        let mut headers = map(&[
            ("connection", "X-Custom, Host, cookie, Authorization, close"),
            ("x-custom", "1"),
            ("host", "a"),
            ("cookie", "b"),
            ("authorization", "c"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "cookie", "host", "te"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn claims_of_an_untrusted_peer_are_replaced_aliases_included() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-request-id", "forged"),
        ]);
        let peer = "[::ffff:192.0.2.7]:5".parse().unwrap();
        let origin = Origin { host: "chat.test:443", ..origin(peer, false, None) };
        add_forwarding(&mut headers, &origin);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "chat.test:443");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;proto=https;host=\"chat.test:443\"");
        assert_eq!(headers["x-request-id"], "1");
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn a_trusted_peer_is_believed_and_appended_to() {
        let mut headers = map(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]);
        let peer = "[2001:db8::1]:5".parse().unwrap();
        add_forwarding(&mut headers, &Origin { tls: false, ..origin(peer, true, None) });
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 2001:db8::1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";proto=http");
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_not_trusted() {
        let peer: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let trusts = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 10);
        let of = |chain| client(&map(&[("x-forwarded-for", chain)]), peer, trusts).ip().to_string();
        assert_eq!(of("6.6.6.6, 192.0.2.1, 10.0.0.2"), "192.0.2.1");
        assert_eq!(of("10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(of("192.0.2.1, garbage"), "10.0.0.1");
        let stranger = "192.0.2.9:5".parse().unwrap();
        let claim = map(&[("x-forwarded-for", "6.6.6.6")]);
        assert_eq!(client(&claim, stranger, trusts), stranger);
    }

    #[test]
    fn the_peers_keep_alive_is_read() {
        let headers = map(&[("keep-alive", "max=100, timeout=5")]);
        assert_eq!(keep_alive_timeout(&headers), Some(Duration::from_secs(5)));
    }
}

//! Header fields that must not cross a proxy, and fields that a proxy adds.
//!
//! Pure functions over [`HeaderMap`]; RFC 9110 §7.6.1 defines hop-by-hop fields. Fields are stripped
//! before others are added, so that no client can remove the proxy's own fields by naming them in
//! `Connection`.

use std::{
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

use super::hops::{self, ForwardedClaims};
use crate::net::tls::ClientCertificate;

/// Fields that `Connection` cannot remove: framing, routing, authentication and the proxy's own.
const KEPT: [HeaderName; 6] =
    [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE, TRAILER, X_MOORLINE_HOPS];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
/// Carries the id of a request through every hop and log.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Counts the Moorline processes that a request has passed. `Via` (RFC 9110 §7.6.3) would serve the
/// purpose, but servers do not compress responses to requests that carry it.
const X_MOORLINE_HOPS: HeaderName = HeaderName::from_static("x-moorline-hops");

/// Maximum number of Moorline processes. Each turn of a loop holds two descriptors.
const MAX_HOPS: usize = 10;

/// Maximum length of a request id that is accepted from a trusted peer.
const MAX_REQUEST_ID: usize = 128;

/// Origin of a request, for the fields that describe it to the backend.
#[derive(Debug)]
pub(super) struct ForwardingContext<'a> {
    /// Address of the peer of the client connection.
    pub(super) peer: SocketAddr,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
    /// Forwarding fields of the peer, if it is trusted.
    pub(super) claims: Option<&'a ForwardedClaims>,
    /// Address of the client.
    pub(super) client: IpAddr,
    /// Whether `Forwarded` is sent even if the request had none.
    pub(super) forwarded_always: bool,
    /// Whether the request came over TLS.
    pub(super) tls: bool,
    /// Verified certificate of the client.
    pub(super) certificate: Option<&'a ClientCertificate>,
    /// Number of Moorline processes that the request has already passed.
    pub(super) hops: usize,
    /// Host of the request, with its port as sent.
    pub(super) host: &'a str,
    /// Id of the request.
    pub(super) id: &'a str,
}

/// Removes every hop-by-hop field, including those that `Connection` names. Keeps `TE` if it
/// contains `trailers`, with this value only.
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

/// Whether a list field contains this token, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// Returns the elements of a comma-separated field, over all its lines.
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

/// Adds the fields that describe the client to the backend. Removes the fields of an untrusted peer
/// first, including aliases with underscores: many frameworks treat `X_Forwarded_For` and
/// `X-Forwarded-For` alike. Client certificates are described by this connection alone, whatever the
/// peer sends. Returns a forwarding field that was removed because the peer is not trusted.
pub(super) fn add_forwarding(
    headers: &mut HeaderMap,
    origin: &ForwardingContext<'_>,
) -> Option<HeaderName> {
    let dropped = drop_claims(headers, origin.trusted);
    if let Some(certificate) = origin.certificate {
        // Both values are visible ASCII.
        let certificate_fields = [
            (X_CLIENT_CERT_SUBJECT, &certificate.subject),
            (X_CLIENT_CERT_FINGERPRINT, &certificate.fingerprint),
        ];
        headers.extend(certificate_fields.into_iter().filter_map(|(name, value)| {
            HeaderValue::from_str(value).ok().map(|value| (name, value))
        }));
    }
    let peer = origin.peer.ip().to_canonical();
    let own = hops::OwnHop { peer, tls: origin.tls, host: origin.host };
    let client = origin.client.to_canonical();
    hops::write(headers, origin.claims, own, client, origin.forwarded_always);
    count_hop(headers, origin.hops);
    if let Ok(id) = HeaderValue::from_str(origin.id) {
        headers.insert(X_REQUEST_ID, id);
    }
    dropped
}

/// Removes trailers that may appear in the header only: a backend may merge trailers into the header
/// (RFC 9110 §6.5.1), and no trusted proxy sends such trailers.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    let _ = drop_claims(trailers, false);
}

/// Returns the id of the request: the trusted peer's, otherwise a new one of 32 hex digits.
pub(super) fn request_id(headers: &HeaderMap, trusted: bool) -> Box<str> {
    let claimed = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match claimed {
        Some(id) if trusted && !id.is_empty() && id.len() <= MAX_REQUEST_ID => id.into(),
        _ => new_id(),
    }
}

/// Creates a request id of 32 hex digits.
pub(super) fn new_id() -> Box<str> {
    format!("{:032x}", fastrand::u128(..)).into()
}

/// Returns how many Moorline processes the request has passed; `None` if there are too many. The
/// value counts even from untrusted peers, since a loop may lead through any of them; a client that
/// sends a wrong value harms only itself.
pub(super) fn hops(headers: &HeaderMap) -> Option<usize> {
    let values = headers.get_all(X_MOORLINE_HOPS).iter().filter_map(|value| value.to_str().ok());
    let hops = values.filter_map(|value| value.parse().ok()).max().unwrap_or(0);
    (hops < MAX_HOPS).then_some(hops)
}

/// Counts this process among those that the request has passed.
pub(super) fn count_hop(headers: &mut HeaderMap, before: usize) {
    const COUNTS: [&str; MAX_HOPS] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    if let Some(count) = COUNTS.get(before) {
        headers.insert(X_MOORLINE_HOPS, HeaderValue::from_static(count));
    }
}

/// How long the peer keeps an idle connection, if its `Keep-Alive` field says so.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    tokens(headers, &KEEP_ALIVE)
        .find_map(|token| token.strip_prefix("timeout="))
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs)
}

/// Removes the peer's fields about the client; fields about earlier hops stay if the peer is
/// trusted. Returns the first forwarding field that was removed, if the peer is not trusted.
fn drop_claims(headers: &mut HeaderMap, trusted: bool) -> Option<HeaderName> {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| is_claim(name.as_str(), trusted)).cloned().collect();
    for name in &claims {
        headers.remove(name);
    }
    let is_forwarding = |name: &HeaderName| {
        name.as_str().starts_with("x-forwarded-") || name == FORWARDED || name == X_REAL_IP
    };
    claims.into_iter().find(is_forwarding).filter(|_| !trusted)
}

fn is_claim(name: &str, believed: bool) -> bool {
    let aliased = name.contains('_');
    let dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let starts = |prefix: &str| {
        name.len() >= prefix.len()
            && name.bytes().map(dash).zip(prefix.bytes()).all(|(a, b)| a == b)
    };
    let is = |other: &HeaderName| name.len() == other.as_str().len() && starts(other.as_str());
    // A proxy in front appends to the fields that all proxies know. It may not know these, and would
    // pass on what its client sent.
    if starts("x-client-cert-") {
        return true;
    }
    if believed && !aliased {
        return false;
    }
    starts("x-forwarded-") || is(&FORWARDED) || is(&X_REAL_IP) || is(&X_REQUEST_ID)
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
            let mut headers = map(&claims);
            add_forwarding(&mut headers, &origin(peer, trusted, certificate));
            let sent = headers.iter().filter(|(name, _)| is_certificate(name.as_str()));
            let mut sent: Vec<_> =
                sent.map(|(_, value)| value.to_str().unwrap().to_owned()).collect();
            sent.sort_unstable();
            sent
        };
        for trusted in [false, true] {
            assert_eq!(sent(trusted, None), [""; 0], "a trusted peer may not know these fields");
            assert_eq!(sent(trusted, Some(&ada)), ["CN=ada", "f00d"]);
        }
    }

    fn is_certificate(name: &str) -> bool {
        name.replace('_', "-").starts_with("x-client-cert")
    }

    #[test]
    fn connection_removes_named_fields_but_never_framing_host_or_authentication() {
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
    fn fields_of_an_untrusted_peer_and_their_aliases_are_replaced() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-request-id", "forged"),
        ]);
        let peer = "[::ffff:192.0.2.7]:5".parse().unwrap();
        let origin = ForwardingContext { host: "chat.test:444", ..origin(peer, false, None) };
        let dropped = add_forwarding(&mut headers, &origin);
        assert_eq!(dropped.unwrap(), "x-forwarded-for");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "chat.test:444");
        assert_eq!(headers["x-forwarded-port"], "444");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
        assert_eq!(headers["x-request-id"], "1");
        assert_eq!(headers["x-moorline-hops"], "1");
        assert_eq!(headers.len(), 7);
        assert_eq!(add_forwarding(&mut HeaderMap::new(), &origin), None);
    }

    #[test]
    fn hops_are_counted_up_to_a_limit() {
        let mut headers = HeaderMap::new();
        for before in 0..MAX_HOPS {
            assert_eq!(hops(&headers), Some(before));
            count_hop(&mut headers, before);
        }
        assert_eq!(hops(&headers), None);
        assert_eq!(hops(&map(&[("x-moorline-hops", "x"), ("x-moorline-hops", "7")])), Some(7));
    }

    #[test]
    fn keep_alive_timeout_of_the_peer_is_read() {
        let headers = map(&[("keep-alive", "max=100, timeout=5")]);
        assert_eq!(keep_alive_timeout(&headers), Some(Duration::from_secs(5)));
    }
}

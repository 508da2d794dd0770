//! Validates a request before it is routed.
//!
//! [`check`] inspects a parsed header and returns the kind of request, or why it is rejected. It
//! does no I/O and knows no backend: no backend sees a rejected request.

use http::{
    HeaderMap, Method, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
        TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
    uri::Uri,
};

use super::{
    framing,
    headers::{has_token, tokens},
};
use crate::error::{FailureKind, Phase, ProxyError, Side};

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ValidatedRequest {
    /// Host with the port, as sent; empty if an HTTP/1.0 client sent none.
    pub(crate) host: Box<str>,
    /// Whether the request is a valid WebSocket handshake.
    pub(crate) upgrade: bool,
}

/// Maximum length of a host with its port: a DNS name has at most 253 bytes.
const MAX_HOST: usize = 262;

/// Validates method, target, host and upgrade, in this order.
pub(super) fn check(parts: &Parts) -> Result<ValidatedRequest, ProxyError> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(ProxyError::new(Side::Client, Phase::Request, FailureKind::MethodNotAllowed));
    }
    check_path(parts)?;
    framing::request(&parts.headers)?;
    let host = host(parts)?;
    Ok(ValidatedRequest { host, upgrade: upgrade(parts)? })
}

/// Returns the host without its port, for routing.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// Message for a path that matches different routes in different readings.
pub(super) const AMBIGUOUS: &str = "The path can be read in two ways, and different routes cover them: write / for %2F, and no `;`.";

/// Rejects ambiguous paths. A path is forwarded as sent and routed in [normal
/// form](crate::config::path::normal). Dot segments, backslashes and zero bytes are rejected: some
/// backends resolve them and others, such as Node.js, do not, so that no route would be right for
/// both. nginx resolves them for its rules and forwards them unchanged, which leaves that gap open;
/// Envoy has a setting for it.
fn check_path(parts: &Parts) -> Result<(), ProxyError> {
    let path = parts.uri.path();
    if path == "*" && parts.method == Method::OPTIONS {
        return Ok(());
    }
    if !path.starts_with('/') {
        return Err(ProxyError::bad_request("The request target is not a path."));
    }
    // An unencoded dot segment follows a slash.
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Ok(());
    }
    let lower = path.to_ascii_lowercase();
    let decoded = lower.replace("%2e", ".").replace("%2f", "/");
    if lower.contains('\\') || lower.contains("%5c") || lower.contains("%00") {
        return Err(ProxyError::bad_request("The path holds a backslash or a zero byte."));
    }
    // Some backends ignore parameters of a segment: they read `..;x` as `..`.
    let bare = |segment: &str| segment.split(';').next().is_some_and(|s| s == "." || s == "..");
    if decoded.replace("%3b", ";").split('/').any(bare) {
        return Err(ProxyError::bad_request("The path holds a dot segment."));
    }
    Ok(())
}

/// Returns the authority of an absolute target, otherwise the `Host` field.
fn host(parts: &Parts) -> Result<Box<str>, ProxyError> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return Err(ProxyError::bad_request("More than one Host field."));
    }
    let field = match field {
        Some(value) => Some(
            value.to_str().map_err(|_| ProxyError::bad_request("The Host field is invalid."))?,
        ),
        None if parts.version == Version::HTTP_10 => None,
        None => return Err(ProxyError::bad_request("The Host field is missing.")),
    };
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => field.unwrap_or_default(),
    };
    for host in [Some(host), field].into_iter().flatten() {
        if !is_host(host) {
            return Err(ProxyError::bad_request("The Host field is invalid."));
        }
    }
    if host.is_empty() && parts.version != Version::HTTP_10 {
        return Err(ProxyError::bad_request("The Host field is empty."));
    }
    Ok(host.into())
}

/// Whether the text is a name or address with an optional port, without userinfo, list or path (RFC
/// 9112 §3.2).
pub(super) fn is_host(host: &str) -> bool {
    let bracketed = host.starts_with('[');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&b);
    let port = &host[without_port(host).len()..];
    host.len() <= MAX_HOST
        && host.bytes().all(allowed)
        && (port.len() < 2 || port[1..].parse::<u16>().is_ok())
        && !port.contains('+')
        && (bracketed || !without_port(host).contains([':', '[', ']']))
        && (!bracketed || without_port(host).ends_with(']'))
}

/// Whether this is a WebSocket handshake. Other upgrades are not supported: their fields are
/// stripped with all hop-by-hop fields, and the request is forwarded without them.
fn upgrade(parts: &Parts) -> Result<bool, ProxyError> {
    let headers = &parts.headers;
    let is_requested = headers.contains_key(UPGRADE)
        && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
        && has_token(headers, &CONNECTION, "upgrade");
    if !is_requested {
        return Ok(false);
    }
    if parts.version < Version::HTTP_11 {
        return Err(ProxyError::bad_request(
            "A WebSocket handshake needs HTTP/1.1; an nginx in front of this proxy needs \
             `proxy_http_version 1.1`.",
        ));
    }
    if parts.method != Method::GET {
        return Err(ProxyError::bad_request("A WebSocket handshake must be a GET request."));
    }
    if has_body(headers) {
        return Err(ProxyError::bad_request("A WebSocket handshake has no body."));
    }
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    if versions.next().is_none_or(|v| v.as_bytes().trim_ascii() != b"13")
        || versions.next().is_some()
    {
        return Err(ProxyError::new(Side::Client, Phase::Request, FailureKind::UpgradeRequired));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(true),
        _ => Err(ProxyError::bad_request("Sec-WebSocket-Key is not 16 bytes in base64.")),
    }
}

/// Whether the key is 16 bytes in base64: 22 characters and two of padding (RFC 6455 §4.1).
fn is_key(key: &[u8]) -> bool {
    let key = key.trim_ascii();
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(alphabet)
}

/// Whether the header announces a body, even an empty chunked one.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Returns path and query, the form that is forwarded, without scheme and authority.
pub(super) fn origin_form(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    path.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn kind(request: http::request::Builder) -> Result<ValidatedRequest, FailureKind> {
        check(&request.body(()).unwrap().into_parts().0).map_err(|e| e.kind)
    }

    fn get(target: &str) -> http::request::Builder {
        Request::get(target).header("host", "chat.test")
    }

    fn handshake() -> http::request::Builder {
        get("/ws")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    #[test]
    fn a_host_is_one_name_or_address_with_a_port() {
        for good in ["chat.test", "chat.test:80", "[::1]:80", "127.0.0.1", "under_score.test"] {
            let request = Request::get("/").header("host", good);
            assert_eq!(*kind(request).unwrap().host, *good);
        }
        for bad in
            ["", "a@b", "a,b", "a/b", "a b", "[::1", "::1", "a:b", "a:80:80", "a:99999", "a:+80"]
        {
            assert!(kind(Request::get("/").header("host", bad)).is_err(), "{bad}");
        }
        assert!(kind(Request::get("/")).is_err());
        assert!(kind(get("/").header("host", "other.test")).is_err());
        assert!(kind(Request::get("/").version(Version::HTTP_10)).is_ok());
    }

    #[test]
    fn the_authority_of_an_absolute_target_wins() {
        assert_eq!(&*kind(get("http://real.test/x")).unwrap().host, "real.test");
    }

    #[test]
    fn ambiguous_paths_are_rejected() {
        for bad in [
            "/a/../b",
            "/a/%2E%2e/b",
            "/%2e",
            "/a\\b",
            "/a%5Cb",
            "/a%00",
            "/a%2f..%2fb",
            "/..;/a",
            "/%2e%3bx=1/a",
        ] {
            assert!(kind(get(bad)).is_err(), "{bad}");
        }
        for good in ["/a.b/..c", "/a%20b", "/a//b", "/..."] {
            assert!(kind(get(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_handshake_needs_method_version_and_key() {
        assert!(kind(handshake()).unwrap().upgrade);
        assert!(!kind(get("/").header("upgrade", "h2c")).unwrap().upgrade);
        assert!(kind(handshake().method("POST")).is_err());
        assert!(kind(handshake().header("content-length", "3")).is_err());
        assert!(kind(handshake().header("sec-websocket-key", "x")).is_err());
        let old = get("/").header("connection", "upgrade").header("upgrade", "websocket");
        assert_eq!(
            kind(old.header("sec-websocket-version", "8")),
            Err(FailureKind::UpgradeRequired)
        );
    }

    #[test]
    fn connect_and_trace_are_rejected() {
        assert_eq!(kind(get("/").method("TRACE")), Err(FailureKind::MethodNotAllowed));
    }
}

//! Validates a request before it is routed.
//!
//! [`check`] inspects a parsed head and returns the kind of request, or why it is rejected. It does no
//! I/O and knows no backend: no backend sees a rejected request. Syntax and framing have been checked
//! by the parser of the head.

use http::Method;
use moorline_http::{FieldId, HttpVersion, RequestHead};

use crate::error::{FailureKind, Phase, ProxyError, Side};

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ValidatedRequest<'r> {
    /// Host with the port, as sent; empty if an HTTP/1.0 client sent none.
    pub(crate) host: &'r str,
    /// Whether the request is a valid WebSocket handshake.
    pub(crate) upgrade: bool,
}

/// Maximum length of a host with its port: a DNS name has at most 253 bytes.
pub(super) const MAX_HOST: usize = 262;

/// Validates method, target, host and upgrade, in this order.
pub(super) fn check(request: &RequestHead) -> Result<ValidatedRequest<'_>, ProxyError> {
    if request.method == Method::CONNECT || request.method == Method::TRACE {
        return Err(ProxyError::new(Side::Client, Phase::Request, FailureKind::MethodNotAllowed));
    }
    check_path(request)?;
    let host = host(request)?;
    Ok(ValidatedRequest { host, upgrade: upgrade(request)? })
}

/// Returns the host without its port, for routing.
pub(crate) fn without_port(host: &str) -> &str {
    // A port is short: searching backwards finds it soon. The bracket of an IPv6 address ends before its port.
    for (at, byte) in host.bytes().enumerate().rev() {
        match byte {
            b':' => return &host[..at],
            b']' => return host,
            _ => {}
        }
    }
    host
}

/// Message for a path that matches different routes in different readings.
pub(super) const AMBIGUOUS: &str = "The path can be read in two ways, and different routes cover them: write / for %2F, and no `;`.";

/// Rejects ambiguous paths. A path is forwarded as sent and routed in [normal
/// form](crate::config::path::normal). Dot segments, backslashes and zero bytes are rejected: some
/// backends resolve them and others, such as Node.js, do not, so that no route would be right for
/// both. nginx resolves them for its rules and forwards them unchanged, which leaves that gap open;
/// Envoy has a setting for it.
fn check_path(request: &RequestHead) -> Result<(), ProxyError> {
    let target = request.target();
    if target == "*" && request.method == Method::OPTIONS {
        return Ok(());
    }
    if !target.starts_with('/') && request.authority().is_none() {
        return Err(ProxyError::bad_request("The request target is not a path."));
    }
    let path = request.path();
    let has_escapes = path.bytes().any(|byte| matches!(byte, b'%' | b'\\'));
    // An unencoded dot segment follows a slash.
    if !has_escapes && !path.as_bytes().windows(2).any(|two| two == b"/.") {
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
fn host(request: &RequestHead) -> Result<&str, ProxyError> {
    let mut fields = request.head.all(FieldId::Host);
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return Err(ProxyError::bad_request("More than one Host field."));
    }
    let invalid = || ProxyError::bad_request("The Host field is invalid.");
    let field = match field {
        Some(value) => Some(std::str::from_utf8(value).map_err(|_| invalid())?),
        None if request.version == HttpVersion::Http10 => None,
        None => return Err(ProxyError::bad_request("The Host field is missing.")),
    };
    let authority = request.authority();
    let valid = |host: Option<&str>| host.is_none_or(is_host);
    if !valid(authority) || !valid(field) {
        return Err(invalid());
    }
    let host = authority.or(field).unwrap_or_default();
    let must_name = request.version != HttpVersion::Http10 || request.authority().is_some();
    if host.is_empty() && must_name {
        return Err(ProxyError::bad_request("The Host field is empty."));
    }
    Ok(host)
}

/// Whether the text is a name or address with an optional port, without userinfo, list or path (RFC
/// 9112 §3.2).
pub(super) fn is_host(host: &str) -> bool {
    if host.len() > MAX_HOST || !host.bytes().all(|byte| HOST_BYTES[usize::from(byte)]) {
        return false;
    }
    let name = without_port(host);
    let port = &host[name.len()..];
    if port.len() > 1 && (port.contains('+') || port[1..].parse::<u16>().is_err()) {
        return false;
    }
    match host.starts_with('[') {
        true => name.ends_with(']'),
        false => !name.bytes().any(|byte| matches!(byte, b':' | b'[' | b']')),
    }
}

/// Bytes that a host with a port may contain.
static HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~%!$&'()*+;=:[]";
    let mut at = 0;
    while at < 256 {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Whether this is a WebSocket handshake. Other upgrades are not supported: their fields are
/// stripped with all hop-by-hop fields, and the request is forwarded without them.
fn upgrade(request: &RequestHead) -> Result<bool, ProxyError> {
    let head = &request.head;
    let is_requested = head.has_token(FieldId::Upgrade, "websocket")
        && head.has_token(FieldId::Connection, "upgrade");
    if !is_requested {
        return Ok(false);
    }
    if request.version < HttpVersion::Http11 {
        return Err(ProxyError::bad_request(
            "A WebSocket handshake needs HTTP/1.1; an nginx in front of this proxy needs \
             `proxy_http_version 1.1`.",
        ));
    }
    if request.method != Method::GET {
        return Err(ProxyError::bad_request("A WebSocket handshake must be a GET request."));
    }
    if request.has_body() {
        return Err(ProxyError::bad_request("A WebSocket handshake has no body."));
    }
    if head.only(FieldId::SecWebSocketVersion) != Some(b"13") {
        return Err(ProxyError::new(Side::Client, Phase::Request, FailureKind::UpgradeRequired));
    }
    if head.only(FieldId::SecWebSocketKey).is_some_and(is_key) {
        return Ok(true);
    }
    Err(ProxyError::bad_request("Sec-WebSocket-Key is not 16 bytes in base64."))
}

/// Whether the key is 16 bytes in base64: 22 characters and two of padding (RFC 6455 §4.1).
fn is_key(key: &[u8]) -> bool {
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(alphabet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::request;

    /// The host and whether the request is an upgrade.
    fn kind(text: &str) -> Result<(String, bool), FailureKind> {
        let request = request(text);
        let checked = check(&request).map_err(|error| error.kind)?;
        Ok((checked.host.to_owned(), checked.upgrade))
    }

    fn get(target: &str) -> Result<(String, bool), FailureKind> {
        kind(&format!("GET {target} HTTP/1.1\r\nHost: chat.test\r\n"))
    }

    fn handshake(method: &str, version: u8, fields: &str) -> Result<(String, bool), FailureKind> {
        kind(&format!(
            "{method} /ws HTTP/1.1\r\nHost: chat.test\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: {version}\r\n{fields}"
        ))
    }

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn a_host_is_one_name_or_address_with_a_port() {
        let with = |host: &str| kind(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n"));
        for good in ["chat.test", "chat.test:80", "[::1]:80", "127.0.0.1", "under_score.test"] {
            assert_eq!(with(good).unwrap().0, *good);
        }
        for bad in
            ["", "a@b", "a,b", "a/b", "a b", "[::1", "::1", "a:b", "a:80:80", "a:99999", "a:+80"]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(kind("GET / HTTP/1.1\r\n").is_err());
        assert!(with("chat.test\r\nHost: other.test").is_err());
        assert_eq!(kind("GET / HTTP/1.0\r\n").unwrap().0, "");
    }

    #[test]
    fn the_authority_of_an_absolute_target_wins() {
        assert_eq!(get("http://real.test/x").unwrap().0, "real.test");
        assert_eq!(get("HTTPS://real.test:8443?x").unwrap().0, "real.test:8443");
        let old = |target| kind(&format!("GET {target} HTTP/1.0\r\n"));
        assert_eq!(old("http://real.test/").unwrap().0, "real.test");
        for bad in ["http:///x", "http://", "http://a@b/", "http://a,b/", "http://\u{fc}.test/"] {
            assert!(get(bad).is_err() && old(bad).is_err(), "{bad}");
        }
        assert!(kind("GET http://real.test/ HTTP/1.1\r\nHost: a b\r\n").is_err());
        assert!(kind("GET http://real.test/ HTTP/1.1\r\n").is_err());
    }

    #[test]
    fn a_target_is_a_path_an_absolute_target_or_an_asterisk_of_options() {
        let not_a_path = FailureKind::BadRequest("The request target is not a path.");
        for bad in ["*", "x", "?a=b", "chat.test:80", "ftp://chat.test/", "//chat.test"] {
            let expected = (!bad.starts_with('/')).then_some(not_a_path);
            assert_eq!(get(bad).err(), expected, "{bad}");
        }
        let options = |target| kind(&format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n"));
        assert!(options("*").is_ok());
        assert_eq!(options("*?x").err(), Some(not_a_path));
        assert!(get("/\"<>{}|^`\u{fc}?q={\"a\":1}").is_ok());
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
            "http://chat.test/a/../b",
        ] {
            assert!(get(bad).is_err(), "{bad}");
        }
        for good in ["/a.b/..c", "/a%20b", "/a//b", "/...", "/a?x=/../"] {
            assert!(get(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_handshake_needs_method_version_and_key() {
        assert!(handshake("GET", 13, KEY).unwrap().1);
        assert!(!kind("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n").unwrap().1);
        assert!(handshake("POST", 13, KEY).is_err());
        assert!(handshake("GET", 13, &format!("{KEY}Content-Length: 3\r\n")).is_err());
        assert!(handshake("GET", 13, &format!("{KEY}Transfer-Encoding: chunked\r\n")).is_err());
        assert!(handshake("GET", 13, &format!("{KEY}Content-Length: 0\r\n")).is_ok());
        assert!(handshake("GET", 13, "Sec-WebSocket-Key: x\r\n").is_err());
        assert!(handshake("GET", 13, &format!("{KEY}{KEY}")).is_err());
        assert_eq!(handshake("GET", 8, KEY), Err(FailureKind::UpgradeRequired));
    }

    #[test]
    fn connect_and_trace_are_rejected() {
        for line in ["TRACE / HTTP/1.1", "CONNECT chat.test:443 HTTP/1.1"] {
            let request = format!("{line}\r\nHost: chat.test\r\n");
            assert_eq!(kind(&request), Err(FailureKind::MethodNotAllowed));
        }
    }
}

//! Error replies; the only place that creates them.
//!
//! A reply describes the failure in one sentence and contains the request id, under which the log
//! has the details. It contains no address and no backend name. Replies to cross-origin requests of
//! a browser carry CORS fields; without them the page would see an opaque network error.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL,
        CONNECTION, CONTENT_TYPE, LOCATION, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_VERSION, VARY,
    },
    request::Parts,
};

use super::{
    error_body::{ErrorFormat, ErrorText},
    headers::X_REQUEST_ID,
    relay::ReplyBody,
};
use crate::{
    config::{ErrorPages, Redirect},
    error::{FailureKind, Phase, ProxyError, Side},
    sticky::engine_io::{self, UNKNOWN_SID},
    stream_log::StreamScope,
};

/// Seconds until a client should retry while a whole pool is unavailable: health checks take about
/// as long to detect that a backend is back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Reply to a plain-text request on a TLS port, whatever it asks for.
pub(crate) const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 34\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\r\n\
    This port uses TLS; use https://.\n";

/// Reply to a connection from an address that has reached its connection limit.
pub(crate) const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 49\r\n\
    Cache-Control: no-store\r\n\
    Retry-After: 5\r\n\
    Connection: close\r\n\r\n\
    Too many connections from your address are open.\n";

/// Properties of a request that determine its error reply.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplyContext {
    /// Origin of the page, for requests of a browser.
    origin: Option<HeaderValue>,
    /// Set if the request is the preflight of an Engine.IO request.
    preflight: Option<Box<Preflight>>,
    id: Box<str>,
    /// The format that the client understands.
    format: ErrorFormat,
    /// Custom error pages.
    pages: Option<Arc<ErrorPages>>,
}

/// What a browser asks for before a cross-origin request.
#[derive(Clone, Debug)]
struct Preflight {
    method: HeaderValue,
    headers: Option<HeaderValue>,
}

impl ReplyContext {
    /// Creates the context for a request with this header.
    pub(super) fn of(parts: &Parts, id: &str, pages: Option<&Arc<ErrorPages>>) -> Self {
        let Parts { method, uri, headers, .. } = parts;
        let preflight = || {
            engine_io::query(uri.query()?)?;
            let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone();
            let headers = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            Some(Box::new(Preflight { method, headers }))
        };
        Self {
            origin: headers.get(ORIGIN).cloned(),
            preflight: if method == Method::OPTIONS { preflight() } else { None },
            id: id.into(),
            format: ErrorFormat::of(parts),
            pages: pages.cloned(),
        }
    }

    /// Uses the error pages of the request's route.
    pub(super) fn use_pages(&mut self, pages: Option<&Arc<ErrorPages>>) {
        self.pages = pages.cloned();
    }

    /// Allows the page to read the reply, unless the backend has set CORS fields.
    pub(super) fn allow_origin(&self, headers: &mut HeaderMap) {
        if let Some(origin) = &self.origin
            && !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
        {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// Replies to a preflight that no backend can answer. Browsers show a page nothing about a failed
/// preflight, so the preflight is allowed once. The request itself then gets a reply that the page
/// can read. This is limited to preflights of Engine.IO requests: without a session from a backend,
/// such requests do no harm.
fn allow(preflight: &Preflight, reply_context: &ReplyContext) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    set(&mut response, ACCESS_CONTROL_ALLOW_METHODS, preflight.method.clone());
    if let Some(headers) = &preflight.headers {
        set(&mut response, ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    set(&mut response, ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("0"));
    set(&mut response, CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&reply_context.id) {
        set(&mut response, X_REQUEST_ID, id);
    }
    reply_context.allow_origin(response.headers_mut());
    response
}

/// Creates the reply to a failed request.
fn error(error: &ProxyError, reply_context: &ReplyContext) -> Response<ReplyBody> {
    if let Some(preflight) = reply_context.preflight.as_ref().filter(|_| error.side != Side::Client)
    {
        return allow(preflight, reply_context);
    }
    let status = status(error);
    let mut response = match error.kind {
        FailureKind::SessionGone => {
            let mut response = Response::new(ReplyBody::own(UNKNOWN_SID));
            set(&mut response, CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        _ => {
            let text = ErrorText { status, message: sentence(error), id: &reply_context.id };
            let mut response = Response::new(ReplyBody::empty());
            let pages = reply_context.pages.as_deref();
            let body = reply_context.format.body(text, pages, response.headers_mut());
            *response.body_mut() = ReplyBody::own(body);
            response
        }
    };
    *response.status_mut() = status;
    set(&mut response, CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&reply_context.id) {
        set(&mut response, X_REQUEST_ID, id);
    }
    match error.kind {
        FailureKind::MethodNotAllowed => {
            let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            set(&mut response, ALLOW, HeaderValue::from_static(methods));
        }
        FailureKind::UpgradeRequired => {
            set(&mut response, SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            super::upgrade::mark(response.headers_mut());
        }
        FailureKind::NoBackend
        | FailureKind::Saturated
        | FailureKind::TooMany
        | FailureKind::NotAdmitted
        | FailureKind::Exhausted => {
            let after = error.retry_after.map_or(RETRY_AFTER_SECONDS, HeaderValue::from);
            set(&mut response, RETRY_AFTER, after);
        }
        _ => {}
    }
    // The request was not read to its end, so its connection cannot be reused.
    if error.side == Side::Client && error.kind != FailureKind::UpgradeRequired {
        set(&mut response, CONNECTION, HeaderValue::from_static("close"));
    }
    reply_context.allow_origin(response.headers_mut());
    response
}

/// Ends a failed request: closes its scope and returns the reply.
pub(super) fn refuse(
    mut scope: StreamScope,
    error: &ProxyError,
    reply_context: &ReplyContext,
) -> Response<ReplyBody> {
    let response = self::error(error, reply_context);
    scope.record().status = response.status().as_u16();
    scope.sent(http_body::Body::size_hint(response.body()).lower());
    scope.fail(error);
    response
}

/// Returns the bytes of the reply to a request that could not be parsed. `head`: the known part of
/// the request header.
pub(super) fn refusal(
    error: &ProxyError,
    (sentence, id): (&str, &str),
    head: &[u8],
    pages: Option<&ErrorPages>,
) -> Vec<u8> {
    let status = status(error);
    let text = ErrorText { status, message: sentence, id };
    let mut headers = HeaderMap::new();
    let body = ErrorFormat::of_unparsed(head).body(text, pages, &mut headers);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut reply = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &headers {
        reply.extend_from_slice(name.as_str().as_bytes());
        reply.extend_from_slice(b": ");
        reply.extend_from_slice(value.as_bytes());
        reply.extend_from_slice(b"\r\n");
    }
    let length = body.len();
    let rest = format!(
        "Content-Length: {length}\r\n\
         Cache-Control: no-store\r\n\
         X-Request-Id: {id}\r\n\
         Connection: close\r\n\r\n"
    );
    reply.extend_from_slice(rest.as_bytes());
    reply.extend_from_slice(&body);
    reply
}

/// Creates the reply of a redirecting listener; `path` is path and query, as sent.
pub(super) fn redirect(to: Redirect, host: &str, path: &str) -> Response<ReplyBody> {
    let Redirect::Https { port } = to;
    let target = match port {
        Some(port) if port != 443 => format!("https://{host}:{port}{path}"),
        _ => format!("https://{host}{path}"),
    };
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    // Host and path have been validated: they are visible ASCII.
    if let Ok(target) = HeaderValue::try_from(target) {
        set(&mut response, LOCATION, target);
    }
    response
}

/// Creates the response to an ACME server that validates a name (RFC 8555 §8.3).
pub(super) fn challenge(answer: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::own(answer));
    let octets = HeaderValue::from_static("application/octet-stream");
    set(&mut response, CONTENT_TYPE, octets);
    response
}

fn set(response: &mut Response<ReplyBody>, name: http::HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}

/// Status of the reply to a failed request.
pub(crate) fn status(error: &ProxyError) -> StatusCode {
    match error.kind {
        FailureKind::BadRequest(_) | FailureKind::SessionGone => StatusCode::BAD_REQUEST,
        FailureKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        FailureKind::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        FailureKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureKind::HeaderTooLarge if error.side == Side::Client => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }
        FailureKind::TargetTooLong => StatusCode::URI_TOO_LONG,
        FailureKind::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        FailureKind::UnsupportedCoding => StatusCode::NOT_IMPLEMENTED,
        FailureKind::NoRoute => StatusCode::NOT_FOUND,
        FailureKind::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        FailureKind::Loop => StatusCode::LOOP_DETECTED,
        FailureKind::NoBackend
        | FailureKind::Saturated
        | FailureKind::TooMany
        | FailureKind::NotAdmitted
        | FailureKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::TimedOut if error.side == Side::Client => StatusCode::REQUEST_TIMEOUT,
        FailureKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::Incomplete | FailureKind::Reset | FailureKind::Malformed
            if error.side == Side::Client =>
        {
            StatusCode::BAD_REQUEST
        }
        FailureKind::Refused
        | FailureKind::Reset
        | FailureKind::Incomplete
        | FailureKind::Malformed
        | FailureKind::HeaderTooLarge
        | FailureKind::BadUpgrade
        | FailureKind::Untrusted
        | FailureKind::Missing
        | FailureKind::NotTls
        | FailureKind::UnknownName
        | FailureKind::CertificateExpired
        | FailureKind::CertificateName
        | FailureKind::CertificateUntrusted
        | FailureKind::CertificateRevoked
        | FailureKind::CertificateMissing
        | FailureKind::CertificateInvalid
        | FailureKind::Alert
        | FailureKind::Io => StatusCode::BAD_GATEWAY,
    }
}

/// Sentence of the reply that describes the failure.
pub(crate) fn sentence(error: &ProxyError) -> &'static str {
    match (error.kind, error.phase) {
        (FailureKind::BadRequest(sentence), _) => sentence,
        (FailureKind::MethodNotAllowed, _) => "This method is not supported.",
        (FailureKind::UpgradeRequired, _) => "Only WebSocket version 13 is supported.",
        (FailureKind::BodyTooLarge, _) => {
            "The request body is too large to search for the backend of an unknown session."
        }
        (FailureKind::HeaderTooLarge, _) if error.side == Side::Backend => {
            "The header of the backend's response is too large or has too many fields."
        }
        (FailureKind::HeaderTooLarge, _) => {
            "The request header is too large or has too many fields."
        }
        (FailureKind::TargetTooLong, _) => "The request target is too long.",
        (FailureKind::UnsupportedVersion, _) => "Only HTTP/1.1 and HTTP/1.0 are supported.",
        (FailureKind::UnsupportedCoding, _) => "No transfer coding but chunked is supported.",
        (FailureKind::Misdirected, _) => {
            "This host is not served over this connection; open one for it."
        }
        (FailureKind::Loop, _) => {
            "The request leads back to this proxy: a backend of its pool is the proxy itself."
        }
        (FailureKind::NoRoute, _) => "No route covers this host and path.",
        (FailureKind::NoBackend, _) => "No backend is available.",
        (FailureKind::SessionGone, _) => UNKNOWN_SID,
        (FailureKind::Saturated, Phase::RequestBody) => {
            "Too many request bodies wait for the search for the backends of their sessions."
        }
        (FailureKind::Saturated, _) => "Every connection to the backend is in use.",
        (FailureKind::TooMany, _) => "Too many connections from your address are open.",
        (FailureKind::NotAdmitted, _) => "Too many new sessions at once; try again in a moment.",
        (FailureKind::Exhausted, _) => {
            "The proxy has no free port or file descriptor for a connection to the backend."
        }
        (FailureKind::Refused, _) => "The backend refused the connection.",
        (FailureKind::TimedOut, Phase::Connect | Phase::Handshake) => {
            "The connection to the backend timed out."
        }
        (FailureKind::TimedOut, Phase::Request) => "The request header did not arrive in time.",
        (FailureKind::TimedOut, Phase::RequestBody) if error.side == Side::Backend => {
            "The backend did not read the request body in time."
        }
        (FailureKind::TimedOut, Phase::RequestBody) => "The request body did not arrive in time.",
        (FailureKind::TimedOut, _) => "The backend did not answer in time.",
        (FailureKind::Incomplete | FailureKind::Reset, _) if error.side == Side::Client => {
            "The request body is incomplete."
        }
        (FailureKind::Reset, _) => "The backend reset the connection before it answered.",
        (FailureKind::Incomplete, _) => "The backend closed the connection before it answered.",
        (FailureKind::Malformed | FailureKind::UnknownName, Phase::Handshake) => {
            "The TLS handshake with the backend failed."
        }
        (FailureKind::Malformed, _) => {
            "The backend's response is not valid HTTP. If the backend uses TLS, set `tls = true` in its pool."
        }
        (FailureKind::BadUpgrade, _) => "The backend's response to the upgrade is not valid.",
        (
            FailureKind::CertificateExpired
            | FailureKind::CertificateName
            | FailureKind::CertificateUntrusted
            | FailureKind::CertificateRevoked
            | FailureKind::CertificateMissing
            | FailureKind::CertificateInvalid,
            _,
        ) => "The backend's certificate is not valid.",
        (FailureKind::NotTls | FailureKind::Alert, _) => {
            "The TLS handshake with the backend failed."
        }
        (
            FailureKind::Untrusted
            | FailureKind::Missing
            | FailureKind::UnknownName
            | FailureKind::Io,
            _,
        ) => "The backend could not be reached.",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::observe::names;

    #[test]
    fn fixed_replies_have_the_announced_length() {
        for reply in [PLAIN_ON_TLS, TOO_MANY] {
            let text = std::str::from_utf8(reply).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}", body.len());
            assert!(head.lines().any(|line| line == length), "{text}");
        }
    }

    /// Whether a reply can come from this failure: its side can fail in this way and in this phase before a response
    /// has begun. A request that is not valid HTTP has its own sentences.
    fn has_reply(failure: &ProxyError) -> bool {
        use crate::error::{FailureKind as K, Phase as P};
        let ProxyError { side, phase, kind, .. } = failure;
        let of_request = matches!(
            kind,
            K::MethodNotAllowed
                | K::UpgradeRequired
                | K::HeaderTooLarge
                | K::TargetTooLong
                | K::UnsupportedVersion
                | K::UnsupportedCoding
        );
        let of_proxy = matches!(
            kind,
            K::BodyTooLarge
                | K::NoRoute
                | K::Misdirected
                | K::NoBackend
                | K::SessionGone
                | K::Saturated
                | K::TooMany
                | K::Loop
                | K::NotAdmitted
                | K::Exhausted
        );
        match (side, phase) {
            (Side::Client, P::Request) => of_request || *kind == K::TimedOut,
            (Side::Client, P::RequestBody) => {
                matches!(kind, K::TimedOut | K::Reset | K::Incomplete)
            }
            (Side::Backend, P::Connect | P::Handshake | P::RequestBody | P::ResponseHeader) => {
                let other =
                    matches!(kind, K::BadRequest(_) | K::UnknownName | K::Untrusted | K::Missing);
                !(of_proxy || other || of_request && *kind != K::HeaderTooLarge)
            }
            (Side::Proxy, P::Select | P::Connect | P::RequestBody) => of_proxy,
            _ => false,
        }
    }

    /// Status and sentence of each reply, with the kinds of failures that get it.
    fn replies() -> BTreeMap<(u16, &'static str), BTreeSet<&'static str>> {
        let mut replies = BTreeMap::<_, BTreeSet<&str>>::new();
        for failure in names::failures().filter(has_reply) {
            let reply = (status(&failure).as_u16(), sentence(&failure));
            replies.entry(reply).or_default().insert(names::kind(failure.kind));
        }
        replies
    }

    #[test]
    fn documented_replies_are_those_of_the_code() {
        let page = std::fs::read_to_string("docs/reference/messages.md").unwrap();
        let mut rows = Vec::new();
        for ((status, sentence), kinds) in replies() {
            let code = if sentence == UNKNOWN_SID { "`" } else { "" };
            let kinds: Vec<String> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
            rows.push(format!("| {status} | {code}{sentence}{code} | {} |", kinds.join(", ")));
        }
        let (_, rest) = page.split_once("## Status and sentence\n").expect("the table of replies");
        let table = rest.split("\n## ").next().unwrap_or_default();
        let is_row = |line: &&str| line.starts_with("| 4") || line.starts_with("| 5");
        let shown: Vec<&str> = table.lines().filter(is_row).collect();
        assert_eq!(shown, rows, "docs/reference/messages.md should have\n{}", rows.join("\n"));
    }
}

//! Error replies; the only place that creates them.
//!
//! A reply describes the failure in one sentence and contains the request id, under which the log
//! has the details. It contains no address and no backend name. Replies to cross-origin requests of
//! a browser carry CORS fields; without them the page would see an opaque network error.

mod failure;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use moorline_http::{FieldId, Head, RequestHead, ResponseHead};

pub(crate) use self::failure::{invalid_head, sentence, status};
use super::{
    error_body::{self, ErrorFormat, ErrorText},
    forwarding::RequestId,
};
use crate::{
    config::{ErrorPages, Redirect},
    error::{FailureKind, ProxyError, Side},
    gateway::{ApiReport, LocalReply, ReplyBody, describe_nothing},
    sticky::engine_io::UNKNOWN_SID,
    stream_log::StreamScope,
};

/// Seconds until a client should retry while a whole pool is unavailable: health checks take about
/// as long to detect that a backend is back.
const RETRY_AFTER_SECONDS: u32 = 2;

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

/// Returns the reply to a connection from an address that opens connections too fast; `wait`: seconds until the next may
/// come.
pub(crate) fn too_fast(wait: u32) -> Vec<u8> {
    let head = "HTTP/1.1 429 Too Many Requests\r\n\
                Content-Type: text/plain; charset=utf-8\r\n\
                Content-Length: 50\r\n\
                Cache-Control: no-store";
    let body = "Your address opens too many connections too fast.";
    format!("{head}\r\nRetry-After: {wait}\r\nConnection: close\r\n\r\n{body}\n").into()
}

/// A reply of the proxy itself.
#[derive(Debug)]
pub(super) struct OwnReply {
    /// Status and fields. `Content-Length` is present only if the body is empty; otherwise it is added when the head
    /// is written.
    pub(super) head: ResponseHead,
    pub(super) body: Bytes,
    /// Whether the connection closes after the reply.
    pub(super) closes: bool,
}

impl OwnReply {
    /// Creates a reply without fields, after which the connection stays open.
    fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { head: ResponseHead::new(status), body: body.into(), closes: false }
    }

    /// Announces the length of an empty body, unless the status has none.
    fn sized(mut self) -> Self {
        let bodiless =
            matches!(self.head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if self.body.is_empty() && !bodiless {
            self.fields().set(FieldId::ContentLength, "0");
        }
        self
    }

    fn fields(&mut self) -> &mut Head {
        &mut self.head.head
    }
}

/// Properties of a request that determine its error reply.
#[derive(Debug, Default)]
pub(super) struct ReplyContext {
    /// Origin of the page, for requests of a browser.
    origin: Option<Box<[u8]>>,
    detail: Option<Box<ReplyDetail>>,
    /// The format that the client understands.
    format: ErrorFormat,
    /// Custom error pages.
    pages: Option<Arc<ErrorPages>>,
}

/// What few error replies need.
#[derive(Debug)]
enum ReplyDetail {
    /// The request is the preflight of an Engine.IO request.
    Preflight(Preflight),
    /// Why the request does not match the API description of the route.
    Report(ApiReport),
}

/// What a browser asks for before a cross-origin request.
#[derive(Debug)]
struct Preflight {
    method: Box<[u8]>,
    headers: Option<Box<[u8]>>,
}

impl ReplyContext {
    /// Creates the context for a request; `is_engine`: it is one of Engine.IO.
    pub(super) fn of(
        request: &RequestHead,
        is_engine: bool,
        pages: Option<&Arc<ErrorPages>>,
    ) -> Self {
        let head = &request.head;
        let preflight = || {
            let method = head.get(FieldId::AccessControlRequestMethod)?.into();
            let headers = head.get(FieldId::AccessControlRequestHeaders).map(Box::from);
            let preflight = Preflight { method, headers };
            Some(Box::new(ReplyDetail::Preflight(preflight)))
        };
        Self {
            origin: head.get(FieldId::Origin).map(Box::from),
            detail: if is_engine && request.method == Method::OPTIONS { preflight() } else { None },
            format: ErrorFormat::of(request, is_engine),
            pages: pages.cloned(),
        }
    }

    /// Describes why the request does not match the API description of the route.
    pub(super) fn describe(&mut self, report: Option<ApiReport>) {
        if let Some(report) = report {
            self.detail = Some(Box::new(ReplyDetail::Report(report)));
        }
    }

    fn preflight(&self) -> Option<&Preflight> {
        match self.detail.as_deref() {
            Some(ReplyDetail::Preflight(preflight)) => Some(preflight),
            _ => None,
        }
    }

    fn report(&self) -> Option<&ApiReport> {
        match self.detail.as_deref() {
            Some(ReplyDetail::Report(report)) => Some(report),
            _ => None,
        }
    }

    /// Moves the context out.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Uses the error pages of the request's route.
    pub(super) fn use_pages(&mut self, pages: Option<&Arc<ErrorPages>>) {
        self.pages = pages.cloned();
    }

    /// Keeps the page from reading replies: its origin has no permission.
    pub(super) fn deny_origin(&mut self) {
        self.origin = None;
    }

    /// Allows the page to read the reply, unless the backend has set CORS fields.
    pub(super) fn allow_origin(&self, head: &mut Head) {
        if let Some(origin) = &self.origin
            && !head.has(FieldId::AccessControlAllowOrigin)
        {
            head.append(FieldId::AccessControlAllowOrigin, origin);
            head.set(FieldId::AccessControlAllowCredentials, "true");
            head.append(FieldId::Vary, "Origin");
        }
    }
}

/// Replies to a preflight that no backend can answer. Browsers show a page nothing about a failed
/// preflight, so the preflight is allowed once. The request itself then gets a reply that the page
/// can read. This is limited to preflights of Engine.IO requests: without a session from a backend,
/// such requests do no harm.
fn allow(preflight: &Preflight, context: &ReplyContext, id: &str) -> OwnReply {
    let mut reply = OwnReply::new(StatusCode::NO_CONTENT, Bytes::new());
    let head = reply.fields();
    head.set(FieldId::AccessControlAllowMethods, &preflight.method);
    if let Some(headers) = &preflight.headers {
        head.set(FieldId::AccessControlAllowHeaders, headers);
    }
    head.set(FieldId::AccessControlMaxAge, "0");
    head.set(FieldId::CacheControl, "no-store");
    head.set(FieldId::XRequestId, id);
    context.allow_origin(head);
    reply
}

/// Creates the reply to a failed request with this id.
pub(super) fn error(error: &ProxyError, context: &ReplyContext, id: &str) -> OwnReply {
    if let Some(preflight) = context.preflight().filter(|_| error.side != Side::Client) {
        return allow(preflight, context, id);
    }
    let status = status(error);
    let mut reply = match error.kind {
        FailureKind::SessionGone => {
            let mut reply = OwnReply::new(status, UNKNOWN_SID);
            reply.fields().set(FieldId::ContentType, "application/json");
            reply
        }
        _ => {
            let text = ErrorText { status, message: sentence(error), id };
            match context.report() {
                Some(report) if context.format.is_for_programs() => {
                    let mut reply = OwnReply::new(status, Bytes::new());
                    reply.body = error_body::problem(text, report, reply.fields());
                    reply
                }
                _ => described(text, context.format, context.pages.as_deref()),
            }
        }
    };
    let head = reply.fields();
    match error.kind {
        FailureKind::MethodNotAllowed => {
            head.set(FieldId::Allow, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        }
        FailureKind::NoOperationMethod => {
            head.set(FieldId::Allow, context.report().map_or("", |report| &report.allow));
        }
        // RFC 9110 §15.5.16.
        FailureKind::ContentCoding if context.report().is_some() => {
            head.set(FieldId::AcceptEncoding, "identity");
        }
        FailureKind::ContentCoding if error.side == Side::Client => {
            head.set(FieldId::AcceptEncoding, "gzip, deflate, br, zstd");
        }
        FailureKind::UpgradeRequired => {
            head.set(FieldId::SecWebSocketVersion, "13");
            head.set(FieldId::Connection, "Upgrade");
            head.set(FieldId::Upgrade, "websocket");
        }
        FailureKind::Unauthenticated(challenge) => {
            head.set_named("WWW-Authenticate", challenge);
        }
        FailureKind::NoBackend
        | FailureKind::Saturated
        | FailureKind::TooMany
        | FailureKind::NotAdmitted
        | FailureKind::Maintenance
        | FailureKind::RateLimited
        | FailureKind::QuotaUsed
        | FailureKind::TooManyAtOnce
        | FailureKind::AuthUnavailable
        | FailureKind::Exhausted => {
            let seconds = error.retry_after.unwrap_or(RETRY_AFTER_SECONDS);
            head.set_fmt(FieldId::RetryAfter, format_args!("{seconds}"));
        }
        _ => {}
    }
    // The request may not have been understood to its end: its connection cannot be reused.
    let is_understood = matches!(
        error.kind,
        FailureKind::UpgradeRequired
            | FailureKind::NoOperation
            | FailureKind::NoOperationMethod
            | FailureKind::MediaType
            | FailureKind::ContentCoding
            | FailureKind::InvalidRequest
    );
    let closes = error.side == Side::Client && !is_understood;
    head.set(FieldId::CacheControl, "no-store");
    head.set(FieldId::XRequestId, id);
    context.allow_origin(head);
    OwnReply { closes, ..reply }.sized()
}

/// Creates a reply that describes an error in this format.
fn described(text: ErrorText<'_>, format: ErrorFormat, pages: Option<&ErrorPages>) -> OwnReply {
    let mut reply = OwnReply::new(text.status, Bytes::new());
    reply.body = format.body(text, pages, reply.fields());
    reply
}

/// Replaces the body of a backend's response by an error reply. `has_body`: the client expects one.
pub(super) fn replace(
    head: &mut ResponseHead,
    context: &ReplyContext,
    id: &str,
    has_body: bool,
) -> Bytes {
    describe_nothing(&mut head.head);
    let message = match head.status.is_client_error() {
        true => "The server refused the request.",
        false => "The server could not answer the request.",
    };
    let text = ErrorText { status: head.status, message, id };
    let body = context.format.body(text, context.pages.as_deref(), &mut head.head);
    head.head.set(FieldId::XRequestId, id);
    if !has_body {
        return Bytes::new();
    }
    head.set_length(body.len() as u64);
    body
}

/// Ends a failed request: closes its scope and returns the reply.
pub(super) fn refuse(
    mut scope: StreamScope,
    error: &ProxyError,
    context: &ReplyContext,
) -> OwnReply {
    let reply = self::error(error, context, scope.record().id());
    scope.record().status = reply.head.status.as_u16();
    scope.sent(reply.body.len() as u64);
    scope.fail(error);
    reply
}

/// Creates the reply to a request that could not be parsed. `head`: the known part of its head.
pub(super) fn unparsed(
    error: &ProxyError,
    sentence: &str,
    id: &RequestId,
    head: &[u8],
    pages: Option<&ErrorPages>,
) -> OwnReply {
    let text = ErrorText { status: status(error), message: sentence, id: id.as_str() };
    let mut reply = described(text, ErrorFormat::of_unparsed(head), pages);
    reply.fields().set(FieldId::CacheControl, "no-store");
    reply.fields().set(FieldId::XRequestId, id.as_str());
    OwnReply { closes: true, ..reply }.sized()
}

/// Creates the reply of a redirecting listener; `path` is path and query, as sent.
pub(super) fn redirect(to: Redirect, host: &str, path: &str) -> OwnReply {
    let Redirect::Https { port } = to;
    let mut reply = OwnReply::new(StatusCode::PERMANENT_REDIRECT, Bytes::new());
    // Host and path have been validated.
    let head = reply.fields();
    match port {
        Some(port) if port != 443 => {
            head.set_fmt(FieldId::Location, format_args!("https://{host}:{port}{path}"));
        }
        _ => head.set_fmt(FieldId::Location, format_args!("https://{host}{path}")),
    }
    reply.sized()
}

/// Creates the reply that a route gives without a backend.
pub(super) fn local(answer: LocalReply, id: &str) -> OwnReply {
    let LocalReply { head, body } = answer;
    let body = match body {
        ReplyBody::Bytes(body) => body,
        // Streams are delivered piece by piece, not here.
        ReplyBody::Stream(_) => Bytes::new(),
    };
    let mut reply = OwnReply { head, body, closes: false };
    reply.fields().set(FieldId::XRequestId, id);
    reply.sized()
}

/// Creates the response to an ACME server that validates a name (RFC 8555 §8.3).
pub(super) fn challenge(answer: Bytes) -> OwnReply {
    let mut reply = OwnReply::new(StatusCode::OK, answer);
    reply.fields().set(FieldId::ContentType, "application/octet-stream");
    reply.sized()
}

#[cfg(test)]
mod tests;

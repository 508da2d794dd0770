use std::collections::{BTreeMap, BTreeSet};

use moorline_http::{BodyLength, Buffer, ClientConnection, HttpVersion};

use super::*;
use crate::{error::Phase, observe::names, proxy::testing::request};

/// The head of a reply as it is sent, without its date.
fn written(reply: &OwnReply) -> String {
    let (version, closes) = (HttpVersion::Http11, reply.closes);
    let client = ClientConnection { version, closes, upgrade: None };
    let mut out = Buffer::new();
    reply.head.write(&mut out, BodyLength::Exactly(reply.body.len() as u64), client);
    let text = String::from_utf8(out.filled().to_vec()).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

fn context(fields: &str) -> ReplyContext {
    let request = request(&format!("GET / HTTP/1.1\r\nX-Request-Id: 1\r\n{fields}"));
    ReplyContext::of(&request, false, None)
}

fn failure(side: Side, kind: FailureKind) -> ProxyError {
    ProxyError::new(side, Phase::Select, kind)
}

#[test]
fn an_error_has_one_sentence_and_an_id_and_may_close() {
    let reply = error(&failure(Side::Client, FailureKind::NoRoute), &context(""), "1");
    assert_eq!(
        written(&reply),
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Cache-Control: no-store\r\nX-Request-Id: 1\r\nContent-Length: 50\r\n\
         Connection: close\r\n\r\n"
    );
    assert_eq!(reply.body, "No route covers this host and path.\nRequest id: 1\n");
}

#[test]
fn a_page_of_another_origin_can_read_the_error() {
    let context = context("Origin: https://chat.test\r\nContent-Type: application/grpc\r\n");
    let failure = failure(Side::Proxy, FailureKind::NoBackend).with_retry_after(7);
    let reply = error(&failure, &context, "1");
    assert_eq!(
        written(&reply),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/grpc\r\n\
         grpc-status: 14\r\ngrpc-message: No backend is available.\r\nRetry-After: 7\r\n\
         Cache-Control: no-store\r\nX-Request-Id: 1\r\n\
         Access-Control-Allow-Origin: https://chat.test\r\n\
         Access-Control-Allow-Credentials: true\r\nVary: Origin\r\nContent-Length: 0\r\n\r\n"
    );
    let mut of_backend = ResponseHead::new(StatusCode::OK);
    of_backend.head.append(FieldId::AccessControlAllowOrigin, "*");
    context.allow_origin(&mut of_backend.head);
    assert!(!of_backend.head.has(FieldId::Vary), "the backend's CORS fields stay");
}

#[test]
fn a_preflight_of_an_engine_io_request_is_allowed_if_no_backend_answers() {
    let request = request(
        "OPTIONS /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nOrigin: https://a.test\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-a\r\n",
    );
    let context = ReplyContext::of(&request, true, None);
    let allowed = error(&failure(Side::Proxy, FailureKind::NoBackend), &context, "1");
    let text = written(&allowed);
    assert!(text.starts_with("HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Methods: POST\r\n"));
    assert!(text.contains("\r\nAccess-Control-Allow-Headers: x-a\r\n"), "{text}");
    assert!(!text.contains("Content-Length"), "{text}");
    let rejected = error(&failure(Side::Client, FailureKind::NoRoute), &context, "1");
    assert_eq!(rejected.head.status, StatusCode::NOT_FOUND);
}

#[test]
fn an_unsupported_websocket_version_keeps_the_connection() {
    let reply = error(&failure(Side::Client, FailureKind::UpgradeRequired), &context(""), "1");
    let text = written(&reply);
    assert!(!reply.closes);
    for line in ["Sec-WebSocket-Version: 13", "Connection: Upgrade", "Upgrade: websocket"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{text}");
    }
}

#[test]
fn an_unparsed_request_gets_the_format_that_its_head_asks_for() {
    let failure = failure(Side::Client, FailureKind::Malformed);
    let head = b"GET /a b HTTP/1.1\r\nAccept: application/json\r\n";
    let reply = unparsed(&failure, "Why.", &RequestId::new(), head, None);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((&body["status"], &body["message"]), (&400.into(), &"Why.".into()));
    assert!(reply.closes && reply.head.head.has(FieldId::XRequestId));
}

#[test]
fn a_redirect_keeps_path_and_query() {
    let to = |port| written(&redirect(Redirect::Https { port }, "chat.test", "/a?b=\u{fc}"));
    let text = to(Some(443));
    assert_eq!(
        text,
        "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://chat.test/a?b=\u{fc}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    assert_eq!(to(None), text);
    assert!(to(Some(8443)).contains(": https://chat.test:8443/a?"));
}

#[test]
fn fixed_replies_have_the_announced_length() {
    for reply in [PLAIN_ON_TLS, TOO_MANY, &too_fast(7)] {
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
            | K::Forbidden
            | K::Maintenance
            | K::RateLimited
            | K::QuotaUsed
            | K::TooManyAtOnce
            | K::NoFile
            | K::Unauthenticated(_)
            | K::Denied
            | K::LoginFailed
            | K::AuthUnavailable
    );
    let of_body =
        matches!(kind, K::BodyTooLarge | K::ContentCoding | K::MediaType | K::Unchangeable);
    match (side, phase) {
        (Side::Client, P::Request) => of_request || *kind == K::TimedOut,
        (Side::Client, P::RequestBody) => {
            of_body || matches!(kind, K::TimedOut | K::Reset | K::Incomplete)
        }
        (Side::Backend, P::ResponseBody) => of_body,
        (Side::Backend, P::Connect | P::Handshake | P::RequestBody | P::ResponseHeader) => {
            let other = matches!(
                kind,
                K::BadRequest(_)
                    | K::UnknownName
                    | K::Untrusted
                    | K::Missing
                    | K::MessageTooLarge
                    | K::MessageRate
                    | K::Unauthenticated(_)
                    | K::Denied
                    | K::LoginFailed
                    | K::AuthUnavailable
            );
            !(of_proxy || of_body || other || of_request && *kind != K::HeaderTooLarge)
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

/// With `BLESS=1` in the environment, the test rewrites the table.
#[test]
fn documented_replies_are_those_of_the_code() {
    let path = "docs/reference/messages.md";
    let page = std::fs::read_to_string(path).unwrap();
    let mut rows = Vec::new();
    for ((status, sentence), kinds) in replies() {
        let code = if sentence == UNKNOWN_SID { "`" } else { "" };
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
        rows.push(format!("| {status} | {code}{sentence}{code} | {} |", kinds.join(", ")));
    }
    let start = page.find("## Status and sentence\n").expect("the table of replies");
    let table = page[start..].split("\n## ").next().unwrap_or_default();
    let is_row = |line: &&str| line.starts_with("| 4") || line.starts_with("| 5");
    let shown: Vec<&str> = table.lines().filter(is_row).collect();
    if shown != rows && std::env::var_os("BLESS").is_some() {
        std::fs::write(path, page.replace(&shown.join("\n"), &rows.join("\n"))).unwrap();
        return;
    }
    assert_eq!(shown, rows, "{path} is not current; run the test with BLESS=1");
}

//! Detects long polls: requests that a backend holds until it has data.
//!
//! They are recognized by what common clients send. Engine.IO polls are handled elsewhere: their
//! sessions determine how long a backend may hold them. For any other long poll, the pool's
//! `long_polls` names the path.

use http::Method;
use moorline_http::{FieldId, RequestHead};

use crate::config::path::normal;

/// SockJS transports that hold their request (sockjs-protocol 0.3.4).
const SOCKJS: [&str; 5] = ["xhr", "xhr_streaming", "jsonp", "eventsource", "htmlfile"];

/// Usual mount points of Bayeux servers: CometD, faye.
const BAYEUX: [&str; 3] = ["cometd", "bayeux", "faye"];

/// Length of a SignalR connection token: 16 bytes in base64url.
const SIGNALR_TOKEN: usize = 22;

/// Whether the request is an event stream or a long poll of a known protocol.
pub(super) fn is_recognized(request: &RequestHead) -> bool {
    let (path, query) = (request.path(), request.query().unwrap_or_default());
    request.head.has_token(FieldId::Accept, "text/event-stream")
        || is_sockjs(path)
        || is_bayeux(path)
        || request.method == Method::GET && (is_signalr(query) || path.ends_with("/longpoll"))
}

/// Whether `prefixes`, in normal form, contain the path or a parent of it.
pub(super) fn is_named(path: &str, prefixes: &[String]) -> bool {
    if prefixes.is_empty() {
        return false;
    }
    let path = normal(path);
    prefixes.iter().any(|prefix| {
        let rest = path.strip_prefix(prefix.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// `/prefix/{three digits}/{session}/{transport}`.
fn is_sockjs(path: &str) -> bool {
    // The shortest such path is longer.
    if path.len() < "/000/s/xhr".len() {
        return false;
    }
    let mut segments = path.rsplit('/');
    let (transport, session, server) = (segments.next(), segments.next(), segments.next());
    let is_server = |server: &str| server.len() == 3 && server.bytes().all(|b| b.is_ascii_digit());
    transport.is_some_and(|transport| SOCKJS.contains(&transport))
        && session.is_some_and(|session| !session.is_empty())
        && server.is_some_and(is_server)
}

fn is_bayeux(path: &str) -> bool {
    // The shortest name, behind a slash.
    path.len() > 4 && path.split('/').any(|segment| BAYEUX.contains(&segment))
}

/// ASP.NET Core sends `id=TOKEN`, ASP.NET `transport=longPolling`.
fn is_signalr(query: &str) -> bool {
    let is_token = |value: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        value.len() == SIGNALR_TOKEN && value.bytes().all(allowed)
    };
    query.split('&').any(|pair| {
        pair == "transport=longPolling" || pair.strip_prefix("id=").is_some_and(is_token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::request;

    fn recognized(method: Method, target: &str) -> bool {
        is_recognized(&request(&format!("{method} {target} HTTP/1.1\r\n")))
    }

    #[test]
    fn long_polls_are_recognized_by_their_form() {
        for target in [
            "/echo/042/k3jd9f/xhr_streaming",
            "/a/b/000/x/jsonp",
            "/hub?id=AbCdEfGhIjKlMnOpQrStU_&_=1700000000",
            "/signalr/poll?transport=longPolling&clientProtocol=2.1",
            "/live/longpoll?token=x&vsn=2.0.0",
            "/cometd/connect",
            "/faye",
        ] {
            assert!(recognized(Method::GET, target), "{target}");
        }
        assert!(recognized(Method::POST, "/echo/042/k3jd9f/xhr"));
        for target in [
            "/",
            "/items?id=5",
            "/items?id=AbCdEfGhIjKlMnOpQrSt",
            "/echo/042/k3jd9f/xhr_send",
            "/echo/42/k3jd9f/xhr",
            "/echo/042//xhr",
            "/longpolls",
            "/cometds",
        ] {
            assert!(!recognized(Method::GET, target), "{target}");
        }
        assert!(!recognized(Method::POST, "/hub?id=AbCdEfGhIjKlMnOpQrStU_"));
    }

    #[test]
    fn named_paths_cover_what_is_below_them() {
        let named = |path| is_named(path, &["/events/".to_owned()]);
        assert!(named("/events") && named("/events/") && named("/events/7"));
        assert!(!named("/eventsource") && !named("/"));
        assert!(is_named("/x", &["/".to_owned()]));
        assert!(named("//events") && named("/%65vents"), "paths are compared in normal form");
    }
}

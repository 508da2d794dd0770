//! The chat page and its files, as HTTP replies.
//!
//! The files are part of the binary and refer to no other origin, so that the page works without a network.
//! The content security policy enforces this.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::control::ActionHandler;

const PAGE_CSS: &[u8] = include_bytes!("page.css");
const NODES_JS: &[u8] = include_bytes!("nodes.js");
const PAGE_JS: &[u8] = include_bytes!("page.js");
const CLIENT_JS: &[u8] = include_bytes!("socket.io.min.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Replies to requests that are not for Socket.IO: the page, its files, its actions, or 404.
pub(super) async fn answer<B>(
    request: &Request<B>,
    actions: &ActionHandler,
) -> Response<Full<Bytes>> {
    if let Some(action) = request.uri().path().strip_prefix("/demo/") {
        return actions.answer(action, request).await;
    }
    let (kind, text) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", actions.page()),
        "/page.css" => ("text/css; charset=utf-8", Bytes::from_static(PAGE_CSS)),
        "/nodes.js" => ("text/javascript; charset=utf-8", Bytes::from_static(NODES_JS)),
        "/page.js" => ("text/javascript; charset=utf-8", Bytes::from_static(PAGE_JS)),
        "/client.js" => ("text/javascript; charset=utf-8", Bytes::from_static(CLIENT_JS)),
        _ => return plain(StatusCode::NOT_FOUND, "Not found; the chat is at /\n"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET is allowed\n");
    }
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Another version of the demo may use the same address later.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

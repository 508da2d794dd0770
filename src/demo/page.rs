//! The chat page and its parts, as HTTP replies.
//!
//! The parts are compiled in and name nothing outside their own origin, so the page works without
//! any network; the content security policy holds it to that.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::control::Desk;

const PAGE_CSS: &[u8] = include_bytes!("page.css");
const NODES_JS: &[u8] = include_bytes!("nodes.js");
const PAGE_JS: &[u8] = include_bytes!("page.js");
const CLIENT_JS: &[u8] = include_bytes!("socket.io.min.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers whatever is not Socket.IO's: the page, its style and scripts, its orders, or 404.
pub(super) async fn answer<B>(request: &Request<B>, desk: &Desk) -> Response<Full<Bytes>> {
    if let Some(order) = request.uri().path().strip_prefix("/demo/") {
        return desk.answer(order, request).await;
    }
    let (kind, text) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", desk.page()),
        "/page.css" => ("text/css; charset=utf-8", Bytes::from_static(PAGE_CSS)),
        "/nodes.js" => ("text/javascript; charset=utf-8", Bytes::from_static(NODES_JS)),
        "/page.js" => ("text/javascript; charset=utf-8", Bytes::from_static(PAGE_JS)),
        "/client.js" => ("text/javascript; charset=utf-8", Bytes::from_static(CLIENT_JS)),
        _ => return plain(StatusCode::NOT_FOUND, "There is nothing here; the chat is at /\n"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here\n");
    }
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Another version of the demo may answer at the same address tomorrow.
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

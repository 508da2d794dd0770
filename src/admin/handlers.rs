//! Replies of the metrics endpoint, without I/O.
//!
//! - `GET /metrics`: all metrics, as OpenMetrics text.
//! - `GET /live`: 200 as long as the process replies.
//! - `GET /ready`: 200 if new clients should be sent here, else 503.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::observe::{BackendSample, CacheSample, CertificateSample, Metrics, metrics};

/// Sources of the replies.
pub struct AdminState {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Returns the current state of the backends.
    pub backends: Box<dyn Fn() -> Vec<BackendSample> + Send + Sync>,
    /// Returns the certificates that listeners currently use.
    pub certificates: Box<dyn Fn() -> Vec<CertificateSample> + Send + Sync>,
    /// Returns what the stores of responses use.
    pub cache: Box<dyn Fn() -> Vec<CacheSample> + Send + Sync>,
    /// Whether new clients should be sent here: the process serves and does not drain.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Returns the reply to a request.
pub fn answer(method: &Method, path: &str, state: &AdminState) -> Response<Full<Bytes>> {
    let known = matches!(path, "/metrics" | "/live" | "/ready");
    if known && method != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match path {
        "/metrics" => {
            let certificates = (state.certificates)().into_iter();
            let (backends, cache) = ((state.backends)().into_iter(), (state.cache)().into_iter());
            let body = state.metrics.encode(backends, certificates, cache);
            reply(StatusCode::OK, metrics::CONTENT_TYPE, body)
        }
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if (state.ready)() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => text(StatusCode::NOT_FOUND, "unknown path; use /metrics, /live or /ready\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

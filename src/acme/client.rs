//! HTTP client for ACME servers: HTTP/1.1 over the TLS stack of the proxy.
//!
//! Each request uses a new connection, and has a time limit and a limit of the response. Redirects are not
//! followed. `Retry-After` of a response is kept here ([`Client::retry_after`]), because instant-acme does
//! not return it.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http_client::{self, HttpConnection, with_sources},
    net::tls_client,
};

/// Time limit of one request, from the connection attempt to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a response body, in bytes. Certificate chains are the largest responses.
const MAX_BODY: usize = 1 << 20;

/// Sends requests to one server.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    retry: Arc<Mutex<RetryAfter>>,
}

/// `Retry-After` of the newest response.
#[derive(Clone, Copy, Debug, Default)]
struct RetryAfter {
    at: Option<SystemTime>,
    /// Whether the status was an error.
    failed: bool,
}

impl Client {
    /// A client that trusts `ca`, or else the authorities of the system. Reads files.
    ///
    /// # Errors
    /// The trusted authorities cannot be loaded.
    pub(super) async fn new(ca: Option<&[CertificateDer<'static>]>) -> Result<Self, rustls::Error> {
        let ca = ca.map(<[_]>::to_vec);
        let tls = spawn_blocking(move || tls_client::client_trusting(ca.as_deref())).await;
        let tls = tls.map_err(|error| rustls::Error::General(error.to_string()))??;
        Ok(Self { tls, retry: Arc::default() })
    }

    /// Time until the end of the newest `Retry-After`, if it came with an error status.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.newest().failed.then(|| self.poll_after()).flatten()
    }

    /// Time until the end of the newest `Retry-After`.
    pub(super) fn poll_after(&self) -> Option<Duration> {
        self.newest().at?.duration_since(SystemTime::now()).ok()
    }

    fn newest(&self) -> RetryAfter {
        *self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((host, port)).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    async fn send(
        self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, RequestError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let uri = parts.uri;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(RequestError::new(format!("{uri}: only https URLs are supported")));
        }
        let failed = |error: &dyn std::error::Error| {
            RequestError::new(format!("{host}: {}", with_sources(error)))
        };
        let stream = self.connect(&host, uri.port_u16().unwrap_or(443)).await;
        let stream = stream.map_err(|error| failed(&error))?;

        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(parts.method)
            .uri(target)
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        *request.headers_mut() = parts.headers;
        let host_field = HeaderValue::from_str(authority).map_err(|error| failed(&error))?;
        request.headers_mut().insert(header::HOST, host_field);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));

        let mut connection = HttpConnection::open(stream).await.map_err(|error| failed(&error))?;
        let response = connection.send(request).await.map_err(|error| failed(&error))?;
        let (mut parts, body) = response.into_parts();
        // Removed, because instant-acme would sleep for that time, and its arithmetic may overflow.
        let retry_after = parts.headers.remove(header::RETRY_AFTER);
        let is_error = parts.status.is_client_error() || parts.status.is_server_error();
        *self.retry.lock().unwrap_or_else(PoisonError::into_inner) =
            RetryAfter { at: retry_after.as_ref().and_then(parse_retry_after), failed: is_error };
        let body = http_client::read(body, MAX_BODY).await.map_err(|error| failed(&error))?;
        // instant-acme would only report invalid JSON.
        if is_error && !is_problem(&body) {
            let (status, target) = (parts.status, uri.path());
            let text = format!("{host}: HTTP {status} for {target}{}", excerpt(&body));
            return Err(RequestError { text, status: Some(status) });
        }
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, uri) = (self.clone(), request.uri().clone());
        Box::pin(async move {
            let answer = timeout(TIMEOUT, client.send(request)).await;
            let late = || {
                let seconds = TIMEOUT.as_secs();
                RequestError::new(format!("{uri}: no complete response within {seconds} s"))
            };
            let answer = answer.unwrap_or_else(|_| Err(late()));
            answer.map(BytesResponse::from).map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

/// A request without a usable response.
#[derive(Debug)]
struct RequestError {
    text: String,
    /// Status of a response that is not an ACME problem document.
    status: Option<StatusCode>,
}

impl RequestError {
    /// There was no response.
    fn new(text: String) -> Self {
        Self { text, status: None }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for RequestError {}

/// Whether a retry of the same request may succeed: the network or the server failed, the server was
/// busy, or it rejected the nonce.
pub(super) fn is_temporary(error: &Error) -> bool {
    let busy = |status: u16| status >= 500 || [408, 429].contains(&status);
    match error {
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let kind = kind.trim_start_matches("urn:ietf:params:acme:error:");
            let known = ["badNonce", "rateLimited", "serverInternal"].contains(&kind);
            known || problem.status.is_some_and(busy)
        }
        Error::Other(inner) => match inner.downcast_ref::<RequestError>() {
            Some(error) => error.status.is_none_or(|status| busy(status.as_u16())),
            None => true,
        },
        // A response that was cut, or sent by a proxy in between.
        Error::Json(_) | Error::Http(_) | Error::Timeout(_) => true,
        _ => false,
    }
}

/// Whether a response body is a problem document (RFC 8555 §6.7).
fn is_problem(body: &[u8]) -> bool {
    let read = serde_json::from_slice::<serde_json::Value>(body).ok();
    read.is_some_and(|value| value.get("type").or(value.get("detail")).is_some())
}

/// The first part of a body that is not a problem document, without control characters.
fn excerpt(body: &[u8]) -> String {
    const MAX_CHARS: usize = 100;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_CHARS)]).into_owned();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = words.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

/// Parses a number of seconds, or a date (RFC 9110 §10.2.3).
fn parse_retry_after(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok().map(|at| {
            let seconds = u64::try_from(at.timestamp().as_second()).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        }),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ServerConfig, sign::SingleCertAndKey};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::net::tls;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let left = |text| {
            let at = parse_retry_after(&HeaderValue::from_static(text))?;
            Some(at.duration_since(SystemTime::now()).unwrap_or_default().as_secs())
        };
        assert!((118..=120).contains(&left("120").unwrap()));
        assert!(left("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > 1 << 30);
        assert_eq!(left("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        assert_eq!(left("soon"), None);
    }

    #[test]
    fn temporary_failures_are_distinguished_from_rejections() {
        let response =
            |status| Error::Other(Box::new(RequestError { text: String::new(), status }));
        assert!(
            is_temporary(&response(None))
                && is_temporary(&response(Some(StatusCode::SERVICE_UNAVAILABLE)))
        );
        assert!(!is_temporary(&response(Some(StatusCode::FORBIDDEN))));
        let problem = |kind: &str, status: u16| {
            let text =
                format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","status":{status}}}"#);
            assert!(is_problem(text.as_bytes()));
            Error::Api(serde_json::from_str(&text).unwrap())
        };
        assert!(
            is_temporary(&problem("badNonce", 400))
                && is_temporary(&problem("serverInternal", 500))
        );
        assert!(!is_temporary(&problem("unauthorized", 403)));
        assert!(!is_problem(b"{}") && !is_problem(b"<html>"));
        assert_eq!(excerpt(b"<h1>\r\n Maintenance\0</h1>"), ": <h1> Maintenance</h1>");
        assert_eq!(excerpt(b""), "");
    }

    #[tokio::test]
    async fn retry_after_is_kept_and_removed_from_the_response() {
        let certificate = tls::self_signed(&["localhost".to_owned()]).unwrap();
        let ca = [certificate.key.cert[0].clone()];
        let config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://localhost:{}/dir", listener.local_addr().unwrap().port());
        let client = Client::new(Some(&ca)).await.unwrap();
        for (status, field, kept) in [
            ("429 Too Many Requests", "Retry-After: 120\r\n", true),
            ("503 Service Unavailable", "Retry-After: 120\r\n", true),
            ("200 OK", "Retry-After: 120\r\n", false),
            ("503 Service Unavailable", "Retry-After: 18446744073709551615\r\n", false),
            ("503 Service Unavailable", "", false),
        ] {
            let serve = async {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut header = Vec::new();
                while !header.ends_with(b"\r\n\r\n") {
                    header.push(stream.read_u8().await.unwrap());
                }
                let body = r#"{"detail":"no"}"#;
                let answer =
                    format!("HTTP/1.1 {status}\r\n{field}Content-Length: 15\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let request = Request::get(&uri).body(BodyWrapper::default()).unwrap();
            let (answer, ()) = tokio::join!(client.request(request), serve);
            let answer = answer.unwrap();
            assert!(answer.parts.headers.get(header::RETRY_AFTER).is_none(), "{status}");
            let retry_after =
                client.retry_after().map(|wait| (118..=120).contains(&wait.as_secs()));
            assert_eq!(retry_after, kept.then_some(true), "{status} {field}");
            assert_eq!(client.poll_after().is_some(), field.contains("120"), "{status} {field}");
        }
    }
}

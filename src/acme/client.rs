//! How the ACME server is asked: HTTP/1.1 over TLS on the stack that serves everything else.
//!
//! One connection a question, a deadline for all of it, a bounded answer, no redirect followed. What a
//! refusal says of when to come back ([`Client::come_back`]) is kept, as the protocol's library drops
//! it. Knows nothing of ACME.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;

use crate::net::tls;

/// Deadline of one question, from connecting to the answer's last byte.
const WITHIN: Duration = Duration::from_secs(30);

/// Longest answer, in bytes: a chain of certificates is the longest that comes.
const LONGEST: usize = 1 << 20;

/// Largest header of an answer.
const MAX_HEADER: usize = 16 * 1024;

/// Asks one server.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    said: Arc<Mutex<Waits>>,
}

/// When the newest answer has said to come back.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    at: Option<SystemTime>,
    /// Whether it was a refusal.
    refused: bool,
}

impl Client {
    /// One that trusts `ca`, or else whom the system trusts. Reads files.
    ///
    /// # Errors
    /// Nobody can be trusted.
    pub(super) async fn new(ca: Option<&[CertificateDer<'static>]>) -> Result<Self, String> {
        let ca = ca.map(<[_]>::to_vec);
        let tls = spawn_blocking(move || tls::client_trusting(ca.as_deref())).await;
        let tls = tls.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(Self { tls, said: Arc::default() })
    }

    /// When the newest answer has said to come back, if it was a refusal: in how long from now.
    pub(super) fn come_back(&self) -> Option<Duration> {
        self.said().refused.then(|| self.ask_again()).flatten()
    }

    /// When the newest answer has said to ask again, in how long from now.
    pub(super) fn ask_again(&self) -> Option<Duration> {
        self.said().at?.duration_since(SystemTime::now()).ok()
    }

    fn said(&self) -> Waits {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Said> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let uri = parts.uri;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(Said::new(format!("{uri}: it is not https")));
        }
        let told = |error: &dyn std::error::Error| Said::new(format!("{host}: {}", whole(error)));
        let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await;
        let stream = stream.map_err(|error| told(&error))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| told(&error))?;
        let stream = TlsConnector::from(self.tls).connect(name, stream).await;
        let stream = stream.map_err(|error| told(&error))?;

        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(parts.method)
            .uri(target)
            .body(Full::new(body))
            .map_err(|error| told(&error))?;
        *request.headers_mut() = parts.headers;
        let host_field = HeaderValue::from_str(authority).map_err(|error| told(&error))?;
        request.headers_mut().insert(header::HOST, host_field);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));

        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        let (mut parts, body) = response.into_parts();
        // Taken out: the protocol's library would wait for as long as it says, and add it up unchecked.
        let later = parts.headers.remove(header::RETRY_AFTER);
        let refused = parts.status.is_client_error() || parts.status.is_server_error();
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) =
            Waits { at: later.as_ref().and_then(retry_after), refused };
        let body = Limited::new(body, LONGEST)
            .collect()
            .await
            .map_err(|error| Said::new(format!("{host}: {}", whole(error.as_ref()))))?
            .to_bytes();
        // The protocol's library would report invalid JSON.
        if refused && !is_problem(&body) {
            let (status, target) = (parts.status, uri.path());
            let text = format!("{host}: HTTP {status} for {target}{}", excerpt(&body));
            return Err(Said { text, status: Some(status) });
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
            let answer = timeout(WITHIN, client.ask(request)).await;
            let late = || Said::new(format!("{uri}: no whole answer in {} s", WITHIN.as_secs()));
            let answer = answer.unwrap_or_else(|_| Err(late()));
            answer.map(BytesResponse::from).map_err(|said| Error::Other(Box::new(said)))
        })
    }
}

/// Why there is no answer, in words.
#[derive(Debug)]
struct Said {
    text: String,
    /// Status of an answer that is not an ACME problem document.
    status: Option<StatusCode>,
}

impl Said {
    /// There was no answer at all.
    fn new(text: String) -> Self {
        Self { text, status: None }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Said {}

/// Whether the same question may be answered later: the network or the server failed, or the server
/// was busy or did not take a nonce, and has not refused what was asked.
pub(super) fn passes(error: &Error) -> bool {
    let busy = |status: u16| status >= 500 || [408, 429].contains(&status);
    match error {
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let kind = kind.trim_start_matches("urn:ietf:params:acme:error:");
            let known = ["badNonce", "rateLimited", "serverInternal"].contains(&kind);
            known || problem.status.is_some_and(busy)
        }
        Error::Other(inner) => match inner.downcast_ref::<Said>() {
            Some(said) => said.status.is_none_or(|status| busy(status.as_u16())),
            None => true,
        },
        // An answer that was cut, or of something between.
        Error::Json(_) | Error::Http(_) | Error::Timeout(_) => true,
        _ => false,
    }
}

/// Whether an answer explains itself (RFC 8555 §6.7).
fn is_problem(body: &[u8]) -> bool {
    let read = serde_json::from_slice::<serde_json::Value>(body).ok();
    read.is_some_and(|value| value.get("type").or(value.get("detail")).is_some())
}

/// First part of an answer that is not a problem document, made safe for a log line.
fn excerpt(body: &[u8]) -> String {
    const LONGEST: usize = 100;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * LONGEST)]).into_owned();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = words.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn retry_after(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok().map(|at| {
            let seconds = u64::try_from(at.timestamp().as_second()).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        }),
    }
}

/// An error and what is behind it: hyper's own words alone say little.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // An I/O error of a handshake says what rustls said, and has it for its source besides.
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
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

    #[test]
    fn both_forms_of_coming_back_are_read() {
        let left = |text| {
            let at = retry_after(&HeaderValue::from_static(text))?;
            Some(at.duration_since(SystemTime::now()).unwrap_or_default().as_secs())
        };
        assert!((118..=120).contains(&left("120").unwrap()));
        assert!(left("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > 1 << 30);
        assert_eq!(left("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        assert_eq!(left("soon"), None);
    }

    #[test]
    fn a_failure_that_may_pass_is_told_from_a_refusal() {
        let said = |status| Error::Other(Box::new(Said { text: String::new(), status }));
        assert!(passes(&said(None)) && passes(&said(Some(StatusCode::SERVICE_UNAVAILABLE))));
        assert!(!passes(&said(Some(StatusCode::FORBIDDEN))));
        let problem = |kind: &str, status: u16| {
            let text =
                format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","status":{status}}}"#);
            assert!(is_problem(text.as_bytes()));
            Error::Api(serde_json::from_str(&text).unwrap())
        };
        assert!(passes(&problem("badNonce", 400)) && passes(&problem("serverInternal", 500)));
        assert!(!passes(&problem("unauthorized", 403)));
        assert!(!is_problem(b"{}") && !is_problem(b"<html>"));
        assert_eq!(excerpt(b"<h1>\r\n Maintenance\0</h1>"), ": <h1> Maintenance</h1>");
        assert_eq!(excerpt(b""), "");
    }

    #[tokio::test]
    async fn when_to_come_back_is_kept_and_taken_out_of_the_answer() {
        let given = tls::self_signed(&["localhost".to_owned()]).unwrap();
        let ca = [given.key.cert[0].clone()];
        let config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(given.key)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://localhost:{}/dir", listener.local_addr().unwrap().port());
        let client = Client::new(Some(&ca)).await.unwrap();
        for (status, later, refused) in [
            ("429 Too Many Requests", "Retry-After: 120\r\n", true),
            ("503 Service Unavailable", "Retry-After: 120\r\n", true),
            ("200 OK", "Retry-After: 120\r\n", false),
            ("503 Service Unavailable", "Retry-After: 18446744073709551615\r\n", false),
            ("503 Service Unavailable", "", false),
        ] {
            let serve = async {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let body = r#"{"detail":"no"}"#;
                let answer =
                    format!("HTTP/1.1 {status}\r\n{later}Content-Length: 15\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let request = Request::get(&uri).body(BodyWrapper::default()).unwrap();
            let (answer, ()) = tokio::join!(client.request(request), serve);
            let answer = answer.unwrap();
            assert!(answer.parts.headers.get(header::RETRY_AFTER).is_none(), "{status}");
            let heard = client.come_back().map(|wait| (118..=120).contains(&wait.as_secs()));
            assert_eq!(heard, refused.then_some(true), "{status} {later}");
            assert_eq!(client.ask_again().is_some(), later.contains("120"), "{status} {later}");
        }
    }
}

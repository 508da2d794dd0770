//! Requests to providers of keys: one connection each, one deadline, a limited answer, no redirects.

use std::{
    error::Error,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    http_client::{HttpConnection, with_sources},
    net::tls_client,
};

/// Settings of TLS: the CA certificates of the system, read once.
static TLS: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Requests a URL, and returns the body of a response with status 200.
///
/// # Errors
/// There was no such response in time; with the reason.
pub(super) async fn fetch(
    url: &str,
    accept: &'static str,
    max_body: usize,
    deadline: Duration,
) -> Result<Bytes, String> {
    within(deadline, exchange(url, accept, max_body)).await
}

async fn exchange(
    url: &str,
    accept: &'static str,
    max_body: usize,
) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    let endpoint = Endpoint::of(url);
    let request = Request::get(endpoint.target())
        .header(header::HOST, endpoint.authority())
        .header(header::USER_AGENT, "moorline")
        .header(header::ACCEPT, accept)
        .header(header::CONNECTION, "close")
        .body(Full::default())?;
    let response = endpoint.connect().await?.exchange(request, max_body).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(format!("status {}", status.as_u16()).into()),
    }
}

/// The server of a URL.
#[derive(Debug)]
pub(super) struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    secure: bool,
}

impl Endpoint {
    /// Reads a URL, which the check of the configuration has accepted.
    pub(super) fn of(url: &str) -> Self {
        let uri: Uri = url.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Self { uri, host, port, secure }
    }

    /// Target of requests: path and query.
    pub(super) fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    /// Host and port, as in the URL.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The server cannot be reached, or its certificate is not valid.
    pub(super) async fn connect(&self) -> Result<HttpConnection, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        if !self.secure {
            return Ok(HttpConnection::open(stream).await?);
        }
        let connector = TlsConnector::from(tls().await?);
        let stream = connector.connect(ServerName::try_from(self.host.clone())?, stream).await?;
        Ok(HttpConnection::open(stream).await?)
    }
}

async fn tls() -> Result<Arc<ClientConfig>, Box<dyn Error + Send + Sync>> {
    if let Some(config) = TLS.get() {
        return Ok(Arc::clone(config));
    }
    let config = spawn_blocking(|| tls_client::client_trusting(None)).await??;
    Ok(Arc::clone(TLS.get_or_init(|| config)))
}

/// Sends a form to a URL, with `Authorization` if wanted. Returns the status and the body of the response.
///
/// # Errors
/// There was no response in time; with the reason.
pub(super) async fn post_form(
    url: &str,
    form: String,
    authorization: Option<String>,
    max_body: usize,
    deadline: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let endpoint = Endpoint::of(url);
        let mut request = Request::post(endpoint.target())
            .header(header::HOST, endpoint.authority())
            .header(header::USER_AGENT, "moorline")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::CONNECTION, "close");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::from(form))?;
        let response = endpoint.connect().await?.exchange(request, max_body).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>((response.status(), response.into_body()))
    };
    within(deadline, exchange).await
}

/// Ends an exchange at its deadline, and describes its failure.
async fn within<T>(
    deadline: Duration,
    exchange: impl Future<Output = Result<T, Box<dyn Error + Send + Sync>>>,
) -> Result<T, String> {
    match timeout(deadline, exchange).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(with_sources(&*error)),
        Err(_) => {
            Err(format!("no complete response within {}", humantime::format_duration(deadline)))
        }
    }
}

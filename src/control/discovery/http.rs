//! Lists of backends over HTTP or HTTPS.
//!
//! Each query has its own connection, one deadline and a limited answer. Redirects are not followed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    SourceAnswer,
    error::{HttpListError, SourceError},
    limits::MAX_ANSWER,
    list::{self, ParsedList},
};
use crate::{
    config::HttpSource,
    http_client::{HttpClientError, HttpConnection},
    net::tls_client,
};

/// A URL that returns a list of backends.
pub(super) struct HttpList {
    config: HttpSource,
    /// Built at the first query over TLS, because it reads the system's CA certificates.
    tls: Option<Arc<ClientConfig>>,
    /// The last answer and its `ETag`.
    last: Option<(HeaderValue, ParsedList)>,
}

impl HttpList {
    pub(super) fn new(config: HttpSource) -> Self {
        Self { config, tls: None, last: None }
    }

    /// Pause after a failure.
    pub(super) fn retry(&self) -> Duration {
        self.config.interval
    }

    /// Requests the list.
    ///
    /// # Errors
    /// The request failed, or the answer is not a complete list.
    pub(super) async fn query(&mut self) -> Result<SourceAnswer, SourceError> {
        let ParsedList { backends, warnings } = timeout(self.config.timeout, self.list())
            .await
            .unwrap_or(Err(HttpListError::Timeout.into()))?;
        Ok(SourceAnswer { backends, warnings, ttl: self.config.interval })
    }

    async fn list(&mut self) -> Result<ParsedList, SourceError> {
        let response = self.fetch().await?;
        match (response.status(), &self.last) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some((_, list))) => return Ok(list.clone()),
            (status, _) if status.is_redirection() => {
                return Err(HttpListError::Redirect(status.as_u16()).into());
            }
            (status, _) => return Err(HttpListError::Status(status.as_u16()).into()),
        }
        let etag = response.headers().get(header::ETAG).cloned();
        let list = list::parse(response.body())?;
        self.last = etag.map(|etag| (etag, list.clone()));
        Ok(list)
    }

    async fn fetch(&mut self) -> Result<Response<Bytes>, HttpListError> {
        let uri: Uri = self.config.url.parse().map_err(|error| HttpListError::request(&error))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let request = self.request(&uri)?;
        let stream = TcpStream::connect((host.as_str(), port)).await;
        let stream = stream.map_err(|error| HttpListError::request(&error))?;
        if !secure {
            return send(stream, request).await;
        }
        let connector = TlsConnector::from(self.tls().await?);
        let name = ServerName::try_from(host).map_err(|error| HttpListError::request(&error))?;
        let stream = connector.connect(name, stream).await;
        send(stream.map_err(|error| HttpListError::request(&error))?, request).await
    }

    fn request(&self, uri: &Uri) -> Result<Request<Full<Bytes>>, HttpListError> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(target)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "moorline")
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close");
        if let Some((etag, _)) = &self.last {
            request = request.header(header::IF_NONE_MATCH, etag.clone());
        }
        request.body(Full::default()).map_err(|error| HttpListError::request(&error))
    }

    async fn tls(&mut self) -> Result<Arc<ClientConfig>, HttpListError> {
        if let Some(config) = &self.tls {
            return Ok(Arc::clone(config));
        }
        let config = spawn_blocking(|| tls_client::client_trusting(None)).await;
        let config = config.map_err(|error| HttpListError::request(&error))?;
        let config = config.map_err(|error| HttpListError::request(&error))?;
        self.tls = Some(Arc::clone(&config));
        Ok(config)
    }
}

/// Sends the request and reads the response.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpListError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error| match error {
        HttpClientError::BodyTooLong(_) => HttpListError::TooLong,
        error => HttpListError::request(&error),
    };
    let mut connection = HttpConnection::open(stream).await.map_err(failed)?;
    connection.exchange(request, MAX_ANSWER).await.map_err(failed)
}

//! Backends by a list over HTTP or HTTPS.
//!
//! One connection a question, one absolute deadline for all of it, a bounded answer, no redirect
//! followed.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
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
    list::{self, ParsedList},
};
use crate::{config::HttpSource, net::tls};

/// Longest answer, in bytes: some ten thousand backends.
const LONGEST: usize = 1 << 20;

/// Largest header of an answer.
const MAX_HEADER: usize = 16 * 1024;

/// A list that is asked for.
pub(super) struct HttpList {
    terms: HttpSource,
    /// Made at the first question over TLS: it reads the system's certificates.
    tls: Option<Arc<ClientConfig>>,
    /// The last answer, and what its server calls it.
    last: Option<(HeaderValue, ParsedList)>,
}

impl HttpList {
    pub(super) fn new(terms: HttpSource) -> Self {
        Self { terms, tls: None, last: None }
    }

    /// How long to wait after a failure.
    pub(super) fn retry(&self) -> Duration {
        self.terms.interval
    }

    /// Asks for the list.
    ///
    /// # Errors
    /// Everything but a list, whole and in time.
    pub(super) async fn ask(&mut self) -> Result<SourceAnswer, String> {
        let within = self.terms.timeout;
        let ParsedList { backends, troubles } = timeout(within, self.listed())
            .await
            .unwrap_or_else(|_| Err("no whole answer in time".to_owned()))?;
        Ok(SourceAnswer { backends, troubles, holds: self.terms.interval })
    }

    async fn listed(&mut self) -> Result<ParsedList, String> {
        let response = self.fetch().await?;
        match (response.status(), &self.last) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some((_, listed))) => return Ok(listed.clone()),
            (status, _) if status.is_redirection() => {
                return Err(format!("status {}: redirects are not followed", status.as_u16()));
            }
            (status, _) => return Err(format!("status {}", status.as_u16())),
        }
        let tag = response.headers().get(header::ETAG).cloned();
        let listed = list::backends(&bounded(response.into_body()).await?)?;
        self.last = tag.map(|tag| (tag, listed.clone()));
        Ok(listed)
    }

    async fn fetch(&mut self) -> Result<Response<Incoming>, String> {
        let uri: Uri = self.terms.url.parse().map_err(|_| "it is no URL".to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let request = self.request(&uri)?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| told(&e))?;
        if !secure {
            return exchange(stream, request).await;
        }
        let connector = TlsConnector::from(self.tls().await?);
        let name = ServerName::try_from(host).map_err(|error| told(&error))?;
        let stream = connector.connect(name, stream).await.map_err(|error| told(&error))?;
        exchange(stream, request).await
    }

    fn request(&self, uri: &Uri) -> Result<Request<Empty<Bytes>>, String> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(target)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "moorline")
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close");
        if let Some((tag, _)) = &self.last {
            request = request.header(header::IF_NONE_MATCH, tag.clone());
        }
        request.body(Empty::new()).map_err(|error| told(&error))
    }

    async fn tls(&mut self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = &self.tls {
            return Ok(Arc::clone(config));
        }
        let config = spawn_blocking(|| tls::client_trusting(None)).await;
        let config = config.map_err(|error| told(&error))?.map_err(|error| told(&error))?;
        self.tls = Some(Arc::clone(&config));
        Ok(config)
    }
}

/// Sends the request and waits for the head of its answer; the connection goes on beside it and ends
/// with the body.
async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEADER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| told(&error))?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| told(&error))
}

async fn bounded(mut body: Incoming) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| told(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > LONGEST {
            return Err(format!("the answer is longer than {} MiB", LONGEST >> 20));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// An error and what is behind it: hyper's own words alone say little.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

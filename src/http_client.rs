//! The HTTP/1.1 client of the control plane, the commands and the tests: requests to ACME servers, to sources of backend
//! lists, to the admin API and to servers that authenticate clients, and the requests of health checks.
//!
//! It owns the use of hyper's client: a connection over an open stream, the limit of response heads, and a limit for
//! each response body. A deadline includes the connect, so the caller sets it. Redirects are not followed.
//!
//! It must not know URLs, TLS, backends, or the meaning of a response. The data plane does not use it: it has an
//! HTTP/1.1 implementation that keeps the bytes of a message (`crates/http`).

use std::{error::Error, fmt};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// Maximum size of a response head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The bytes behind a `101`, in both directions.
pub(crate) type UpgradedStream = TokioIo<Upgraded>;

/// An HTTP connection. Dropping it closes it, unless it was upgraded.
pub(crate) struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl HttpConnection {
    /// Uses an open stream for HTTP.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn open<S>(stream: S) -> Result<Self, HttpClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // An error here fails the request too.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether the connection cannot be used any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The connection failed, or the response is not valid HTTP/1.1.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpClientError> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads the response, with a body of at most `max_body` bytes.
    ///
    /// # Errors
    /// As [`send`](Self::send), or the body is incomplete or too long.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        max_body: usize,
    ) -> Result<Response<Bytes>, HttpClientError> {
        let (parts, body) = self.send(request).await?.into_parts();
        Ok(Response::from_parts(parts, read(body, max_body).await?))
    }
}

/// Reads the body of a response, of at most `max` bytes.
///
/// # Errors
/// The body is incomplete or too long.
pub(crate) async fn read(mut body: Incoming, max: usize) -> Result<Bytes, HttpClientError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(HttpClientError::Body)?.into_data() else { continue };
        if whole.len() + data.len() > max {
            return Err(HttpClientError::BodyTooLong(max));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Returns the stream behind a `101`. The connection must not be dropped before.
///
/// # Errors
/// The connection failed, or the response is not a `101`.
pub(crate) async fn upgraded(
    response: &mut Response<Incoming>,
) -> Result<UpgradedStream, HttpClientError> {
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

/// An error of a request: the server gave no complete response.
#[derive(Debug)]
pub(crate) enum HttpClientError {
    /// The connection failed, or the response is not valid HTTP/1.1.
    Http(hyper::Error),
    /// The body is incomplete or invalid.
    Body(hyper::Error),
    /// The body is longer than this number of bytes.
    BodyTooLong(usize),
}

impl fmt::Display for HttpClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Body(error) => write!(f, "invalid response body: {error}"),
            Self::BodyTooLong(max) => write!(f, "the response body is longer than {max} bytes"),
        }
    }
}

impl Error for HttpClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Http(error) | Self::Body(error) => error.source(),
            Self::BodyTooLong(_) => None,
        }
    }
}

impl From<hyper::Error> for HttpClientError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

/// The messages of an error and its sources: the message of a hyper error alone is too general.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // The I/O error of a TLS handshake repeats the message of its source.
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The result of a request with a body limit of 5 bytes, if the server sends this.
    async fn received(answer: &[u8]) -> Result<Bytes, String> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let server = async {
            let mut request = [0; 512];
            let _ = theirs.read(&mut request).await.unwrap();
            theirs.write_all(answer).await.unwrap();
            drop(theirs);
        };
        let client = async {
            let request = Request::get("/").header("host", "a").body(Full::default()).unwrap();
            let mut connection = HttpConnection::open(ours).await.unwrap();
            connection.exchange(request, 5).await
        };
        let (response, ()) = tokio::join!(client, server);
        response.map(Response::into_body).map_err(|error| with_sources(&error))
    }

    #[tokio::test]
    async fn a_body_up_to_its_limit_is_read() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(received(answer).await.unwrap(), "hello");
        let chunks =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(received(chunks).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_longer_or_incomplete_body_is_an_error() {
        let too_long = "the response body is longer than 5 bytes";
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!";
        assert_eq!(received(answer).await.unwrap_err(), too_long);
        let until_close = b"HTTP/1.1 200 OK\r\n\r\nhello!";
        assert_eq!(received(until_close).await.unwrap_err(), too_long);
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell";
        let error = received(cut).await.unwrap_err();
        assert!(error.starts_with("invalid response body: "), "{error}");
    }
}

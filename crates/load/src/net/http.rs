//! One HTTP/1.1 connection, for consecutive requests.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep_until,
};

use super::{Connector, Stream, failures};
use crate::stats::{ErrorKind, Failure};

/// Maximum bytes of the header of a reply.
const MAX_HEAD: usize = 64 << 10;
/// Maximum bytes of the body of a reply.
const MAX_BODY: usize = 64 << 20;

type Connection = http1::Connection<TokioIo<TlsSniffer>, Full<Bytes>>;

/// A persistent connection for consecutive requests.
pub(crate) struct Http {
    connector: Arc<Connector>,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Polled by the task that waits for a reply: a separate task would double the wake-ups. `None` after its
    /// end.
    connection: Option<Pin<Box<Connection>>>,
    /// Whether the first byte from the server looks like TLS.
    tls_seen: Arc<AtomicBool>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("open", &self.connection.is_some()).finish_non_exhaustive()
    }
}

/// A server's reply.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Status.
    pub(crate) status: StatusCode,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Complete body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// Describes the reply: "the server answered 502 Bad Gateway (no backend)".
    pub(crate) fn description(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match lines.next() {
            Some(line) => {
                let start: String = line.chars().take(100).collect();
                format!("the server answered {} ({start})", self.status)
            }
            None => format!("the server answered {}", self.status),
        }
    }
}

impl Http {
    pub(super) async fn open(stream: Stream, connector: Arc<Connector>) -> Result<Self, Failure> {
        let tls_seen = Arc::new(AtomicBool::new(false));
        let io = TlsSniffer { stream, tls_seen: Some(Arc::clone(&tls_seen)) };
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| failure(&error, false))?;
        Ok(Self { connector, sender, connection: Some(Box::pin(connection)), tls_seen })
    }

    /// Whether another request can be sent: the server may have closed the connection.
    pub(crate) async fn is_open(&mut self) -> bool {
        poll_fn(|cx| {
            self.poll_connection(cx);
            Poll::Ready(self.connection.is_some() && !self.sender.is_closed())
        })
        .await
    }

    /// Waits until the server closes the idle connection.
    pub(crate) async fn closed(&mut self) -> Failure {
        poll_fn(|cx| {
            self.poll_connection(cx);
            match &self.connection {
                Some(_) => Poll::Pending,
                None => Poll::Ready(failures::ended()),
            }
        })
        .await
    }

    /// Sends a request and waits for the complete reply. The `extra` headers, such as a cookie, are sent
    /// after those of every request. The caller sets the deadline; after a timeout the connection must not be
    /// used again.
    ///
    /// # Errors
    ///
    /// `Disconnect`, `Tls` or `Protocol`. An error status is not an error here.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path_and_query: &str,
        extra: &HeaderMap,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        self.send_and_read(method, path_and_query, extra, body, None).await
    }

    /// As [`Http::send`], but reads at most `rate` bytes of the reply's body per second, averaged over the body.
    /// Nothing is read between two parts of the body.
    pub(crate) async fn send_and_read(
        &mut self,
        method: Method,
        path_and_query: &str,
        extra: &HeaderMap,
        body: Bytes,
        rate: Option<usize>,
    ) -> Result<Reply, Failure> {
        let uri = path_and_query.parse::<Uri>().map_err(|error| {
            Failure::new(ErrorKind::Protocol, format!("invalid path {path_and_query}: {error}"))
        })?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.clone_from(self.connector.headers());
        headers.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));

        let reply = self.sender.send_request(request);
        let reply = self.poll_until_ready(reply).await.map_err(|error| self.failure(&error))?;
        let (head, body) = reply.into_parts();
        let body = Limited::new(body, MAX_BODY);
        let body = match rate {
            None => self.poll_until_ready(body.collect()).await.map(|body| body.to_bytes()),
            Some(rate) => self.read_slowly(body, rate).await,
        };
        let body = body.map_err(|error| self.body_failure(&*error))?;
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    async fn read_slowly(
        &mut self,
        mut body: Limited<Incoming>,
        rate: usize,
    ) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let start = Instant::now();
        let mut read = BytesMut::new();
        while let Some(frame) = self.poll_until_ready(body.frame()).await {
            if let Ok(part) = frame?.into_data() {
                read.extend_from_slice(&part);
            }
            let due = start + Duration::from_secs_f64(read.len() as f64 / rate as f64);
            sleep_until(due.into()).await;
        }
        Ok(read.freeze())
    }

    /// Polls the connection until `what` is ready.
    async fn poll_until_ready<F: Future>(&mut self, what: F) -> F::Output {
        let mut what = pin!(what);
        poll_fn(|cx| {
            self.poll_connection(cx);
            what.as_mut().poll(cx)
        })
        .await
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) {
        let ended = match &mut self.connection {
            Some(connection) => connection.as_mut().poll(cx).is_ready(),
            None => false,
        };
        // The request that waits receives the error of the connection.
        if ended {
            self.connection = None;
        }
    }

    fn failure(&self, error: &hyper::Error) -> Failure {
        failure(error, self.tls_seen.load(Ordering::Relaxed))
    }

    fn body_failure(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        match error.downcast_ref::<hyper::Error>() {
            Some(error) => self.failure(error),
            None if error.is::<LengthLimitError>() => Failure::new(
                ErrorKind::Protocol,
                format!("the server's reply is longer than {MAX_BODY} bytes"),
            ),
            None => Failure::new(ErrorKind::Protocol, error.to_string()),
        }
    }
}

fn failure(error: &hyper::Error, tls_seen: bool) -> Failure {
    let source = std::error::Error::source(error);
    if tls_seen {
        return failures::server_uses_tls();
    }
    if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        return failures::lost(io);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return failures::ended();
    }
    let description = match source {
        Some(source) => format!("the server's reply is not HTTP ({source})"),
        None => format!("the server's reply is not HTTP ({error})"),
    };
    Failure::new(ErrorKind::Protocol, description)
}

/// Checks the first byte of a plain-text server: hyper reports TLS only as invalid HTTP.
struct TlsSniffer {
    stream: Stream,
    /// `None` after the first byte.
    tls_seen: Option<Arc<AtomicBool>>,
}

impl AsyncRead for TlsSniffer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.tls_seen.is_some()
            && let Some(first) = buf.filled().get(before)
            && let Some(seen) = self.tls_seen.take()
        {
            seen.store(failures::is_tls_record(*first), Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for TlsSniffer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

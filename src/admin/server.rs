//! Server of the admin endpoints: few connections, short deadlines, independent of drains.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

use super::{
    access::AdminTransport,
    handlers::{self, AdminState},
    service::Api,
};
use crate::{net::listener, observe::Metrics, shutdown};

/// Maximum number of connections at once; further connections wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Deadline of a request header, including the next one on a kept-alive connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum lifetime of a connection; scrapers reconnect. Longer than the longest request, which is an
/// upgrade that waits for `ready`.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause after an accept error on the unix socket, for example if descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening admin socket.
#[derive(Clone, Debug)]
pub(super) enum AdminListener {
    Tcp(Arc<TcpListener>),
    Unix(Arc<UnixListener>),
}

/// An accepted connection.
enum AdminStream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Service of an admin socket.
#[derive(Clone)]
pub(super) enum AdminService {
    /// Metrics and readiness.
    Metrics(Arc<AdminState>),
    /// The API.
    Api(Arc<Api>),
}

/// Serves until the future is dropped, which also drops its connections, or until `handoff` hands the
/// socket over to another process: then it stops accepting, and finishes its connections.
///
/// `handoff` is not the shutdown of the process: the endpoint must report on a drain until its end,
/// and the shutdown must not wait for the endpoint.
pub(super) async fn serve(
    socket: AdminListener,
    service: AdminService,
    metrics: Arc<Metrics>,
    mut handoff: shutdown::Watch,
) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = handoff.graceful() => break,
            stream = socket.accept(&metrics), if room => {
                connections.spawn(connection(stream, service.clone(), handoff.clone()));
            }
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    metrics.panics.inc();
                }
            }
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

impl AdminListener {
    /// Accepts the next connection; cancel-safe.
    async fn accept(&self, metrics: &Metrics) -> AdminStream {
        match self {
            Self::Tcp(socket) => {
                let (stream, from) = listener::accept(socket, &metrics.accept_pauses).await;
                AdminStream::Tcp(stream, from)
            }
            Self::Unix(socket) => loop {
                match socket.accept().await {
                    Ok((stream, _)) => return AdminStream::Unix(stream),
                    Err(error) => {
                        metrics.accept_pauses.inc();
                        tracing::debug!(%error, "the admin socket cannot accept, pausing");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
    }
}

async fn connection(stream: AdminStream, service: AdminService, handoff: shutdown::Watch) {
    match stream {
        AdminStream::Tcp(stream, from) => {
            serve_connection(stream, AdminTransport::Tcp(from), service, handoff).await
        }
        AdminStream::Unix(stream) => {
            let user = stream.peer_cred().ok().map(|peer| peer.uid());
            serve_connection(stream, AdminTransport::Unix(user), service, handoff).await;
        }
    }
}

async fn serve_connection<S>(
    stream: S,
    transport: AdminTransport,
    service: AdminService,
    mut handoff: shutdown::Watch,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request, transport).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = handoff.graceful() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin endpoint failed"),
        Err(_) => tracing::debug!("a connection to the admin endpoint took too long"),
    }
}

impl AdminService {
    async fn answer(
        &self,
        request: Request<Incoming>,
        transport: AdminTransport,
    ) -> Response<Full<Bytes>> {
        match self {
            Self::Metrics(state) => handlers::answer(request.method(), request.uri().path(), state),
            Self::Api(api) => api.answer(request, transport).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        net::listener::bind_one,
        observe::{Metrics, metrics},
    };

    /// Starts an endpoint, and returns the switch of its readiness.
    async fn endpoint() -> (SocketAddr, Arc<AtomicBool>, JoinSet<()>) {
        let ready = Arc::new(AtomicBool::new(true));
        let switch = ready.clone();
        let state = AdminState {
            metrics: Arc::new(Metrics::new()),
            backends: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
            cache: Box::new(Vec::new),
            ready: Box::new(move || switch.load(SeqCst)),
        };
        let listener = bind_one("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::clone(&state.metrics);
        let service = AdminService::Metrics(Arc::new(state));
        let mut tasks = JoinSet::new();
        // Without its trigger, no handoff begins.
        let (_, handoff) = shutdown::channel();
        tasks.spawn(serve(AdminListener::Tcp(Arc::new(listener)), service, metrics, handoff));
        (address, ready, tasks)
    }

    async fn request(address: SocketAddr, line: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_metrics_liveness_and_readiness() {
        let (address, ready, _tasks) = endpoint().await;
        let answer = request(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&format!("content-type: {}\r\n", metrics::CONTENT_TYPE)));
        assert!(answer.ends_with("# EOF\n"));
        assert!(request(address, "GET /live").await.starts_with("HTTP/1.1 200 "));
        assert!(request(address, "GET /ready?x=1").await.starts_with("HTTP/1.1 200 "));
        ready.store(false, SeqCst);
        assert!(request(address, "GET /ready").await.starts_with("HTTP/1.1 503 "));
        assert!(request(address, "GET /live").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn unknown_paths_get_404_and_other_methods_405() {
        let (address, _ready, _tasks) = endpoint().await;
        assert!(request(address, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(request(address, "GET /metrics/").await.starts_with("HTTP/1.1 404 "));
        for method in ["POST", "HEAD", "DELETE"] {
            let answer = request(address, &format!("{method} /metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET\r\n"));
        }
    }

    #[tokio::test]
    async fn closing_an_idle_connection_frees_its_slot_and_idle_ones_end_with_the_server() {
        let (address, _ready, mut tasks) = endpoint().await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let waiting = tokio::spawn(async move { request(address, "GET /live").await });
        drop(idle.pop());
        assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200 "));
        tasks.shutdown().await;
        let mut open = idle.pop().unwrap();
        // Ended by FIN, or by RST if the connection was never accepted.
        assert!(matches!(open.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}

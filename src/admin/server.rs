//! Serves the endpoints: few connections, short deadlines, never a part of a drain.

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

/// Connections served at once; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// Deadline of a request's header, also of the next one on a kept connection.
const HEADER_WITHIN: Duration = Duration::from_secs(15);
/// No connection lives longer; scrapers come back. The longest answer is an upgrade's, whose `ready` is
/// shorter.
const CONNECTION_WITHIN: Duration = Duration::from_secs(300);
/// Pause after the unix socket could not accept: the process is short of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
#[derive(Clone, Debug)]
pub(super) enum AdminListener {
    Tcp(Arc<TcpListener>),
    Unix(Arc<UnixListener>),
}

/// A connection, and by which way it came.
enum AdminStream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// What is served there.
#[derive(Clone)]
pub(super) enum AdminService {
    /// Metrics and readiness.
    Metrics(Arc<AdminState>),
    /// The API.
    Api(Arc<Api>),
}

/// Serves until it is dropped, and its connections with it, or until `left` asks it to leave the
/// socket to another process: then it accepts no more and ends with what it has.
///
/// `left` is not the process's own drain, on purpose: this has to tell about a drain to the end, and
/// nobody should wait for it.
pub(super) async fn serve(
    socket: AdminListener,
    service: AdminService,
    metrics: Arc<Metrics>,
    mut left: shutdown::Watch,
) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < MOST_CONNECTIONS;
        tokio::select! {
            () = left.graceful() => break,
            stream = socket.accept(&metrics), if room => {
                connections.spawn(connection(stream, service.clone(), left.clone()));
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
    /// The next connection; cancel-safe.
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
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            },
        }
    }
}

async fn connection(stream: AdminStream, service: AdminService, left: shutdown::Watch) {
    match stream {
        AdminStream::Tcp(stream, from) => {
            converse(stream, AdminTransport::Tcp(from), service, left).await
        }
        AdminStream::Unix(stream) => {
            let user = stream.peer_cred().ok().map(|peer| peer.uid());
            converse(stream, AdminTransport::Unix(user), service, left).await;
        }
    }
}

/// One connection from its beginning to its end.
async fn converse<S>(
    stream: S,
    way: AdminTransport,
    service: AdminService,
    mut left: shutdown::Watch,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request, way).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = left.graceful() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_WITHIN, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin endpoint failed"),
        Err(_) => tracing::debug!("a connection to the admin endpoint took too long"),
    }
}

impl AdminService {
    async fn answer(
        &self,
        request: Request<Incoming>,
        way: AdminTransport,
    ) -> Response<Full<Bytes>> {
        match self {
            Self::Metrics(state) => handlers::answer(request.method(), request.uri().path(), state),
            Self::Api(api) => api.answer(request, way).await,
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

    /// A running endpoint, and the switch of its readiness.
    async fn endpoint() -> (SocketAddr, Arc<AtomicBool>, JoinSet<()>) {
        let ready = Arc::new(AtomicBool::new(true));
        let switch = ready.clone();
        let state = AdminState {
            metrics: Arc::new(Metrics::new()),
            backends: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
            ready: Box::new(move || switch.load(SeqCst)),
        };
        let listener = bind_one("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::clone(&state.metrics);
        let service = AdminService::Metrics(Arc::new(state));
        let mut tasks = JoinSet::new();
        // Without a trigger, nobody asks it to leave.
        let (_, stay) = shutdown::channel();
        tasks.spawn(serve(AdminListener::Tcp(Arc::new(listener)), service, metrics, stay));
        (address, ready, tasks)
    }

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_what_an_operator_asks() {
        let (address, ready, _tasks) = endpoint().await;
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&format!("content-type: {}\r\n", metrics::CONTENT_TYPE)));
        assert!(answer.ends_with("# EOF\n"));
        assert!(ask(address, "GET /live").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(address, "GET /ready?x=1").await.starts_with("HTTP/1.1 200 "));
        ready.store(false, SeqCst);
        assert!(ask(address, "GET /ready").await.starts_with("HTTP/1.1 503 "));
        assert!(ask(address, "GET /live").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn refuses_everything_else() {
        let (address, _ready, _tasks) = endpoint().await;
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "GET /metrics/").await.starts_with("HTTP/1.1 404 "));
        for method in ["POST", "HEAD", "DELETE"] {
            let answer = ask(address, &format!("{method} /metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET\r\n"));
        }
    }

    #[tokio::test]
    async fn idle_connections_keep_nobody_out_for_ever_and_end_with_the_server() {
        let (address, _ready, mut tasks) = endpoint().await;
        let mut idle = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let waiting = tokio::spawn(async move { ask(address, "GET /live").await });
        drop(idle.pop());
        assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200 "));
        tasks.shutdown().await;
        let mut open = idle.pop().unwrap();
        // Ended by FIN or, where it was never accepted, by RST.
        assert!(matches!(open.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}

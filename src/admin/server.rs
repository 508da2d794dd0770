//! Serves the endpoint: few connections, short deadlines, never a part of a drain.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::handlers::{self, State};
use crate::net::listener;

/// Connections served at once; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// Deadline of a request's header, also of the next one on a kept connection.
const HEADER_WITHIN: Duration = Duration::from_secs(15);
/// No connection lives longer; scrapers come back.
const CONNECTION_WITHIN: Duration = Duration::from_secs(300);

/// Serves until it is dropped, and its connections with it. It holds no drain watch on purpose: it
/// has to tell about a drain to the end, and nobody should wait for it.
pub async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < MOST_CONNECTIONS;
        tokio::select! {
            (socket, _) = listener::accept(&listener, &state.metrics.accept_pauses), if room => {
                connections.spawn(connection(socket, state.clone()));
            }
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    state.metrics.panics.inc();
                }
            }
        }
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = handlers::answer(request.method(), request.uri().path(), &state);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(socket), service);
    match tokio::time::timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin endpoint failed"),
        Err(_) => tracing::debug!("a connection to the admin endpoint took too long"),
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
        let state = State {
            metrics: Arc::new(Metrics::new()),
            backends: Box::new(Vec::new),
            ready: Box::new(move || switch.load(SeqCst)),
        };
        let listener = bind_one("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::new(state)));
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

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

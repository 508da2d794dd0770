//! One client connection, request by request, until it ends, upgrades or is drained.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{reply, respond, visitor::Visitor};
use crate::{
    drain::Phase,
    net::{half_close::HalfClose, stream::Client},
    proxy::Proxy,
};

/// Largest request header; a longer one gets a 431, a longer target a 414.
const MAX_HEADER: usize = 64 * 1024;

/// Serves a connection. In a drain it ends after the request in flight, where it is to part after the
/// next one; forced, at once.
///
/// # Errors
/// What broke the connection: the client's bytes, its socket, or a relayed body that broke off.
pub async fn serve(
    proxy: Arc<Proxy>,
    visitor: Arc<Visitor>,
    stream: Client,
) -> Result<(), hyper::Error> {
    let mut drain = visitor.drain.clone();
    let header_timeout = visitor.listener.header_timeout;
    let plain = !stream.is_tls();
    let mut stream = HalfClose::new(stream, Arc::clone(&visitor.patience));
    if plain {
        stream = stream.without_tls(reply::TLS_ON_PLAIN);
    }
    let service = service_fn(move |request| {
        let (proxy, visitor) = (Arc::clone(&proxy), Arc::clone(&visitor));
        // Before the request's future is first polled, hyper may look for the stream's end.
        let held = respond::hold(&visitor, &request);
        async move {
            let mut response = proxy.respond(&visitor, request, held).await;
            // The client's next request is on a connection to whoever accepts now. To close while
            // none is under way would be to close on one that is just being sent.
            if visitor.drain.phase() == Phase::Parting
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER)
        .max_header_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => return outcome,
        () = drain.graceful() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        outcome = connection => outcome,
        () = drain.forced() => Ok(()),
    }
}

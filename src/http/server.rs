//! One client connection, request by request, until it ends, upgrades or is shut down.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};

use super::{
    body::BodyError, connection_info::ConnectionInfo, refusal::RejectedRequest, relay::ReplyBody,
    respond,
};
use crate::{
    config::ErrorPages,
    net::{
        half_close::HalfClose,
        request_clock::{RequestInProgress, Waiting},
        stream::ClientStream,
    },
    shared::SharedState,
    shutdown::{ShutdownPhase, Watch},
    tunnel::TunnelEndpoint,
};

/// Minimum size of hyper's buffers.
const BUFFER: usize = 64 * 1024;

/// Number of fields that hyper parses without an allocation.
const USUAL_FIELDS: usize = 100;

/// How long a client that got an early reply may continue to send: in total, and without a byte.
const LINGER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// Why hyper stopped serving the connection.
enum ConnectionEnd {
    /// The client or a response has ended the connection, or it was upgraded.
    Closed,
    /// Invalid bytes of the client, a socket error, or an aborted body.
    Broken(hyper::Error),
    /// A deadline has passed.
    Late,
    /// The shutdown deadline has passed.
    Forced,
}

/// Serves a connection. Its end depends on the phase of the shutdown: after the next response
/// (`Handoff`), after the request in flight (`Graceful`), or at once (`Forced`). `refused` reports a
/// request that hyper rejects.
pub async fn serve(
    proxy: Arc<SharedState>,
    info: Arc<ConnectionInfo>,
    stream: ClientStream,
    refused: impl FnOnce(&SharedState, &ConnectionInfo, &RejectedRequest),
) {
    let stream = HalfClose::new(stream, Arc::clone(&info.client_signal), Arc::clone(&info.clock));
    let service = {
        let (proxy, info) = (Arc::clone(&proxy), Arc::clone(&info));
        service_fn(move |request| {
            let (proxy, info) = (Arc::clone(&proxy), Arc::clone(&info));
            let serving = info.clock.serve();
            info.has_body.store(!request_is_whole(&request), Ordering::Relaxed);
            // hyper may poll for EOF before it first polls the future of the request.
            let held = respond::hold(&info, &request);
            async move {
                let mut response = proxy.respond(&info, request, held).await;
                // The client's next request goes to the process that accepts now. Closing an idle
                // connection could cross a request.
                if info.drain.phase() == ShutdownPhase::Handoff
                    && response.status() != StatusCode::SWITCHING_PROTOCOLS
                {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| ServedBody { body, _serving: serving }))
            }
        })
    };
    let limits = info.listener.header;
    let mut builder = http1::Builder::new();
    // Deadlines are enforced here: hyper's do not distinguish an idle connection from half a header.
    builder
        .header_read_timeout(None)
        .preserve_header_case(true)
        .max_buf_size(limits.size.max(BUFFER))
        .max_header_size(limits.size);
    if limits.fields != USUAL_FIELDS {
        builder.max_headers(limits.fields);
    }
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let ended = {
        let mut drain = info.drain.clone();
        let mut draining = false;
        let mut sleep = pin!(sleep_until(Instant::now() + info.listener.header_timeout));
        loop {
            tokio::select! {
                biased;
                outcome = &mut connection => {
                    break outcome.map_or_else(ConnectionEnd::Broken, |()| ConnectionEnd::Closed);
                }
                () = next_phase(&mut drain, draining) => {
                    if draining {
                        break ConnectionEnd::Forced;
                    }
                    draining = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                () = poll_fn(|cx| info.poll_late(sleep.as_mut(), cx)) => break ConnectionEnd::Late,
            }
        }
    };
    let parts = connection.into_parts();
    // Boxed: the future of a connection that is served for days must not hold this state.
    Box::pin(finish(&info, ended, parts.io.into_inner(), parts.read_buf, |refusal| {
        refused(&proxy, &info, refusal);
        proxy.snapshot.load().error_pages.clone()
    }))
    .await;
}

/// Whether the request has no body left to read.
fn request_is_whole(request: &Request<Incoming>) -> bool {
    request.body().is_end_stream()
}

async fn next_phase(drain: &mut Watch, draining: bool) {
    match draining {
        false => drain.graceful().await,
        true => drain.forced().await,
    }
}

impl ConnectionInfo {
    /// Ready once the connection has waited for its limit.
    fn poll_late(&self, mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(waiting) = self.clock.waiting() else { return Poll::Pending };
            let limit = match waiting {
                Waiting::First | Waiting::Header => self.listener.header_timeout,
                Waiting::Next => self.listener.keep_alive,
            };
            let until = self.clock.since() + limit;
            // An early timer stays: most deadlines move on before it fires.
            if sleep.deadline() > until || sleep.is_elapsed() {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
        }
    }
}

/// Ends the connection: as a tunnel, by a rejection, or closed. `refused` reports the rejection and
/// returns its error pages.
async fn finish(
    info: &ConnectionInfo,
    ended: ConnectionEnd,
    stream: HalfClose<ClientStream>,
    rest: Bytes,
    refused: impl FnOnce(&RejectedRequest) -> Option<Arc<ErrorPages>>,
) {
    let waiting = info.clock.waiting();
    let since = info.clock.since();
    let refusal = match ended {
        ConnectionEnd::Forced => return,
        ConnectionEnd::Closed => return end(info, stream, &rest).await,
        ConnectionEnd::Late if waiting != Some(Waiting::Header) && rest.is_empty() => {
            if let Some(stream) = stream.into_inner() {
                close(info, stream, &[], false).await;
            }
            return;
        }
        ConnectionEnd::Late => RejectedRequest::late(rest, since),
        ConnectionEnd::Broken(error) => {
            tracing::debug!(peer = %info.peer, %error, "connection ended");
            let in_header = waiting == Some(Waiting::Header) || !rest.is_empty();
            match waiting {
                _ if error.is_parse() => RejectedRequest::broken(&error, rest, since),
                Some(_) if in_header && error.is_incomplete_message() => {
                    RejectedRequest::broken(&error, rest, since)
                }
                Some(_) if in_header => RejectedRequest::reset(rest, since),
                _ => return,
            }
        }
    };
    let pages = refused(&refusal);
    // If a reply was being written, hyper's own rejection has been sent behind it.
    if waiting.is_some()
        && refusal.status != 0
        && let Some(stream) = stream.into_inner()
    {
        close(info, stream, &refusal.answer(pages.as_deref()), true).await;
    }
}

/// Ends a connection that has served its last request: as a tunnel, or closed.
async fn end(info: &ConnectionInfo, stream: HalfClose<ClientStream>, rest: &Bytes) {
    let Some(stream) = stream.into_inner() else { return };
    if let Some(tunnel) = info.take_tunnel() {
        // Copies the few bytes, if any: hyper's read buffer would keep 8 KiB alive.
        let early = Bytes::copy_from_slice(rest);
        // A tunnel that was abandoned meanwhile drops the connection.
        let _ = tunnel.send(TunnelEndpoint { stream, early });
        return;
    }
    let lingers = info.has_body.load(Ordering::Relaxed) || !rest.is_empty();
    close(info, stream, &[], lingers).await;
}

/// Sends the last bytes and closes. Reads from a client that may still be sending until EOF: unread
/// bytes would turn the close into a reset, which overtakes the reply.
async fn close(info: &ConnectionInfo, mut stream: ClientStream, words: &[u8], lingers: bool) {
    let (most, pause) = LINGER;
    let closing = async {
        let until = Instant::now() + most;
        let end = async {
            stream.write_all(words).await?;
            stream.flush().await?;
            stream.shutdown().await
        };
        timeout(pause, end).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let mut dropped = [0; 4096];
        while lingers && timeout_at(until, timeout(pause, stream.read(&mut dropped))).await??? > 0 {
        }
        io::Result::Ok(())
    };
    let mut drain = info.drain.clone();
    tokio::select! {
        // Errors are ignored: the connection ends in any case.
        _ = closing => {}
        () = drain.forced() => {}
    }
}

/// Body of a response; its request counts as served until the body is dropped.
struct ServedBody {
    body: ReplyBody,
    _serving: RequestInProgress,
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

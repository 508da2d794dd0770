//! One client connection, request by request, until it ends, becomes a tunnel or is shut down.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use moorline_http::{BodyLength, Buffer, HeadLimits, RequestHead, RequestParser};
use tokio::{
    io::AsyncWriteExt as _,
    sync::futures::Notified,
    time::{Instant, timeout, timeout_at},
};

use super::{
    client::ClientSide, deliver, handle::handle, refusal::RejectedRequest, reply::OwnReply,
    tunnel_start::TunnelCounts, websocket::ReadyTunnel,
};
use crate::{
    config::HeaderLimits,
    net::{
        per_address::CountedConnection,
        stream::{ByteStream as _, ClientStream},
        tls::TlsInfo,
    },
    observe::ListenerMetrics,
    shared::SharedState,
    shutdown::{self, ShutdownPhase},
    snapshot::ListenerSnapshot,
    stream_log::StreamSinks,
};

/// How long a client that got an early reply may continue to send: in total, and without a byte.
const LINGER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// Properties of a client connection that all of its requests share.
#[derive(Debug)]
pub(crate) struct ConnectionInfo {
    /// Address of the peer.
    pub(crate) peer: SocketAddr,
    /// Address that the client connected to, if a backend may need it.
    pub(crate) destination: Option<SocketAddr>,
    /// TLS properties; `None` on a plain connection.
    pub(crate) tls_info: Option<Arc<TlsInfo>>,
    /// Listener that accepted the connection.
    pub(crate) listener: Arc<ListenerSnapshot>,
    /// Metrics of that listener.
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Slot among the connections of the peer's address, if those are limited.
    pub(crate) counted: Option<Arc<CountedConnection>>,
    /// Records the ends of the streams; makes a shutdown wait for them.
    pub(crate) sinks: Arc<StreamSinks>,
}

impl ConnectionInfo {
    /// Whether the connection may stay open after the current response. The client's next request goes to the process
    /// that accepts now; closing an idle connection could cross a request.
    pub(super) fn keeps_connections(&self) -> bool {
        self.sinks.drain.phase() == ShutdownPhase::Running
    }
}

/// What happens to the connection after a request.
pub(super) enum Flow {
    /// Serve the next request.
    Next,
    /// Close the connection. `lingers`: the client may still be sending.
    Close { lingers: bool },
    /// Reset the connection, so that the client does not take a partial response for a complete one.
    Reset,
    /// Drop the connection of a client that has left.
    Drop,
    /// Turn the connection into a tunnel.
    Tunnel(Box<ReadyTunnel<TunnelCounts>>),
}

/// What the wait for a request results in.
enum Arrived {
    Request(RequestHead),
    /// The connection ends without another request.
    End,
    Rejected(Box<RejectedRequest>),
    /// The shutdown is forced.
    Forced,
}

/// Serves a connection. Its end depends on the phase of the shutdown: after the next response
/// (`Handoff`), after the request in flight (`Graceful`), or at once (`Forced`). `refused` reports a
/// request that is rejected before it is understood.
pub(crate) fn serve(
    proxy: Arc<SharedState>,
    info: Arc<ConnectionInfo>,
    stream: ClientStream,
    refused: impl FnOnce(&SharedState, &ConnectionInfo, &RejectedRequest),
) -> impl Future<Output = ()> {
    let opened = Instant::now();
    let mut client = ClientSide::new(stream, opened + info.listener.header_timeout);
    let mut wait = RequestWait::new(opened, &info.listener.header);
    async move {
        let drain = &info.sinks.drain;
        let changed = pin!(drain.changed());
        let mut shutdown = ShutdownWatch { drain, changed, watched: false };
        let mut ending = loop {
            let arrived = poll_fn(|cx| match shutdown.is_forced(cx) {
                true => Poll::Ready(Arrived::Forced),
                false => wait.poll_request(cx, &info, &mut client),
            });
            let request = match arrived.await {
                Arrived::Request(request) => request,
                Arrived::End => break close(client, false),
                Arrived::Rejected(rejected) => {
                    refused(&proxy, &info, &rejected);
                    break reject(&proxy, client, rejected);
                }
                Arrived::Forced => return,
            };
            let mut handling = handle(&proxy, &info, &mut client, request);
            let flow = poll_fn(|cx| match shutdown.is_forced(cx) {
                true => Poll::Ready(Flow::Drop),
                false => handling.as_mut().poll(cx),
            });
            let flow = flow.await;
            drop(handling);
            match flow {
                Flow::Next => wait.next(),
                Flow::Close { lingers } => break close(client, lingers),
                Flow::Reset => return client.stream.reset_on_drop(),
                Flow::Drop => return,
                Flow::Tunnel(ready) => return ready.start(client),
            }
        };
        poll_fn(|cx| match shutdown.is_forced(cx) {
            true => Poll::Ready(()),
            false => ending.as_mut().poll(cx),
        })
        .await;
    }
}

/// Watches the phase of the shutdown.
struct ShutdownWatch<'a, 'd> {
    drain: &'d shutdown::Watch,
    /// The next change.
    changed: Pin<&'a mut Notified<'d>>,
    watched: bool,
}

impl ShutdownWatch<'_, '_> {
    /// Whether the shutdown is forced. The task is woken by every change of the phase.
    fn is_forced(&mut self, cx: &mut Context<'_>) -> bool {
        // Polled at the first call, and again once the phase has changed. In between, the registered waker stays
        // valid, because a task has only one.
        if !self.watched || self.drain.phase() != ShutdownPhase::Running {
            self.watched = true;
            while self.changed.as_mut().poll(cx).is_ready() {
                self.changed.set(self.drain.changed());
            }
        }
        self.drain.phase() == ShutdownPhase::Forced
    }
}

/// The wait for the next request.
struct RequestWait {
    parser: RequestParser,
    limits: HeadLimits,
    /// Start of the wait; of the first byte once the head has begun. The first request counts from the beginning of
    /// the connection.
    since: Instant,
    /// No request was served yet.
    first: bool,
    /// A part of the head has arrived.
    begun: bool,
}

impl RequestWait {
    /// Begins the wait for the first request of a connection that was opened at this time.
    fn new(opened: Instant, limits: &HeaderLimits) -> Self {
        Self {
            parser: RequestParser::default(),
            limits: HeadLimits { size: limits.size, fields: limits.fields },
            since: opened,
            first: true,
            begun: false,
        }
    }

    /// Begins the wait for another request.
    fn next(&mut self) {
        (self.since, self.first, self.begun) = (Instant::now(), false, false);
    }

    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        info: &ConnectionInfo,
        client: &mut ClientSide,
    ) -> Poll<Arrived> {
        loop {
            match self.parser.parse(&mut client.input, self.limits) {
                Ok(Some(request)) => return Poll::Ready(Arrived::Request(request)),
                Ok(None) => {}
                Err(fault) => {
                    let rejected = RejectedRequest::invalid(fault, known(client), self.since);
                    return Poll::Ready(Arrived::Rejected(Box::new(rejected)));
                }
            }
            let begun = client.input.as_ref().is_some_and(|input| !input.is_empty());
            if begun && !self.begun && !self.first {
                self.since = Instant::now();
            }
            self.begun = begun;
            match client.poll_input(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) if begun => {
                    let rejected = RejectedRequest::incomplete(known(client), self.since);
                    return Poll::Ready(Arrived::Rejected(Box::new(rejected)));
                }
                Poll::Ready(Err(_)) if begun => {
                    let rejected = RejectedRequest::reset(known(client), self.since);
                    return Poll::Ready(Arrived::Rejected(Box::new(rejected)));
                }
                Poll::Ready(_) => return Poll::Ready(Arrived::End),
                Poll::Pending => break,
            }
        }
        if !self.begun && info.sinks.drain.phase() >= ShutdownPhase::Graceful {
            return Poll::Ready(Arrived::End);
        }
        let limit = match self.first || self.begun {
            true => info.listener.header_timeout,
            false => info.listener.keep_alive,
        };
        ready!(client.timer.poll_until(cx, self.since + limit));
        Poll::Ready(match self.begun {
            true => Arrived::Rejected(Box::new(RejectedRequest::late(known(client), self.since))),
            false => Arrived::End,
        })
    }
}

/// The bytes of a head that is not complete, or was rejected.
fn known(client: &ClientSide) -> &[u8] {
    client.input.as_ref().map_or(&[], |input| input.filled())
}

/// Answers a rejected request and closes. Boxed like all steps at the end of a connection: the future of a connection
/// that is served for days must not hold their state.
fn reject(
    proxy: &SharedState,
    mut client: ClientSide,
    rejected: Box<RejectedRequest>,
) -> BoxedEnd<'_> {
    Box::pin(async move {
        if rejected.status == 0 {
            return;
        }
        let pages = proxy.snapshot.load().error_pages.clone();
        let reply = rejected.reply(pages.as_deref());
        let unread = Answered { is_head: false, keeps: false, unread: true };
        if let Flow::Close { lingers } = answer(&mut client, reply, unread).await {
            close(client, lingers).await;
        }
    })
}

/// The end of a connection.
type BoxedEnd<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a reply of the proxy must know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// The method is HEAD: the reply has no body.
    pub(super) is_head: bool,
    /// The connection may stay open.
    pub(super) keeps: bool,
    /// A part of the request was not read.
    pub(super) unread: bool,
}

/// Writes a reply of the proxy.
pub(super) async fn answer(client: &mut ClientSide, reply: OwnReply, request: Answered) -> Flow {
    let OwnReply { head, body, closes } = reply;
    let closes = closes || !request.keeps || request.unread || client.has_ended();
    let mut out = client.output.take().unwrap_or_default();
    let length = BodyLength::Exactly(body.len() as u64);
    deliver::write_head(&head, &mut out, length, client.version, closes);
    if !request.is_head {
        out.push(&body);
    }
    drop(head);
    let written = async {
        poll_fn(|cx| out.poll_drain(cx, &mut client.stream)).await?;
        client.stream.flush().await
    };
    if !closes {
        return if written.await.is_ok() { Flow::Next } else { Flow::Drop };
    }
    match timeout(LINGER.1, written).await {
        Ok(Ok(())) => Flow::Close { lingers: request.unread },
        Ok(Err(_)) | Err(_) => Flow::Drop,
    }
}

/// Closes the connection. Reads from a client that may still be sending until the end of its input: unread
/// bytes would turn the close into a reset, which overtakes the reply.
fn close(mut client: ClientSide, lingers: bool) -> BoxedEnd<'static> {
    let (most, pause) = LINGER;
    let lingers = lingers || client.input.is_some();
    Box::pin(async move {
        let until = Instant::now() + most;
        // After an error, the connection ends in any case.
        let Ok(Ok(())) = timeout(pause, client.stream.shutdown()).await else { return };
        if !lingers {
            return;
        }
        loop {
            // Holds no buffer while nothing arrives.
            let read = poll_fn(|cx| Buffer::new().poll_fill(cx, &mut client.stream));
            let Ok(Ok(Ok(1..))) = timeout_at(until, timeout(pause, read)).await else { return };
        }
    })
}

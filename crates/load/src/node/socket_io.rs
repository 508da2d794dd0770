//! A Socket.IO node that sends its name, echoes every event, and broadcasts `all`.
//!
//! After CONNECT, the node emits `node` with its name. An event with an id is acknowledged with its
//! arguments; an event without an id is emitted back. `all` is emitted to every client of the node, including
//! its sender. Every HTTP reply, even a 101, has the name as `x-node`. Requests other than Socket.IO are
//! answered with 200.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socketioxide::{
    SocketIo,
    adapter::Adapter,
    extract::{AckSender, Data, Event, SocketRef},
    handler::{FromMessageParts, Value},
    socket::Socket,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CLOSE_TIMEOUT,
    argument::Arguments,
    connection::{Connection, Connections},
};

/// Header with the name of the node that sent a reply.
const X_NODE: HeaderName = HeaderName::from_static("x-node");
/// Maximum size of a frame or POST body, larger than any payload of a client.
const MAX_PAYLOAD: usize = 128 << 20;
/// Maximum packets that wait for a client. With fewer, echoes are lost if clients send in bursts.
const MAX_WAITING_PACKETS: usize = 8192;
/// Pause after a failed accept, usually because descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Heartbeat of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    /// Time between two pings.
    pub(super) interval: Duration,
    /// Time from a ping to the end of a session that does not answer.
    pub(super) timeout: Duration,
}

/// A node that does not listen yet.
pub(super) struct Node {
    name: Arc<str>,
    header: HeaderValue,
    heartbeat: Heartbeat,
    connections: Arc<Connections>,
}

impl Node {
    /// A node with this name. Its connections can be reset through `connections`.
    ///
    /// # Errors
    ///
    /// The name is not valid in a header.
    pub(super) fn new(
        name: &str,
        heartbeat: Heartbeat,
        connections: Arc<Connections>,
    ) -> anyhow::Result<Self> {
        let header = HeaderValue::try_from(name);
        let header = header.with_context(|| format!("invalid node name {name:?}"))?;
        Ok(Self { name: name.into(), header, heartbeat, connections })
    }

    /// Serves until `stop`, then disconnects all clients.
    pub(super) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let plain = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"moorline\n"))))
        });
        let (engine, io) = SocketIo::builder()
            .ping_interval(self.heartbeat.interval)
            .ping_timeout(self.heartbeat.timeout)
            .max_payload(MAX_PAYLOAD as u64)
            .ws_max_message_size(MAX_PAYLOAD)
            .ws_max_frame_size(MAX_PAYLOAD)
            .max_buffer_size(MAX_WAITING_PACKETS)
            .build_with_inner_svc(plain);
        let name = self.name;
        io.ns("/", async move |socket: SocketRef| set_up_socket(&socket, &name));

        let tasks = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let stream = self.connections.add(stream);
            tasks.spawn(serve_connection(
                stream,
                engine.clone(),
                self.header.clone(),
                stop.clone(),
            ));
        }
        drop(listener);
        let close = async {
            io.close().await;
            tasks.close();
            tasks.wait().await;
        };
        // Clients that do not disconnect in time are cut off when the process ends.
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }
}

fn set_up_socket(socket: &SocketRef, name: &str) {
    // An emit fails only if the client has just disconnected.
    let _ = socket.emit("node", name);
    socket.on("all", async |io: SocketIo, Data::<Arguments>(arguments)| {
        if let Some(namespace) = io.of("/") {
            let _ = namespace.emit("all", &arguments).await;
        }
    });
    socket.on_fallback(echo);
}

async fn echo(
    socket: SocketRef,
    Event(event): Event,
    Data(arguments): Data<Arguments>,
    AckRequested(requested): AckRequested,
    acknowledgement: AckSender,
) {
    let _ = match requested {
        true => acknowledgement.send(&arguments),
        false => socket.emit(event, &arguments),
    };
}

/// Whether an event requests an acknowledgement; [`AckSender`] has no such method.
struct AckRequested(bool);

impl<A: Adapter> FromMessageParts<A> for AckRequested {
    type Error = Infallible;

    fn from_message_parts(
        _: &Arc<Socket<A>>,
        _: &mut Value,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        Ok(Self(id.is_some()))
    }
}

/// Serves one connection, including upgrades, and adds the node's name to each reply. On `stop`, a pending
/// request is answered first.
async fn serve_connection<S, B>(
    stream: Connection,
    engine: S,
    name: HeaderValue,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let named = service_fn(|request| {
        let reply = engine.call(request);
        let name = name.clone();
        async move {
            let mut response = reply.await?;
            response.headers_mut().insert(X_NODE, name);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), named)
            .with_upgrades()
    );
    // Errors of a connection are reported by its client.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests;

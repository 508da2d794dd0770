//! A Socket.IO node that says its name, echoes every event, and passes `all` on to everyone.
//!
//! Right after CONNECT it emits `node` with its name. An event that asks for an acknowledgement gets one
//! with the same arguments, another is emitted back; `all` is emitted to every client of this node,
//! its sender included. Every HTTP reply, 101 too, carries the name as `x-node`; requests for anything
//! but Socket.IO are answered with 200.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

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
    GOODBYE,
    argument::Arguments,
    connection::{Connection, Connections},
};

/// Names the node that made a reply.
const X_NODE: HeaderName = HeaderName::from_static("x-node");
/// Largest frame or body of a poll: above any payload that a client is asked to send.
const LARGEST: usize = 128 << 20;
/// Packets that may wait for a client: with less, an echo is lost where a client sends in bursts.
const WAITING: usize = 8192;
/// Pause after a failed accept, which is out of descriptors or will not fail twice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a node asks whether its clients are there, and how long it waits for their answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    /// From one ping to the next.
    pub(super) interval: Duration,
    /// From a ping to the end of a session that does not answer.
    pub(super) timeout: Duration,
}

/// A node before it listens.
pub(super) struct Node {
    name: Arc<str>,
    header: HeaderValue,
    heartbeat: Heartbeat,
    connections: Arc<Connections>,
}

impl Node {
    /// A node of this name, whose connections can be reset through `connections`.
    ///
    /// # Errors
    ///
    /// A sentence for the user, where the name cannot be told in a header.
    pub(super) fn new(
        name: &str,
        heartbeat: Heartbeat,
        connections: Arc<Connections>,
    ) -> Result<Self, String> {
        let header = HeaderValue::try_from(name);
        let header = header.map_err(|_| format!("{name:?} cannot be told in a header"))?;
        Ok(Self { name: name.into(), header, heartbeat, connections })
    }

    /// Serves until `stop`, then says goodbye to everyone.
    pub(super) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let plain = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"moorline\n"))))
        });
        let (engine, io) = SocketIo::builder()
            .ping_interval(self.heartbeat.interval)
            .ping_timeout(self.heartbeat.timeout)
            .max_payload(LARGEST as u64)
            .ws_max_message_size(LARGEST)
            .ws_max_frame_size(LARGEST)
            .max_buffer_size(WAITING)
            .build_with_inner_svc(plain);
        let name = self.name;
        io.ns("/", async move |socket: SocketRef| greet(&socket, &name));

        let tasks = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let stream = self.connections.keep(stream);
            tasks.spawn(connection(stream, engine.clone(), self.header.clone(), stop.clone()));
        }
        drop(listener);
        let goodbye = async {
            io.close().await;
            tasks.close();
            tasks.wait().await;
        };
        // Who does not listen in time finds out by the end of the process.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

fn greet(socket: &SocketRef, name: &str) {
    // An emit fails only where the client has just left.
    let _ = socket.emit("node", name);
    socket.on("all", async |io: SocketIo, Data::<Arguments>(arguments)| {
        if let Some(everyone) = io.of("/") {
            let _ = everyone.emit("all", &arguments).await;
        }
    });
    socket.on_fallback(echo);
}

async fn echo(
    socket: SocketRef,
    Event(event): Event,
    Data(arguments): Data<Arguments>,
    Asked(asked): Asked,
    acknowledgement: AckSender,
) {
    let _ = match asked {
        true => acknowledgement.send(&arguments),
        false => socket.emit(event, &arguments),
    };
}

/// Whether an event asks to be acknowledged: [`AckSender`] does not tell.
struct Asked(bool);

impl<A: Adapter> FromMessageParts<A> for Asked {
    type Error = Infallible;

    fn from_message_parts(
        _: &Arc<Socket<A>>,
        _: &mut Value,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        Ok(Self(id.is_some()))
    }
}

/// Serves one connection, upgrades included, and signs each reply. At the end, a request under way is
/// answered first.
async fn connection<S, B>(stream: Connection, engine: S, name: HeaderValue, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let signed = service_fn(|request| {
        let reply = engine.call(request);
        let name = name.clone();
        async move {
            let mut response = reply.await?;
            response.headers_mut().insert(X_NODE, name);
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), signed)
            .with_upgrades()
    );
    // A broken connection is its client's affair.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

#[cfg(test)]
mod tests;

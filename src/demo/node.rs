//! A Socket.IO node: an HTTP server, its Socket.IO engine, and its events.
//!
//! The node sends `welcome` ([`Welcome`]) on connect, and `message` and `crowds` for events of the bus.
//! It accepts `say` ([`Say`]) and `whoami`, and acknowledges both with [`NodeAck`]. Every HTTP reply has
//! the name of the node as `x-node`. Names and messages are cut to a maximum length. A node serves the
//! same paths below `/plain`, so that a proxy can have a second route to it.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    http::{Uri, uri::PathAndQuery},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use socketioxide::{
    SocketIo, TransportType,
    extract::{AckSender, Data, SocketRef},
};
use tokio::{
    net::TcpListener,
    sync::broadcast::{Receiver, error::RecvError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bus::{Bus, Crowd, Event, Message},
    connection::NodeConnection,
    control::ActionHandler,
    page,
};

/// Response header with the name of the node.
const X_NODE: HeaderName = HeaderName::from_static("x-node");
/// Path prefix of the proxy's second route to the nodes.
const PLAIN: &str = "/plain";
/// Maximum length of a name and of a message, in characters; the rest is cut.
const MAX_NAME: usize = 32;
const MAX_TEXT: usize = 500;
/// Maximum size of a body or frame, in bytes: the longest message and its encoding.
const MAX_PAYLOAD: u64 = 16 * 1024;
/// Shorter than Socket.IO's default of 25 s, because an idle poll ends at the next ping and people watch.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept error, for example if descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Event that a user gets on connect.
#[derive(Serialize)]
struct Welcome<'a> {
    node: &'a str,
    transport: TransportType,
    crowds: Vec<Crowd>,
    recent: Vec<Message>,
}

/// Acknowledgement with the node and the current transport.
#[derive(Serialize)]
struct NodeAck<'a> {
    node: &'a str,
    transport: TransportType,
}

/// A message from a user.
#[derive(Deserialize)]
struct Say {
    from: String,
    text: String,
}

/// A node that does not listen yet.
#[derive(Clone)]
pub(super) struct Node {
    header: HeaderValue,
    name: Arc<str>,
    bus: Arc<Bus>,
    actions: Arc<ActionHandler>,
}

/// Signals that end a node.
#[derive(Clone, Debug)]
pub(super) struct NodeLifecycle {
    /// Stop: the node stops accepting and disconnects its users.
    pub(super) stop: CancellationToken,
    /// Kill: the connections are reset; `stop` follows.
    pub(super) killed: CancellationToken,
}

impl Node {
    /// Creates a node with this name.
    pub(super) fn new(header: HeaderValue, bus: Arc<Bus>, actions: Arc<ActionHandler>) -> Self {
        let name = header.to_str().unwrap_or_default().into();
        Self { header, name, bus, actions }
    }

    /// Serves until the node is stopped or killed, then disconnects all users. Connections run as tasks of
    /// `tasks`.
    pub(super) async fn run(
        self,
        listener: TcpListener,
        lifecycle: NodeLifecycle,
        tasks: TaskTracker,
    ) {
        let NodeLifecycle { stop, killed } = lifecycle;
        let actions = Arc::clone(&self.actions);
        let page = service_fn(move |request: Request<Incoming>| {
            let actions = Arc::clone(&actions);
            async move { Ok::<_, Infallible>(page::answer(&request, &actions).await) }
        });
        let (engine, io) = SocketIo::builder()
            .ping_interval(PING_INTERVAL)
            .ping_timeout(PING_TIMEOUT)
            .max_payload(MAX_PAYLOAD)
            .build_with_inner_svc(page);
        let node = self.clone();
        io.ns("/", move |socket: SocketRef| async move { node.welcome(&socket) });
        tasks.spawn(relay(io.clone(), self.bus.subscribe(), stop.clone()));

        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let stream = NodeConnection::new(stream, killed.clone());
                    let connection = serve(stream, engine.clone(), self.header.clone());
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(connection).await });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
        // The port is closed before users are disconnected, so that they cannot reconnect to it.
        drop(listener);
        io.close().await;
        self.bus.remove(&self.name);
    }

    fn welcome(self, socket: &SocketRef) {
        let welcome = Welcome {
            node: &self.name,
            transport: socket.transport_type(),
            crowds: self.bus.crowds(),
            recent: self.bus.recent(),
        };
        // Emitting fails only if the user has just disconnected.
        let _ = socket.emit("welcome", &welcome);

        let node = self.clone();
        socket.on("whoami", move |socket: SocketRef, ack: AckSender| async move {
            let _ = ack.send(&node.acknowledgement(&socket));
        });
        let node = self.clone();
        socket.on("say", move |socket: SocketRef, Data::<Say>(say), ack: AckSender| async move {
            let (from, text) = (clip(&say.from, MAX_NAME), clip(&say.text, MAX_TEXT));
            if !from.is_empty() && !text.is_empty() {
                node.bus.say(&node.name, from, text);
            }
            let _ = ack.send(&node.acknowledgement(&socket));
        });
        let presence = Arc::new(self.bus.enter(&self.name));
        socket.on_disconnect(move || async move { drop(presence) });
    }

    fn acknowledgement(&self, socket: &SocketRef) -> NodeAck<'_> {
        NodeAck { node: &self.name, transport: socket.transport_type() }
    }
}

/// Sends the events of the bus to the users of one node.
async fn relay(io: SocketIo, mut feed: Receiver<Event>, stop: CancellationToken) {
    while let Some(event) = stop.run_until_cancelled(feed.recv()).await {
        // `None` after the node has closed.
        let Some(users) = io.of("/") else { return };
        // Emitting fails only for users that are disconnecting.
        let _ = match event {
            Ok(Event::Said(message)) => users.emit("message", &*message).await,
            Ok(Event::Crowds(crowds)) => users.emit("crowds", &*crowds).await,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
    }
}

/// Serves one connection, including upgrades, and adds `x-node` to each reply.
async fn serve<S, B>(stream: NodeConnection, engine: S, name: HeaderValue)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        if let Some(plain) = without_prefix(request.uri()) {
            *request.uri_mut() = plain;
        }
        let reply = engine.call(request);
        let name = name.clone();
        async move {
            let mut response = reply.await?;
            response.headers_mut().insert(X_NODE, name);
            Ok::<_, Infallible>(response)
        }
    });
    // Connection errors are the client's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// Removes the prefix `/plain`; `None`: the path does not begin with it.
fn without_prefix(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(PLAIN)?;
    let rest: PathAndQuery = rest.starts_with('/').then(|| rest.parse().ok())??;
    Some(rest.into())
}

/// Trims a text, removes control characters, and cuts it to `max` characters.
fn clip(text: &str, max: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control() || *c == '\n').take(max).collect()
}

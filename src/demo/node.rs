//! One Socket.IO node: an HTTP server, its Socket.IO engine, and the events it speaks.
//!
//! To a user it sends `welcome` ([`Welcome`]) on connect, `message` and `crowds` whenever the bus
//! says so; from a user it takes `say` ([`Say`]) and `whoami`, both acknowledged with [`Here`].
//! Every HTTP reply carries the node's name as `x-node`. Nobody's text is longer than its bound. A node
//! answers below `/plain` as it does without: a proxy can have a second route to it.

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
    control::Desk,
    mortal::Mortal,
    page,
};

/// Names the node that made a reply.
const X_NODE: HeaderName = HeaderName::from_static("x-node");
/// Where a proxy's second route to the nodes begins.
const PLAIN: &str = "/plain";
/// Longest name and longest message, in characters; what is beyond is cut.
const MAX_NAME: usize = 32;
const MAX_TEXT: usize = 500;
/// Largest body or frame, in bytes: the longest message with room for its packaging.
const MAX_PAYLOAD: u64 = 16 * 1024;
/// An idle poll is answered at the next ping, and somebody watches: Socket.IO's own 25 s is dull.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is out of descriptors or will not fail twice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a user is told on connect.
#[derive(Serialize)]
struct Welcome<'a> {
    node: &'a str,
    transport: TransportType,
    crowds: Vec<Crowd>,
    recent: Vec<Message>,
}

/// Which node this is, and how it and the user are connected right now.
#[derive(Serialize)]
struct Here<'a> {
    node: &'a str,
    transport: TransportType,
}

/// What a user says.
#[derive(Deserialize)]
struct Say {
    from: String,
    text: String,
}

/// A node before it listens.
#[derive(Clone)]
pub(super) struct Node {
    header: HeaderValue,
    name: Arc<str>,
    bus: Arc<Bus>,
    desk: Arc<Desk>,
}

/// How a node ends.
#[derive(Clone, Debug)]
pub(super) struct NodeLifecycle {
    /// It accepts no more and disconnects its users.
    pub(super) stop: CancellationToken,
    /// Its connections are reset without a word; `stop` follows.
    pub(super) killed: CancellationToken,
}

impl Node {
    /// The node with this name.
    pub(super) fn new(header: HeaderValue, bus: Arc<Bus>, desk: Arc<Desk>) -> Self {
        let name = header.to_str().unwrap_or_default().into();
        Self { header, name, bus, desk }
    }

    /// Serves until its life ends, then disconnects everyone. Connections run as tasks of `tasks`.
    pub(super) async fn run(self, listener: TcpListener, life: NodeLifecycle, tasks: TaskTracker) {
        let NodeLifecycle { stop, killed } = life;
        let desk = Arc::clone(&self.desk);
        let page = service_fn(move |request: Request<Incoming>| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(page::answer(&request, &desk).await) }
        });
        let (engine, io) = SocketIo::builder()
            .ping_interval(PING_INTERVAL)
            .ping_timeout(PING_TIMEOUT)
            .max_payload(MAX_PAYLOAD)
            .build_with_inner_svc(page);
        let greeter = self.clone();
        io.ns("/", move |socket: SocketRef| async move { greeter.greet(&socket) });
        tasks.spawn(relay(io.clone(), self.bus.subscribe(), stop.clone()));

        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let stream = Mortal::new(stream, killed.clone());
                    let connection = serve(stream, engine.clone(), self.header.clone());
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(connection).await });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
        // Nobody connects to a closed port: the listener must go before the users know.
        drop(listener);
        io.close().await;
        self.bus.remove(&self.name);
    }

    fn greet(self, socket: &SocketRef) {
        let welcome = Welcome {
            node: &self.name,
            transport: socket.transport_type(),
            crowds: self.bus.crowds(),
            recent: self.bus.recent(),
        };
        // An emit fails only where the user has just left.
        let _ = socket.emit("welcome", &welcome);

        let node = self.clone();
        socket.on("whoami", move |socket: SocketRef, ack: AckSender| async move {
            let _ = ack.send(&node.here(&socket));
        });
        let node = self.clone();
        socket.on("say", move |socket: SocketRef, Data::<Say>(said), ack: AckSender| async move {
            let (from, text) = (clip(&said.from, MAX_NAME), clip(&said.text, MAX_TEXT));
            if !from.is_empty() && !text.is_empty() {
                node.bus.say(&node.name, from, text);
            }
            let _ = ack.send(&node.here(&socket));
        });
        let presence = Arc::new(self.bus.enter(&self.name));
        socket.on_disconnect(move || async move { drop(presence) });
    }

    fn here(&self, socket: &SocketRef) -> Here<'_> {
        Here { node: &self.name, transport: socket.transport_type() }
    }
}

/// Passes what the bus says on to the users of one node.
async fn relay(io: SocketIo, mut feed: Receiver<Event>, stop: CancellationToken) {
    while let Some(heard) = stop.run_until_cancelled(feed.recv()).await {
        // Gone once the node has closed, which may be while an event is on its way here.
        let Some(users) = io.of("/") else { return };
        // Emitting fails for users who are about to leave; the others have got it.
        let _ = match heard {
            Ok(Event::Said(message)) => users.emit("message", &*message).await,
            Ok(Event::Crowds(crowds)) => users.emit("crowds", &*crowds).await,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
    }
}

/// Serves one connection, upgrades included, and signs each reply.
async fn serve<S, B>(stream: Mortal, engine: S, name: HeaderValue)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let signed = service_fn(|mut request: Request<Incoming>| {
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
    // A broken connection is its client's affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), signed)
        .with_upgrades()
        .await;
}

/// The same without `/plain`, where it begins with that.
fn without_prefix(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(PLAIN)?;
    let rest: PathAndQuery = rest.starts_with('/').then(|| rest.parse().ok())??;
    Some(rest.into())
}

/// The text without what nobody can see at its ends, cut to `most` characters.
fn clip(text: &str, most: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control() || *c == '\n').take(most).collect()
}

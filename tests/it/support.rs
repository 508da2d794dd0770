//! Helpers for scenarios: a proxy process, recording backends, raw clients.
//!
//! No helper sleeps instead of waiting for a condition: [`eventually`] polls until a condition holds,
//! for at most [`TIMEOUT`], and every read has the same deadline.

pub(crate) mod admin;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod controlled;
pub(crate) mod dns;
pub(crate) mod dnsmasq;
pub(crate) mod front;
pub(crate) mod haproxy;
pub(crate) mod harness;
pub(crate) mod load;
pub(crate) mod message;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod openssl;
pub(crate) mod pair;
pub(crate) mod pebble;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod settings;
pub(crate) mod tls;
pub(crate) mod websocket;

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

pub(crate) use self::{
    backend::{Backend, Peer},
    client::Raw,
    message::Message,
    node::Node,
    proxy::Proxy,
    settings::Settings,
};

/// Maximum wait for an expected event. Much longer than needed, because test machines are shared.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN; over TLS, after a `close_notify`.
    Fin,
    /// RST.
    Reset,
    /// FIN without the `close_notify` that TLS requires.
    Truncated,
}

impl From<&std::io::Error> for End {
    fn from(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Reset,
        }
    }
}

/// Polls `condition` until it holds. Panics with `what` after [`TIMEOUT`].
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until `look` returns a value. Panics with `what` after [`TIMEOUT`].
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut hit = None;
    eventually(what, || {
        hit = look();
        hit.is_some()
    })
    .await;
    hit.unwrap()
}

/// Returns the future's output. Panics with `what` after [`TIMEOUT`].
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// An address that refuses connections until this value is dropped: the port is bound, so no other
/// process gets it, but nothing listens.
pub(crate) struct Refusing(Socket);

impl Refusing {
    /// Binds a free port.
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // A backend must be able to start here later, while old connections are in TIME_WAIT.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    /// Binds this address as soon as it is free.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let bound = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&address.into()).is_ok().then_some(Self(socket))
        };
        wait_for("the address is free", bound).await
    }

    /// The address that refuses connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// Listens at this address and answers each request with `text`.
    pub(crate) async fn revive(self, text: &'static str) -> Backend {
        self.0.listen(1024).unwrap();
        self.0.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(self.0.into()).unwrap();
        Backend::on(listener, backend::answering(move |_| message::ok(text)))
    }
}

/// An address where the kernel drops SYNs: a listener that never accepts and has a full queue.
pub(crate) struct Blackhole {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    /// Fills the accept queue until the kernel admits no more connections.
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self::on(listener)
    }

    /// Takes over this address as soon as its listener has closed.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        Self::on(Refusing::at(address).await.0)
    }

    /// Makes the address reachable again: drops the queued connections and returns the listener.
    pub(crate) fn accept_again(self) -> tokio::net::TcpListener {
        self.listener.listen(1024).unwrap();
        self.listener.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(self.listener.into()).unwrap()
    }

    fn on(listener: Socket) -> Self {
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        for _ in 0..16 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if socket.connect_timeout(&address, Duration::from_millis(200)).is_err() {
                return Self { listener, _queued: queued };
            }
            queued.push(socket);
        }
        panic!("a listener with a queue of one took 16 connections");
    }

    /// The address where SYNs are dropped.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

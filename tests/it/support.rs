//! What scenarios are written with: a proxy process, recording backends, raw clients.
//!
//! Nothing here sleeps in place of a condition: [`eventually`] polls until a condition holds or
//! [`TIMEOUT`] is over, and every read has that same deadline.

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

/// Longest wait for anything that must happen; far above what it takes, as machines are shared.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// How the other end of a connection ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Orderly: FIN, and over TLS a `close_notify` before it.
    Fin,
    /// RST.
    Reset,
    /// FIN without the `close_notify` that TLS asks for.
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

/// Polls `condition` until it holds; panics with `what` once [`TIMEOUT`] is over.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls for a value until there is one; panics with `what` once [`TIMEOUT`] is over.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut hit = None;
    eventually(what, || {
        hit = look();
        hit.is_some()
    })
    .await;
    hit.unwrap()
}

/// The future's result; panics with `what` once [`TIMEOUT`] is over.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// An address that refuses connections, and goes on refusing while the guard lives: the port is
/// bound, so that nobody else gets it, and nothing listens.
pub(crate) struct Refusing(Socket);

impl Refusing {
    /// Binds a port of the kernel's choice.
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // A backend must be able to come up here later while connections of old linger.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    /// Binds this address once nobody listens there any more.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let bound = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&address.into()).is_ok().then_some(Self(socket))
        };
        wait_for("the address is given up", bound).await
    }

    /// Where nobody answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// Starts to listen here and answers each request with `text`.
    pub(crate) async fn revive(self, text: &'static str) -> Backend {
        self.0.listen(1024).unwrap();
        self.0.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(self.0.into()).unwrap();
        Backend::on(listener, backend::answering(move |_| message::ok(text)))
    }
}

/// An address whose SYNs are dropped: a listener that never accepts, with its queue full.
pub(crate) struct Blackhole {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    /// Fills the accept queue until the kernel lets no further connection in.
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self::on(listener)
    }

    /// Takes the place of whoever listened at this address before.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        Self::on(Refusing::at(address).await.0)
    }

    /// The network is back: what is in the queue is dropped, and the listener accepts.
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

    /// Where SYNs vanish.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

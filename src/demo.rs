//! Embedded Socket.IO nodes and the chat page behind `moorline demo`.
//!
//! Owns the nodes' sockets and tasks: what [`Nodes`] starts ends with it. Each node is a complete
//! HTTP server of its own on a loopback port, so that the proxy in front meets real backends; all
//! that nodes share is the [`bus`], which stands in for the Redis of a real installation, and the desk that takes
//! the page's [orders](control).
//!
//! Must not know the proxy: no module of this crate is used here.

mod bus;
mod control;
mod mortal;
mod node;
mod page;

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderValue;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use bus::Bus;
use control::Desk;
pub use control::{DemoRequest, NodeState, Order, OrderReport};
use node::{Node, NodeLifecycle};

/// Running Socket.IO nodes on loopback ports. Dropping it stops them.
#[derive(Debug)]
pub struct Nodes {
    running: Mutex<Vec<Running>>,
    bus: Arc<Bus>,
    desk: Arc<Desk>,
    orders: Mutex<Option<mpsc::Receiver<DemoRequest>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Running {
    name: String,
    address: SocketAddr,
    life: NodeLifecycle,
}

impl Nodes {
    /// Starts one node for each name, each on a free port of 127.0.0.1, and returns once all accept.
    ///
    /// A name travels in the header `x-node` of every reply.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where a name cannot be a header value, otherwise what binding a port failed with.
    pub async fn start(names: &[&str]) -> io::Result<Self> {
        let (desk, orders) = Desk::new(token()?);
        let nodes = Self {
            running: Mutex::default(),
            bus: Arc::new(Bus::new()),
            desk: Arc::new(desk),
            orders: Mutex::new(Some(orders)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for name in names {
            nodes.add(name).await?;
        }
        Ok(nodes)
    }

    /// Starts one node more and returns where it listens.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn add(&self, name: &str) -> io::Result<SocketAddr> {
        let header = HeaderValue::from_str(name)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let life =
            NodeLifecycle { stop: self.stop.child_token(), killed: CancellationToken::new() };
        self.bus.add(name);
        let node = Node::new(header, Arc::clone(&self.bus), Arc::clone(&self.desk));
        self.tasks.spawn(node.run(listener, life.clone(), self.tasks.clone()));
        self.running().push(Running { name: name.to_owned(), address, life });
        Ok(address)
    }

    /// Ends a node without a word to anybody: its port is closed, its connections are reset.
    pub fn kill(&self, name: &str) {
        if let Some(node) = self.take(name) {
            node.life.killed.cancel();
            node.life.stop.cancel();
        }
    }

    /// Ends a node in good order: its users are disconnected.
    pub fn stop(&self, name: &str) {
        if let Some(node) = self.take(name) {
            node.life.stop.cancel();
        }
    }

    /// Whether a node of this name runs.
    pub fn runs(&self, name: &str) -> bool {
        self.running().iter().any(|node| node.name == name)
    }

    /// Where the nodes listen, in the order of their start.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.running().iter().map(|node| node.address).collect()
    }

    /// What the page asks for. There is one reader: `None` from the second call on.
    pub fn orders(&self) -> Option<mpsc::Receiver<DemoRequest>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Stops accepting, disconnects everyone, and returns once no node has a connection left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn take(&self, name: &str) -> Option<Running> {
        let mut running = self.running();
        let at = running.iter().position(|node| node.name == name)?;
        Some(running.remove(at))
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What only the page of this run knows: 128 random bits.
fn token() -> io::Result<String> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests;

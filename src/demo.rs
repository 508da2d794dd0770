//! Embedded Socket.IO nodes and the chat page behind `moorline demo`.
//!
//! [`Nodes`] owns the sockets and tasks of the nodes, which end when it is dropped. Each node is a
//! complete HTTP server on a loopback port, so that the proxy has real backends. The nodes share only
//! the [`bus`], which replaces the Redis of a real installation, and the handler of the page's
//! [actions](control).
//!
//! Uses no other module of this crate.

mod bus;
mod connection;
mod control;
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
use control::ActionHandler;
pub use control::{ActionError, ActionReport, DemoAction, DemoRequest, NodeState};
use node::{Node, NodeLifecycle};

/// Running Socket.IO nodes on loopback ports. Dropping it stops them.
#[derive(Debug)]
pub struct Nodes {
    running: Mutex<Vec<RunningNode>>,
    bus: Arc<Bus>,
    actions: Arc<ActionHandler>,
    requests: Mutex<Option<mpsc::Receiver<DemoRequest>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct RunningNode {
    name: String,
    address: SocketAddr,
    lifecycle: NodeLifecycle,
}

impl Nodes {
    /// Starts one node for each name, each on a free port of 127.0.0.1, and returns when all accept.
    ///
    /// Every reply has the name in the header `x-node`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a name is not a valid header value, else the error of binding a port.
    pub async fn start(names: &[&str]) -> io::Result<Self> {
        let (actions, requests) = ActionHandler::new(token()?);
        let nodes = Self {
            running: Mutex::default(),
            bus: Arc::new(Bus::new()),
            actions: Arc::new(actions),
            requests: Mutex::new(Some(requests)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for name in names {
            nodes.add(name).await?;
        }
        Ok(nodes)
    }

    /// Starts another node and returns its address.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn add(&self, name: &str) -> io::Result<SocketAddr> {
        let header = HeaderValue::from_str(name)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let lifecycle =
            NodeLifecycle { stop: self.stop.child_token(), killed: CancellationToken::new() };
        self.bus.add(name);
        let node = Node::new(header, Arc::clone(&self.bus), Arc::clone(&self.actions));
        self.tasks.spawn(node.run(listener, lifecycle.clone(), self.tasks.clone()));
        self.running().push(RunningNode { name: name.to_owned(), address, lifecycle });
        Ok(address)
    }

    /// Kills a node: closes its port and resets its connections.
    pub fn kill(&self, name: &str) {
        if let Some(node) = self.take(name) {
            node.lifecycle.killed.cancel();
            node.lifecycle.stop.cancel();
        }
    }

    /// Stops a node: disconnects its users and closes its port.
    pub fn stop(&self, name: &str) {
        if let Some(node) = self.take(name) {
            node.lifecycle.stop.cancel();
        }
    }

    /// Whether a node with this name runs.
    pub fn runs(&self, name: &str) -> bool {
        self.running().iter().any(|node| node.name == name)
    }

    /// Addresses of the nodes, in the order of their start.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.running().iter().map(|node| node.address).collect()
    }

    /// Returns the receiver of the page's requests; `None`: it was already taken.
    pub fn requests(&self) -> Option<mpsc::Receiver<DemoRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Stops accepting, disconnects all users, and returns when all connections have ended.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn take(&self, name: &str) -> Option<RunningNode> {
        let mut running = self.running();
        let at = running.iter().position(|node| node.name == name)?;
        Some(running.remove(at))
    }

    fn running(&self) -> MutexGuard<'_, Vec<RunningNode>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Creates the secret token that only the page of this run has: 128 random bits.
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

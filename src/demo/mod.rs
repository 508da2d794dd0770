//! Embedded Socket.IO nodes and the chat page behind `moorline demo`.
//!
//! Owns the nodes' sockets and tasks: what [`Nodes`] starts ends with it. Each node is a complete
//! HTTP server of its own on a loopback port, so that the proxy in front meets real backends; all
//! that nodes share is the [`bus`], which stands in for the Redis of a real installation.
//!
//! Must not know the proxy: no module of this crate is used here.

mod bus;
mod node;
mod page;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use bus::Bus;
use node::Node;

/// Running Socket.IO nodes on loopback ports. Dropping it stops them.
#[derive(Debug)]
pub struct Nodes {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
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
        let mut bound = Vec::with_capacity(names.len());
        for name in names {
            let header = HeaderValue::from_str(name)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            bound.push((header, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?));
        }
        let addresses = bound.iter().map(|(_, l)| l.local_addr()).collect::<io::Result<_>>()?;
        let bus = Arc::new(Bus::new(names));
        let nodes = Self { addresses, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        for (index, (header, listener)) in bound.into_iter().enumerate() {
            let node = Node::new(index, header, Arc::clone(&bus));
            let run = node.run(listener, nodes.stop.clone(), nodes.tasks.clone());
            nodes.tasks.spawn(run);
        }
        Ok(nodes)
    }

    /// Where the nodes listen, in the order of their names.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, disconnects everyone, and returns once no node has a connection left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;

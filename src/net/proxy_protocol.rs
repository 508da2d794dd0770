//! The PROXY protocol, versions 1 and 2: who a connection comes from, told by the proxy before it.
//!
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>)

use std::{net::SocketAddr, sync::Arc};

use crate::observe::Secured;

/// Whom a connection to a backend is opened for.
#[derive(Clone, Debug)]
pub enum Introduction {
    /// For ourselves: a probe.
    Local,
    /// For a client.
    Client(Arc<Introduced>),
}

/// A client, as a backend is told of it.
#[derive(Clone, Debug)]
pub struct Introduced {
    /// Where it comes from.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
    /// What TLS told of it.
    pub secured: Option<Arc<Secured>>,
    /// The stream's id in the access log.
    pub id: Box<str>,
}

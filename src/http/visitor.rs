//! Who sends the requests of one connection.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    drain,
    net::{half_close::Patience, per_address::Counted},
    observe::{ListenerMetrics, Secured},
    snapshot::Listener,
};

/// The client at the other end of one connection.
#[derive(Debug)]
pub struct Visitor {
    /// Its address.
    pub peer: SocketAddr,
    /// What it connected to, where a backend may have to be told.
    pub destination: Option<SocketAddr>,
    /// What TLS told of it; `None`: it came in the clear.
    pub secured: Option<Arc<Secured>>,
    /// Where it was accepted.
    pub listener: Arc<Listener>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Its connection's place among those of its address, where they are counted.
    pub counted: Option<Arc<Counted>>,
    /// Lets it half-close.
    pub patience: Arc<Patience>,
    /// Keeps a drain waiting for its streams.
    pub drain: drain::Watch,
}

//! What the requests of a process, and those of a connection, have in common.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::{
    drain,
    net::half_close::Patience,
    observe::{AccessLog, ListenerMetrics, Metrics, Secured},
    snapshot::{Current, Listener},
    sticky, tunnel,
};

/// What every request of a process shares.
#[derive(Debug)]
pub struct Proxy {
    /// The configuration in force.
    pub snapshot: Current,
    /// Which backend holds which session.
    pub sids: Arc<sticky::Table>,
    /// Which backend the sessions were on that ended a moment ago.
    pub memory: Arc<sticky::Memory>,
    /// Open tunnels.
    pub tunnels: Arc<tunnel::Registry>,
    /// Where numbers are told.
    pub metrics: Arc<Metrics>,
    /// Where endings are told.
    pub log: Arc<ArcSwap<AccessLog>>,
    /// KiB that bodies may take, all together, while the owners of their sessions are looked for.
    pub search_memory: Arc<Semaphore>,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
}

/// The client at the other end of one connection.
#[derive(Debug)]
pub struct Visitor {
    /// Its address.
    pub peer: SocketAddr,
    /// What TLS told of it; `None`: it came in the clear.
    pub secured: Option<Arc<Secured>>,
    /// Where it was accepted.
    pub listener: Arc<Listener>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Lets it half-close.
    pub patience: Arc<Patience>,
    /// Keeps a drain waiting for its streams.
    pub drain: drain::Watch,
}

//! What the streams of a process have in common.

use std::sync::{Arc, atomic::AtomicBool};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::{
    acme::Challenges,
    observe::{AccessLog, Metrics},
    snapshot::Current,
    sticky, tunnel,
};

/// What every stream of a process shares.
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
    /// What ACME servers are to find here.
    pub challenges: Arc<Challenges>,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
}

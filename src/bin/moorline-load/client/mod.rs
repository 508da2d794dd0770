//! One simulated user, from its first connection to its last.
//!
//! Owns what happens on its connections: protocol, pace, heartbeats, reconnection. The course of the
//! run reaches it as an [`Order`] only; what happens to it leaves through the [`Recorder`].

use std::{
    collections::HashSet,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{net::Connector, scenario::Scenario, stats::Recorder};

/// What clients of one thread share.
#[derive(Debug)]
pub(crate) struct Context {
    /// What they are to do.
    pub(crate) scenario: Arc<Scenario>,
    /// How they connect.
    pub(crate) connector: Arc<Connector>,
    /// Where they report to.
    pub(crate) recorder: Arc<Recorder>,
    /// What the course of the run wants of them now.
    pub(crate) orders: watch::Receiver<Order>,
    /// Nodes that the run itself has taken away or hurt.
    pub(crate) departed: Arc<Departed>,
    /// Zero of the clock that payloads carry.
    pub(crate) epoch: Instant,
}

/// What the course of a run wants of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Carry on.
    Go,
    /// Drop the connection, without a goodbye, and come back at a time within `within` from `at`.
    /// A later wave is a new order.
    Drop {
        /// Counts from 1.
        wave: u32,
        /// When.
        at: Instant,
        /// Over how long the returns are spread.
        within: Duration,
    },
    /// Say goodbye and end.
    Leave,
}

/// Names of nodes that the run itself has taken away: who loses its connection to one of them has
/// lost nothing that could have been kept.
#[derive(Debug, Default)]
pub(crate) struct Departed(RwLock<HashSet<String>>);

impl Departed {
    /// From now on, losing this node is expected.
    pub(crate) fn insert(&self, node: &str) {
        self.0.write().expect("no panic while locked").insert(node.to_owned());
    }

    /// Whether losing this node is expected.
    pub(crate) fn contains(&self, node: &str) -> bool {
        self.0.read().expect("no panic while locked").contains(node)
    }
}

/// Lives as client `number` (from 0), which was due to arrive at `due`, until the course says leave or
/// its messages are sent; where it neither reconnects nor repeats, until its first loss.
pub(crate) async fn live(context: Arc<Context>, number: u32, due: Instant) {
    let _ = (context, number, due);
}

//! What the run itself does to its nodes, as far as clients must know it.

use std::{collections::HashMap, sync::RwLock};

/// What the run has done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It was taken out of the proxy's list and still runs: the proxy is to move its clients.
    Draining,
    /// Its drain is over and it was stopped: clients that are still on it are lost, and need not have been.
    Stopped,
    /// It was killed, hung or reset: losing it is expected.
    Hurt,
}

/// Nodes that the run drains, has stopped or has hurt, by name.
#[derive(Debug, Default)]
pub(crate) struct Departed(RwLock<HashMap<String, Departure>>);

impl Departed {
    /// From now on the proxy is to move the node's clients.
    pub(crate) fn drain(&self, node: &str) {
        self.set(node, Departure::Draining);
    }

    /// From now on a client that is still on the node is lost with it.
    pub(crate) fn stop(&self, node: &str) {
        self.set(node, Departure::Stopped);
    }

    /// From now on losing the node is expected.
    pub(crate) fn insert(&self, node: &str) {
        self.set(node, Departure::Hurt);
    }

    /// The node is as it was before: losing it is a fault again.
    pub(crate) fn remove(&self, node: &str) {
        self.0.write().expect("no panic while locked").remove(node);
    }

    /// What was done to the node; `None`: nothing.
    pub(crate) fn get(&self, node: &str) -> Option<Departure> {
        self.0.read().expect("no panic while locked").get(node).copied()
    }

    fn set(&self, node: &str, departure: Departure) {
        self.0.write().expect("no panic while locked").insert(node.to_owned(), departure);
    }
}

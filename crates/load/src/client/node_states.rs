//! What the run itself does to its nodes, as far as clients must know.

use std::{collections::HashMap, sync::RwLock};

/// What the run has done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// Removed from the proxy's list but still running: the proxy must move its clients.
    Draining,
    /// Stopped after its drain: clients that are still connected are lost, and the proxy could have moved
    /// them.
    Stopped,
    /// Killed, hung or reset: losing it is expected.
    Faulty,
}

/// The nodes that the run drains, has stopped, or has killed, hung or reset, by name.
#[derive(Debug, Default)]
pub(crate) struct NodeStates(RwLock<HashMap<String, NodeState>>);

impl NodeStates {
    /// The node drains: the proxy must move its clients.
    pub(crate) fn mark_draining(&self, node: &str) {
        self.set(node, NodeState::Draining);
    }

    /// The node is stopped: clients that are still connected are lost.
    pub(crate) fn mark_stopped(&self, node: &str) {
        self.set(node, NodeState::Stopped);
    }

    /// The node is killed, hung or reset: losing it is expected.
    pub(crate) fn mark_faulty(&self, node: &str) {
        self.set(node, NodeState::Faulty);
    }

    /// The node works normally again: losing it is an error.
    pub(crate) fn clear(&self, node: &str) {
        self.0.write().expect("no panic while locked").remove(node);
    }

    /// Returns what was done to the node; `None`: nothing.
    pub(crate) fn get(&self, node: &str) -> Option<NodeState> {
        self.0.read().expect("no panic while locked").get(node).copied()
    }

    fn set(&self, node: &str, node_state: NodeState) {
        self.0.write().expect("no panic while locked").insert(node.to_owned(), node_state);
    }
}

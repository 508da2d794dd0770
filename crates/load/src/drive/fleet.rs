//! The nodes of a course, and the list in which a proxy finds them.

use std::{fs, io, path::PathBuf};

use super::child::ChildNode;
use crate::{node::list, scenario};

/// Running nodes and their list.
#[derive(Debug)]
pub(super) struct Fleet {
    /// In the order of their numbers.
    pub(super) nodes: Vec<ChildNode>,
    /// A node that comes or goes: it has clients, and lives as long as they do where a run is cut short.
    pub(super) spare: Option<ChildNode>,
    list: PathBuf,
    /// What the list said before the run, and says again after it; `None`: there was none.
    before: Option<Vec<u8>>,
}

impl Fleet {
    /// Starts the nodes and writes the list.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(super) async fn start(plan: &scenario::Fleet) -> Result<Self, String> {
        let list = plan.backends_file.clone();
        let before = match fs::read(&list) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(format!("{} cannot be read: {e}", list.display())),
        };
        let mut fleet = Self { nodes: Vec::new(), spare: None, list, before };
        for number in 0..plan.nodes {
            let node = ChildNode::start(name(number.into(), 1)).await?;
            fleet.nodes.push(node);
        }
        fleet.list()?;
        Ok(fleet)
    }

    /// Writes the list: the nodes without the spare one.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(super) fn list(&self) -> Result<(), String> {
        list::write(&self.list, self.nodes.iter().map(ChildNode::address))
    }

    /// Writes the list, the spare node included.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(super) fn list_all(&self) -> Result<(), String> {
        list::write(&self.list, self.nodes.iter().chain(&self.spare).map(ChildNode::address))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Nobody is left to be told where that fails.
        let _ = match &self.before {
            Some(before) => list::replace(&self.list, before),
            None => fs::remove_file(&self.list),
        };
    }
}

/// What a node calls itself: `node-1`, and `node-1.2` the second to take that place, so that sessions of
/// the one are not taken for the other's.
pub(super) fn name(number: usize, generation: u32) -> String {
    match generation {
        1 => format!("node-{number}"),
        later => format!("node-{number}.{later}"),
    }
}

//! The nodes of a run, and the backend list in which the proxy finds them.

use std::{fs, io, path::PathBuf};

use anyhow::Context as _;

use super::child::ChildNode;
use crate::{node::list, scenario};

/// Running nodes and their backend list.
#[derive(Debug)]
pub(super) struct Fleet {
    /// In the order of their indexes.
    pub(super) nodes: Vec<ChildNode>,
    /// A node that is starting or draining. It still has clients, so it runs until they have disconnected,
    /// even if the run is interrupted.
    pub(super) spare: Option<ChildNode>,
    list: PathBuf,
    /// Content of the list before the run, which is restored at the end; `None`: the file did not exist.
    before: Option<Vec<u8>>,
}

impl Fleet {
    /// Starts the nodes and writes the list.
    ///
    /// # Errors
    ///
    /// The list cannot be read or written, or a node does not start.
    pub(super) async fn start(plan: &scenario::Fleet) -> anyhow::Result<Self> {
        let list = plan.backends_file.clone();
        let before = match fs::read(&list) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the backend list {}", list.display()));
            }
        };
        let mut fleet = Self { nodes: Vec::new(), spare: None, list, before };
        for number in 0..plan.nodes {
            let node = ChildNode::start(name(number.into(), 1)).await?;
            fleet.nodes.push(node);
        }
        fleet.list()?;
        Ok(fleet)
    }

    /// Writes the list, without the spare node.
    ///
    /// # Errors
    ///
    /// The list cannot be written.
    pub(super) fn list(&self) -> anyhow::Result<()> {
        list::write(&self.list, self.nodes.iter().map(ChildNode::address))
    }

    /// Writes the list, with the spare node.
    ///
    /// # Errors
    ///
    /// The list cannot be written.
    pub(super) fn list_all(&self) -> anyhow::Result<()> {
        list::write(&self.list, self.nodes.iter().chain(&self.spare).map(ChildNode::address))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // At this point an error cannot be reported any more.
        let _ = match &self.before {
            Some(before) => list::replace(&self.list, before),
            None => fs::remove_file(&self.list),
        };
    }
}

/// Name of a node: `node-1`, and `node-1.2` for its first replacement, so that their sessions are not mixed
/// up.
pub(super) fn name(number: usize, generation: u32) -> String {
    match generation {
        1 => format!("node-{number}"),
        later => format!("node-{number}.{later}"),
    }
}

//! A rolling deploy: one node after the other is replaced through the proxy's list.

use std::{mem, time::Instant};

use tokio::time::{sleep, sleep_until};

use super::{
    Stage,
    child::ChildNode,
    fleet::{self, Fleet},
    probe,
};
use crate::scenario::Deploy;

/// Replaces all nodes, beginning `after` the last client has `arrived`.
///
/// # Errors
///
/// A sentence for the user: a deploy that is stuck says nothing about the proxy.
pub(super) async fn run(
    stage: &Stage,
    deploy: &Deploy,
    fleet: &mut Fleet,
    arrived: Instant,
) -> Result<(), String> {
    sleep_until((arrived + deploy.after).into()).await;
    let count = fleet.nodes.len();
    for number in 0..count {
        let old = fleet.nodes[number].name.clone();
        stage.collector.mark(format!("replacing {old} ({} of {count})", number + 1));
        let name = fleet::name(number, 2);
        fleet.spare = Some(ChildNode::start(name.clone()).await?);
        // First the new one joins, and only when it is known to be served the old one goes: at no time
        // has the proxy fewer nodes than before.
        fleet.list_all()?;
        if !probe::reached(&stage.connector, &stage.scenario.target, &name).await {
            stage.collector.mark(format!("{name} has not been seen to answer yet"));
        }
        if let Some(spare) = &mut fleet.spare {
            mem::swap(&mut fleet.nodes[number], spare);
        }
        stage.departed.drain(&old);
        fleet.list()?;
        stage.collector.mark(format!("{old} drains"));
        sleep(deploy.drain).await;
        stage.departed.stop(&old);
        stage.collector.mark(ends(&old, clients_on(stage, &old)));
        if let Some(old) = fleet.spare.take() {
            old.stop().await;
        }
        if number + 1 < count {
            sleep(deploy.pause).await;
        }
    }
    stage.collector.mark("all nodes are replaced");
    Ok(())
}

/// Clients that are connected to a node now.
fn clients_on(stage: &Stage, node: &str) -> u64 {
    stage.collector.look().nodes.get(node).copied().unwrap_or(0)
}

fn ends(node: &str, clients: u64) -> String {
    match clients {
        0 => format!("{node} ends"),
        1 => format!("{node} ends with 1 client still on it"),
        many => format!("{node} ends with {many} clients still on it"),
    }
}

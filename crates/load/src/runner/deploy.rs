//! A rolling deploy: replaces one node after the other through the proxy's backend list.

use std::{mem, time::Instant};

use tokio::time::{sleep, sleep_until};

use super::{
    RunContext,
    child::ChildNode,
    fleet::{self, Fleet},
    probe,
};
use crate::scenario::Deploy;

/// Replaces all nodes, starting `deploy.after` after `last_arrival`, the arrival of the last client.
///
/// # Errors
///
/// A node or the backend list failed, which says nothing about the proxy.
pub(super) async fn run(
    run: &RunContext,
    deploy: &Deploy,
    fleet: &mut Fleet,
    last_arrival: Instant,
) -> anyhow::Result<()> {
    sleep_until((last_arrival + deploy.after).into()).await;
    let count = fleet.nodes.len();
    for number in 0..count {
        let old = fleet.nodes[number].name.clone();
        run.collector.mark(format!("replacing {old} ({} of {count})", number + 1));
        let name = fleet::name(number, 2);
        fleet.spare = Some(ChildNode::start(name.clone()).await?);
        // Add the new node, and remove the old one only when the target serves the new one: the proxy never
        // has fewer nodes than before.
        fleet.list_all()?;
        if !probe::wait_for_node(&run.connector, &run.scenario.target, &name).await {
            run.collector.mark(format!("{name} has not answered through the target yet"));
        }
        if let Some(spare) = &mut fleet.spare {
            mem::swap(&mut fleet.nodes[number], spare);
        }
        run.node_states.mark_draining(&old);
        fleet.list()?;
        run.collector.mark(format!("draining {old}"));
        sleep(deploy.drain).await;
        run.node_states.mark_stopped(&old);
        run.collector.mark(stop_mark(&old, clients_on(run, &old)));
        if let Some(old) = fleet.spare.take() {
            old.stop().await;
        }
        if number + 1 < count {
            sleep(deploy.pause).await;
        }
    }
    run.collector.mark("all nodes replaced");
    Ok(())
}

/// Number of clients that are connected to a node now.
fn clients_on(run: &RunContext, node: &str) -> u64 {
    run.collector.status().nodes.get(node).copied().unwrap_or(0)
}

fn stop_mark(node: &str, clients: u64) -> String {
    match clients {
        0 => format!("stopping {node}"),
        1 => format!("stopping {node} with 1 client still connected"),
        many => format!("stopping {node} with {many} clients still connected"),
    }
}

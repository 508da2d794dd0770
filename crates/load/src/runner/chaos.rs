//! Kills, hangs or resets nodes at given times.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{
    RunContext,
    child::ChildNode,
    fleet::{self, Fleet},
};
use crate::scenario::{Chaos, NodeFault};

/// Time after a fault during which lost connections are still caused by it: the losses take a moment to reach
/// the clients.
const FAULT_EFFECT_TIME: Duration = Duration::from_secs(1);

/// One step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Kill,
    /// Start a killed node again.
    Start,
    Hang,
    Resume,
    Reset,
    /// From now on, losing the node is an error again.
    Recovered,
}

/// Injects the faults, at times that count from `last_arrival`, the arrival of the last client.
///
/// # Errors
///
/// A node could not be reset or started.
pub(super) async fn run(
    run: &RunContext,
    chaos: &Chaos,
    fleet: &mut Fleet,
    last_arrival: Instant,
) -> anyhow::Result<()> {
    let mut injector =
        FaultInjector { run, records: vec![NodeRecord::default(); fleet.nodes.len()] };
    for (at, number, step) in schedule(chaos) {
        sleep_until((last_arrival + at).into()).await;
        injector.step(number, &mut fleet.nodes[number], step).await?;
    }
    Ok(())
}

/// Injects faults, and keeps a record of each node.
struct FaultInjector<'a> {
    run: &'a RunContext,
    records: Vec<NodeRecord>,
}

#[derive(Clone, Default)]
struct NodeRecord {
    /// How often the node was started again.
    restarts: u32,
    /// Faults that are active, or so recent that they still cause losses. A kill is not counted: its node
    /// name never comes back.
    active_faults: u32,
}

impl FaultInjector<'_> {
    async fn step(
        &mut self,
        number: usize,
        node: &mut ChildNode,
        step: Step,
    ) -> anyhow::Result<()> {
        let record = &mut self.records[number];
        match step {
            Step::Start if !node.is_alive() => {
                record.restarts += 1;
                node.restart(fleet::name(number, 1 + record.restarts)).await?;
                let first = fleet::name(number, 1);
                self.run.collector.mark(format!("{first} is started again as {}", node.name));
            }
            Step::Recovered => {
                record.active_faults -= 1;
                // A node that was killed meanwhile has a new name.
                if record.active_faults == 0 && node.is_alive() {
                    self.run.node_states.clear(&node.name);
                }
            }
            Step::Kill | Step::Hang | Step::Reset => self.inject(number, node, step)?,
            Step::Resume if node.is_alive() => {
                node.resume();
                self.run.collector.mark(format!("{} continues", node.name));
            }
            Step::Start | Step::Resume => {}
        }
        Ok(())
    }

    fn inject(&mut self, number: usize, node: &mut ChildNode, step: Step) -> anyhow::Result<()> {
        let name = node.name.clone();
        let (temporary, event) = match step {
            Step::Kill => (false, "is killed"),
            Step::Hang => (true, "hangs"),
            _ => (true, "resets its connections"),
        };
        if temporary {
            self.records[number].active_faults += 1;
        }
        if !node.is_alive() {
            self.run.collector.mark(format!("{name} is not running: it was killed before"));
            return Ok(());
        }
        self.run.node_states.mark_faulty(&name);
        self.run.collector.mark(format!("{name} {event}"));
        match step {
            Step::Kill => node.kill(),
            Step::Hang => node.hang(),
            _ => node.reset()?,
        }
        Ok(())
    }
}

/// Returns all steps in order of time.
fn schedule(chaos: &Chaos) -> Vec<(Duration, usize, Step)> {
    let mut steps = Vec::new();
    for event in &chaos.events {
        let (at, number) = (event.at, usize::from(event.node));
        let mut then = |after, step| steps.push((at + after, number, step));
        match event.fault {
            NodeFault::Kill { back_after } => {
                then(Duration::ZERO, Step::Kill);
                if let Some(after) = back_after {
                    then(after, Step::Start);
                }
            }
            NodeFault::Hang(how_long) => {
                then(Duration::ZERO, Step::Hang);
                then(how_long, Step::Resume);
                then(how_long + FAULT_EFFECT_TIME, Step::Recovered);
            }
            NodeFault::Reset => {
                then(Duration::ZERO, Step::Reset);
                then(FAULT_EFFECT_TIME, Step::Recovered);
            }
        }
    }
    steps.sort_by_key(|(at, ..)| *at);
    steps
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::scenario::{self, ChaosEvent};

    #[test]
    fn steps_come_in_order_of_time() {
        let seconds = Duration::from_secs;
        let event = |at, node, fault| ChaosEvent { at: seconds(at), node, fault };
        let chaos = Chaos {
            fleet: scenario::Fleet { nodes: 3, backends_file: PathBuf::new() },
            events: vec![
                event(5, 1, NodeFault::Kill { back_after: Some(seconds(4)) }),
                event(6, 2, NodeFault::Hang(seconds(1))),
                event(6, 0, NodeFault::Reset),
                event(7, 2, NodeFault::Kill { back_after: None }),
            ],
        };
        let expected = [
            (5, 1, Step::Kill),
            (6, 2, Step::Hang),
            (6, 0, Step::Reset),
            (7, 2, Step::Resume),
            (7, 0, Step::Recovered),
            (7, 2, Step::Kill),
            (8, 2, Step::Recovered),
            (9, 1, Step::Start),
        ];
        assert_eq!(schedule(&chaos), expected.map(|(at, node, step)| (seconds(at), node, step)));
    }
}

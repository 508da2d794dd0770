//! Nodes are killed, hung or reset on a timetable.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{
    Stage,
    child::ChildNode,
    fleet::{self, Fleet},
};
use crate::scenario::{Chaos, Harm};

/// How long after a harm is over its losses are still its own: they have to reach the clients.
const AFTERMATH: Duration = Duration::from_secs(1);

/// One step of the timetable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Kill,
    /// A killed node comes back.
    Start,
    Hang,
    Resume,
    Reset,
    /// From now on, losing the node is a fault again.
    Heal,
}

/// Hurts nodes, at times from when the last client has `arrived`.
///
/// # Errors
///
/// A sentence for the user, where a node cannot be hurt or started.
pub(super) async fn run(
    stage: &Stage,
    chaos: &Chaos,
    fleet: &mut Fleet,
    arrived: Instant,
) -> Result<(), String> {
    let mut ward = Ward { stage, records: vec![Record::default(); fleet.nodes.len()] };
    for (at, number, step) in timetable(chaos) {
        sleep_until((arrived + at).into()).await;
        ward.step(number, &mut fleet.nodes[number], step).await?;
    }
    Ok(())
}

/// What is known of the nodes while they are hurt.
struct Ward<'a> {
    stage: &'a Stage,
    records: Vec<Record>,
}

#[derive(Clone, Default)]
struct Record {
    /// How often it was started again.
    restarts: u32,
    /// Harms whose losses are its own for now. Death is none of them: it is for good.
    hurts: u32,
}

impl Ward<'_> {
    async fn step(
        &mut self,
        number: usize,
        node: &mut ChildNode,
        step: Step,
    ) -> Result<(), String> {
        let record = &mut self.records[number];
        match step {
            Step::Start if !node.is_alive() => {
                record.restarts += 1;
                node.start_again(fleet::name(number, 1 + record.restarts)).await?;
                self.stage.collector.mark(format!(
                    "{} is back as {}",
                    fleet::name(number, 1),
                    node.name
                ));
            }
            Step::Heal => {
                record.hurts -= 1;
                // Its name is another one where it was killed meanwhile.
                if record.hurts == 0 && node.is_alive() {
                    self.stage.departed.remove(&node.name);
                }
            }
            Step::Kill | Step::Hang | Step::Reset => self.hurt(number, node, step)?,
            Step::Resume if node.is_alive() => {
                node.resume();
                self.stage.collector.mark(format!("{} goes on", node.name));
            }
            Step::Start | Step::Resume => {}
        }
        Ok(())
    }

    fn hurt(&mut self, number: usize, node: &mut ChildNode, step: Step) -> Result<(), String> {
        let name = node.name.clone();
        let (temporary, deed) = match step {
            Step::Kill => (false, "is killed"),
            Step::Hang => (true, "hangs"),
            _ => (true, "resets its connections"),
        };
        if temporary {
            self.records[number].hurts += 1;
        }
        if !node.is_alive() {
            self.stage.collector.mark(format!("{name} is dead already"));
            return Ok(());
        }
        self.stage.departed.insert(&name);
        self.stage.collector.mark(format!("{name} {deed}"));
        match step {
            Step::Kill => node.kill(),
            Step::Hang => node.hang(),
            _ => node.reset()?,
        }
        Ok(())
    }
}

/// All steps in order of time.
fn timetable(chaos: &Chaos) -> Vec<(Duration, usize, Step)> {
    let mut steps = Vec::new();
    for event in &chaos.events {
        let (at, number) = (event.at, usize::from(event.node));
        let mut then = |after, step| steps.push((at + after, number, step));
        match event.harm {
            Harm::Kill { back_after } => {
                then(Duration::ZERO, Step::Kill);
                if let Some(after) = back_after {
                    then(after, Step::Start);
                }
            }
            Harm::Hang(how_long) => {
                then(Duration::ZERO, Step::Hang);
                then(how_long, Step::Resume);
                then(how_long + AFTERMATH, Step::Heal);
            }
            Harm::Reset => {
                then(Duration::ZERO, Step::Reset);
                then(AFTERMATH, Step::Heal);
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
        let event = |at, node, harm| ChaosEvent { at: seconds(at), node, harm };
        let chaos = Chaos {
            fleet: scenario::Fleet { nodes: 3, backends_file: PathBuf::new() },
            events: vec![
                event(5, 1, Harm::Kill { back_after: Some(seconds(4)) }),
                event(6, 2, Harm::Hang(seconds(1))),
                event(6, 0, Harm::Reset),
                event(7, 2, Harm::Kill { back_after: None }),
            ],
        };
        let expected = [
            (5, 1, Step::Kill),
            (6, 2, Step::Hang),
            (6, 0, Step::Reset),
            (7, 2, Step::Resume),
            (7, 0, Step::Heal),
            (7, 2, Step::Kill),
            (8, 2, Step::Heal),
            (9, 1, Step::Start),
        ];
        assert_eq!(timetable(&chaos), expected.map(|(at, node, step)| (seconds(at), node, step)));
    }
}

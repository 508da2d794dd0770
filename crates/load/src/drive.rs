//! The course of a run: arrivals, the herd, the rolling deploy, chaos, the end.
//!
//! Owns when things happen, and the nodes that a run starts itself. Clients are reached by [`Order`]s
//! only; what happens to them reaches the collector without passing here. Must not know protocols.

mod chaos;
mod child;
mod crowd;
mod deploy;
mod fleet;
mod front;
mod herd;
mod led;
mod probe;

use std::{
    cell::Cell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use self::{
    child::ChildNode,
    crowd::{Crowd, Schedule},
    fleet::Fleet,
    front::Front,
};
use crate::{
    client::{self, Departed, Order},
    net::Connector,
    scenario::{Course, Deploy, Scenario},
    stats::{Collector, Moment},
};

/// How long clients may take to say goodbye.
const GRACE: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As planned, or because no client was left.
    Complete,
    /// By SIGINT or SIGTERM.
    Interrupted,
    /// Because its course could not go on; a sentence for the user.
    Broken(String),
}

/// What a course has to do with.
struct Stage {
    scenario: Arc<Scenario>,
    collector: Arc<Collector>,
    connector: Arc<Connector>,
    orders: watch::Sender<Order>,
    departed: Arc<Departed>,
}

/// Runs a scenario on this thread and those that its clients need. What happens goes to the
/// collector, which somebody else closes the seconds of. SIGINT and SIGTERM end it early.
///
/// # Errors
///
/// A sentence for the user, where it could not begin: no client has arrived then.
pub(crate) fn run(scenario: &Arc<Scenario>, collector: &Arc<Collector>) -> Result<Ending, String> {
    let stage = Stage {
        scenario: Arc::clone(scenario),
        collector: Arc::clone(collector),
        connector: Arc::new(Connector::new(scenario)?),
        orders: watch::Sender::new(Order::Go),
        departed: Arc::default(),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime can be started: {e}"))?;
    runtime.block_on(stage.conduct())
}

impl Stage {
    async fn conduct(&self) -> Result<Ending, String> {
        let mut stop = Interrupts::new().map_err(|e| format!("no signal can be caught: {e}"))?;
        let mut fleet = tokio::select! {
            fleet = self.fleet() => fleet?,
            () = stop.next() => return Err("interrupted before the first client arrived".into()),
        };
        tokio::select! {
            usable = client::probe(&self.scenario, &self.connector) => usable?,
            () = stop.next() => return Err("interrupted before the first client arrived".into()),
        }
        self.collector.checkpoint(Moment::Before);
        let schedule = Schedule::new(&self.scenario, Instant::now());
        let mut crowd = Crowd::start(self, schedule)?;
        let steady = Cell::new(false);
        // Where nothing else is to happen, the last client to leave ends the run.
        let alone = self.scenario.course == Course::Steady;
        let ending = tokio::select! {
            passed = self.pass(schedule, fleet.as_mut(), &steady) => match passed {
                Ok(()) => Ending::Complete,
                Err(sentence) => Ending::Broken(sentence),
            },
            () = crowd.ended(), if alone => {
                self.collector.mark("all clients have left");
                Ending::Complete
            }
            () = stop.next() => {
                self.collector.mark("interrupted");
                Ending::Interrupted
            }
        };
        if steady.get() {
            self.collector.checkpoint(Moment::SteadyEnd);
        }
        self.orders.send_replace(Order::Leave);
        tokio::select! {
            _ = timeout(GRACE, crowd.ended()) => {}
            () = stop.next() => {}
        }
        // The nodes are there until the last client has gone.
        let stayed = crowd.cut();
        if stayed > 0 {
            self.collector.mark(format!("{stayed} clients did not leave in time"));
        }
        self.collector.checkpoint(Moment::After);
        Ok(ending)
    }

    /// The nodes of the course, once the target answers through one of them.
    async fn fleet(&self) -> Result<Option<Fleet>, String> {
        let plan = match &self.scenario.course {
            Course::Steady | Course::Led | Course::Herd(_) => return Ok(None),
            Course::Deploy(deploy) => &deploy.fleet,
            Course::Chaos(chaos) => &chaos.fleet,
        };
        let fleet = Fleet::start(plan).await?;
        let names: Vec<_> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
        probe::answered(&self.connector, &self.scenario.target, &names, &plan.backends_file)
            .await?;
        if let Course::Deploy(deploy) = &self.scenario.course {
            self.compare_drains(deploy, &fleet).await?;
        }
        Ok(Some(fleet))
    }

    /// Warns where the proxy in front keeps the sessions of a node for longer than the node will live.
    async fn compare_drains(&self, deploy: &Deploy, fleet: &Fleet) -> Result<(), String> {
        let nodes: Vec<_> = fleet.nodes.iter().map(ChildNode::address).collect();
        let front = Front::find(deploy.socket.as_deref(), &nodes).await?;
        if let Some(warning) = front.and_then(|front| front.warning(deploy.drain)) {
            if self.scenario.outputs.quiet {
                eprintln!("{warning}");
            }
            self.collector.mark(warning);
        }
        Ok(())
    }

    /// Everything between the first arrival and the order to leave.
    async fn pass(
        &self,
        schedule: Schedule,
        fleet: Option<&mut Fleet>,
        steady: &Cell<bool>,
    ) -> Result<(), String> {
        let course = async {
            match (&self.scenario.course, fleet) {
                (Course::Led, _) => led::run(self).await?,
                (Course::Herd(herd), _) => herd::run(self, herd, schedule.arrived).await,
                (Course::Deploy(deploy), Some(fleet)) => {
                    deploy::run(self, deploy, fleet, schedule.arrived).await?;
                }
                (Course::Chaos(chaos), Some(fleet)) => {
                    chaos::run(self, chaos, fleet, schedule.arrived).await?;
                }
                (Course::Steady | Course::Deploy(_) | Course::Chaos(_), _) => {}
            }
            // Nodes take their time to start. What is to be seen after all of it is not cut for that.
            let course = &self.scenario.course;
            sleep(self.scenario.hold.saturating_sub(course.length())).await;
            Ok(())
        };
        let clock = async {
            sleep_until(schedule.settled.into()).await;
            self.collector.checkpoint(Moment::SteadyStart);
            steady.set(true);
            sleep_until(schedule.leave.into()).await;
            Ok(())
        };
        tokio::try_join!(course, clock).map(|_| ())
    }
}

/// SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

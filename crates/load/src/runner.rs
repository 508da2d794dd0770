//! The phases of a run: arrivals, herd, rolling deploy, chaos, the end.
//!
//! Owns the schedule of a run and the nodes that the run starts. Controls the clients by [`ClientCommand`]s only;
//! clients report to the collector directly. Does not know about protocols.

mod chaos;
mod child;
mod client_pool;
mod controlled;
mod deploy;
mod fleet;
mod herd;
mod probe;
mod proxy_pool;

use std::{
    cell::Cell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use self::{
    child::ChildNode,
    client_pool::{ClientPool, Schedule},
    fleet::Fleet,
    proxy_pool::ProxyPool,
};
use crate::{
    client::{self, ClientCommand, NodeStates},
    net::Connector,
    scenario::{Deploy, Mode, Scenario},
    stats::{Collector, Moment},
};

/// Time that clients have at the end of a run to disconnect properly.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const INTERRUPTED: &str = "interrupted before the first client arrived";

/// How a run ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    /// As planned, or because no client was left.
    Complete,
    /// By SIGINT or SIGTERM.
    Interrupted,
    /// The run could not continue.
    Aborted(anyhow::Error),
}

/// What all phases of a run use.
struct RunContext {
    scenario: Arc<Scenario>,
    collector: Arc<Collector>,
    connector: Arc<Connector>,
    commands: watch::Sender<ClientCommand>,
    node_states: Arc<NodeStates>,
}

/// Runs a scenario on this thread and on the threads of its clients. Results go to the collector; its caller
/// closes the seconds. SIGINT and SIGTERM end the run early.
///
/// # Errors
///
/// The run could not start. No client has arrived then.
pub(crate) fn run(scenario: &Arc<Scenario>, collector: &Arc<Collector>) -> anyhow::Result<RunEnd> {
    let run = RunContext {
        scenario: Arc::clone(scenario),
        collector: Arc::clone(collector),
        connector: Arc::new(Connector::new(scenario)?),
        commands: watch::Sender::new(ClientCommand::Run),
        node_states: Arc::default(),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(run.execute())
}

impl RunContext {
    async fn execute(&self) -> anyhow::Result<RunEnd> {
        let mut stop = Signals::new().context("cannot handle signals")?;
        let mut fleet = tokio::select! {
            fleet = self.fleet() => fleet?,
            () = stop.next() => bail!(INTERRUPTED),
        };
        tokio::select! {
            usable = client::probe(&self.scenario, &self.connector) => usable?,
            () = stop.next() => bail!(INTERRUPTED),
        }
        self.collector.checkpoint(Moment::Before);
        let schedule = Schedule::new(&self.scenario, Instant::now());
        let mut clients = ClientPool::start(self, schedule)?;
        let steady = Cell::new(false);
        // Without later events, the run ends when the last client has disconnected.
        let ends_without_clients = self.scenario.mode == Mode::Steady;
        let ending = tokio::select! {
            result = self.run_phases(schedule, fleet.as_mut(), &steady) => match result {
                Ok(()) => RunEnd::Complete,
                Err(error) => RunEnd::Aborted(error),
            },
            () = clients.ended(), if ends_without_clients => {
                self.collector.mark("all clients have disconnected");
                RunEnd::Complete
            }
            () = stop.next() => {
                self.collector.mark("interrupted");
                RunEnd::Interrupted
            }
        };
        if steady.get() {
            self.collector.checkpoint(Moment::SteadyEnd);
        }
        self.commands.send_replace(ClientCommand::Stop);
        tokio::select! {
            _ = timeout(STOP_TIMEOUT, clients.ended()) => {}
            () = stop.next() => {}
        }
        // The nodes run until the last client has disconnected.
        let aborted = clients.abort();
        if aborted > 0 {
            self.collector.mark(format!("{aborted} clients did not disconnect in time"));
        }
        self.collector.checkpoint(Moment::After);
        Ok(ending)
    }

    /// Starts the nodes that the mode needs, and waits until the target answers through one of them.
    async fn fleet(&self) -> anyhow::Result<Option<Fleet>> {
        let plan = match &self.scenario.mode {
            Mode::Steady | Mode::Controlled | Mode::Herd(_) => return Ok(None),
            Mode::Deploy(deploy) => &deploy.fleet,
            Mode::Chaos(chaos) => &chaos.fleet,
        };
        let fleet = Fleet::start(plan).await?;
        let names: Vec<_> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
        probe::wait_for_nodes(&self.connector, &self.scenario.target, &names, &plan.backends_file)
            .await?;
        if let Mode::Deploy(deploy) = &self.scenario.mode {
            self.compare_drains(deploy, &fleet).await?;
        }
        Ok(Some(fleet))
    }

    /// Warns if the proxy in front drains a backend for longer than the deploy lets its node run.
    async fn compare_drains(&self, deploy: &Deploy, fleet: &Fleet) -> anyhow::Result<()> {
        let nodes: Vec<_> = fleet.nodes.iter().map(ChildNode::address).collect();
        let pool = ProxyPool::find(deploy.socket.as_deref(), &nodes).await?;
        if let Some(warning) = pool.and_then(|pool| pool.warning(deploy.drain)) {
            if self.scenario.outputs.quiet {
                eprintln!("{warning}");
            }
            self.collector.mark(warning);
        }
        Ok(())
    }

    /// Runs everything between the first arrival and the command to disconnect.
    async fn run_phases(
        &self,
        schedule: Schedule,
        fleet: Option<&mut Fleet>,
        steady: &Cell<bool>,
    ) -> anyhow::Result<()> {
        let events = async {
            match (&self.scenario.mode, fleet) {
                (Mode::Controlled, _) => controlled::run(self).await?,
                (Mode::Herd(herd), _) => herd::run(self, herd, schedule.last_arrival).await,
                (Mode::Deploy(deploy), Some(fleet)) => {
                    deploy::run(self, deploy, fleet, schedule.last_arrival).await?;
                }
                (Mode::Chaos(chaos), Some(fleet)) => {
                    chaos::run(self, chaos, fleet, schedule.last_arrival).await?;
                }
                (Mode::Steady | Mode::Deploy(_) | Mode::Chaos(_), _) => {}
            }
            // Starting nodes takes time: the part of the hold that follows the events is not shortened by it.
            let mode = &self.scenario.mode;
            sleep(self.scenario.hold.saturating_sub(mode.length())).await;
            Ok(())
        };
        let phases = async {
            sleep_until(schedule.settled.into()).await;
            self.collector.checkpoint(Moment::SteadyStart);
            steady.set(true);
            sleep_until(schedule.end.into()).await;
            Ok(())
        };
        tokio::try_join!(events, phases).map(|_| ())
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
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

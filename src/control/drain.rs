//! Drains of backends, and the shutdown of the process.
//!
//! A draining backend gets no new sessions. Tunnels are closed in the last part of the drain, the
//! `spread`, one after the other at an even pace. Polling sessions may expire by themselves; those that
//! remain are evicted in the last quarter of the spread. At the deadline, the remaining tunnels are cut.
//! Each step computes the pace from the remaining tunnels and time, so that a slow client does not delay
//! other closes. A drain has one task for all tunnels. Scans of the session table yield to other tasks.

mod leave;
mod pace;
mod shutdown;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

pub(super) use self::{pace::ClosePace, shutdown::ProcessShutdown};
use super::{held::HeldCount, unix_now};
use crate::{
    api::{BackendTarget, DrainState},
    config::DrainConfig,
    handoff::{DrainDirective, DrainUntil, Predecessors},
    shared::SharedState,
    tunnel::CloseReason,
    upstream::{Backend, Lifecycle},
};

/// Longest pause between two steps of a drain.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a removed backend is kept for sessions that this process does not know, from before a restart
/// or through another proxy. Their clients send a request within that time.
const LINGER: Duration = Duration::from_secs(60);

/// What happens to a backend when it is empty or its deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainEnd {
    /// The backend has left the configuration: it is removed.
    Remove,
    /// An operator drains the backend: it stays drained until the operator ends the drain.
    Stay,
}

/// The drains of all backends, by serial, and the shutdown of the process.
#[derive(Debug)]
pub(super) struct Drains {
    running: HashMap<u64, RunningDrain>,
    shutdown: Arc<ProcessShutdown>,
    /// A backend is not empty while a predecessor has tunnels to it.
    predecessors: Predecessors,
}

#[derive(Debug)]
struct RunningDrain {
    end: DrainEnd,
    config: Option<DrainConfig>,
    /// The backend with the same address in the configuration. While there is one, nothing is closed.
    continues_as: Option<BackendTarget>,
    schedule: DrainSchedule,
    task: JoinHandle<()>,
}

/// When a drain began, and when it closes tunnels.
#[derive(Clone, Copy, Debug)]
struct DrainSchedule {
    /// Unix time.
    since: f64,
    start: Instant,
    /// `None`: the drain closes nothing.
    times: Option<DrainTimes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainTimes {
    deadline: Instant,
    spread: Duration,
}

impl Drains {
    /// Starts without any drain.
    pub(super) fn new(predecessors: Predecessors) -> Self {
        Self { running: HashMap::new(), shutdown: Arc::default(), predecessors }
    }

    /// Starts to drain a backend. If it drains already, a changed `config` restarts the deadline; an
    /// equal one changes nothing. `None`: nothing is closed.
    pub(super) fn start(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        config: Option<DrainConfig>,
        end: DrainEnd,
    ) {
        let mut since = unix_now();
        if let Some(running) = self.running.get(&backend.serial()) {
            if (running.config, running.end) == (config, end) {
                return;
            }
            since = running.schedule.since;
            running.task.abort();
        } else if end == DrainEnd::Stay || config.is_some() {
            let (pool, name) = (backend.pool(), backend.name());
            tracing::info!(pool, backend = name, sessions = backend.sessions(), "backend drains");
        }
        backend.set_lifecycle(Lifecycle::Draining);
        let schedule = DrainSchedule { since, ..DrainSchedule::new(config) };
        let task = DrainTask {
            backend: Arc::clone(backend),
            proxy: Arc::clone(proxy),
            predecessors: self.predecessors.clone(),
            schedule,
            end,
        };
        let task = tokio::spawn(task.run());
        let running = RunningDrain { end, config, continues_as: None, schedule, task };
        self.running.insert(backend.serial(), running);
    }

    /// Cancels a drain with this `end`; returns whether there was one. The caller sets the backend's
    /// lifecycle afterwards.
    pub(super) async fn cancel(&mut self, serial: u64, end: DrainEnd) -> bool {
        if self.running.get(&serial).is_none_or(|running| running.end != end) {
            return false;
        }
        if let Some(running) = self.running.remove(&serial) {
            running.task.abort();
            // Another thread may run the last step of the task: wait for its end.
            let _ = running.task.await;
        }
        true
    }

    /// Returns the end of a backend's drain, if it drains.
    pub(super) fn end_of(&self, serial: u64) -> Option<DrainEnd> {
        self.running.get(&serial).map(|running| running.end)
    }

    /// Returns the progress of a backend's drain, if it drains.
    pub(super) fn state(&self, backend: &Backend, proxy: &SharedState) -> Option<DrainState> {
        let running = self.running.get(&backend.serial())?;
        Some(running.schedule.state(HeldCount::of(backend, proxy, &self.predecessors)))
    }

    /// Returns the directive for the predecessors' tunnels to a backend.
    pub(super) fn directive(&self, backend: &Backend) -> DrainDirective {
        match self.running.get(&backend.serial()) {
            None => DrainDirective::Serve,
            Some(running) => DrainDirective::Drain(running.schedule.times.map(DrainTimes::until)),
        }
    }

    /// Returns the serials of the backends that were removed since the last call.
    pub(super) fn take_removed(&mut self) -> Vec<u64> {
        let removed = self
            .running
            .extract_if(|_, running| running.end == DrainEnd::Remove && running.task.is_finished());
        removed.map(|(serial, _)| serial).collect()
    }

    /// The shutdown of the process.
    pub(super) fn shutdown(&self) -> &Arc<ProcessShutdown> {
        &self.shutdown
    }
}

impl DrainTimes {
    fn until(self) -> DrainUntil {
        DrainUntil { deadline: self.deadline, spread: self.spread }
    }
}

impl DrainSchedule {
    fn new(config: Option<DrainConfig>) -> Self {
        let start = Instant::now();
        let times = config
            .map(|config| DrainTimes { deadline: start + config.within, spread: config.spread });
        Self { since: unix_now(), start, times }
    }

    fn deadline(&self) -> Option<Instant> {
        self.times.map(|times| times.deadline)
    }

    fn state(&self, left: HeldCount) -> DrainState {
        let now = Instant::now();
        let seconds = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
        DrainState {
            since: self.since,
            seconds_left: self.times.map(|times| seconds(times.deadline)),
            seconds_to_closes: self.times.map(|times| seconds(times.deadline - times.spread)),
            sockets_left: left.tunnels,
            sessions_left: left.sessions,
        }
    }
}

/// The task that drains a backend.
struct DrainTask {
    backend: Arc<Backend>,
    proxy: Arc<SharedState>,
    predecessors: Predecessors,
    schedule: DrainSchedule,
    end: DrainEnd,
}

impl DrainTask {
    /// Runs until the backend is removed. A drain that ends with [`DrainEnd::Stay`] runs until it is aborted.
    async fn run(self) {
        let Self { backend, proxy, predecessors, schedule, end } = self;
        let within = schedule.times.map(|times| times.deadline - schedule.start);
        let linger = schedule.start + within.map_or(LINGER, |within| within.min(LINGER));
        let mut paces = schedule.times.map(|DrainTimes { deadline, spread }| {
            (ClosePace::new(deadline, spread), ClosePace::new(deadline, spread / 4))
        });
        loop {
            let now = Instant::now();
            let over = schedule.times.is_some_and(|times| now >= times.deadline);
            let idle =
                now >= linger && !is_used(&backend, &proxy) && !predecessors.may_hold(&backend);
            if end == DrainEnd::Remove && (idle || over) {
                break;
            }
            let mut next = now + CHECK_INTERVAL;
            if let Some((tunnels, sessions)) = &mut paces {
                if over {
                    // A request may still show a session that was unknown. Only then is the whole table
                    // searched.
                    if backend.sessions() > 0 {
                        proxy.sids.evict_polling(&backend, usize::MAX).await;
                    }
                    proxy.tunnels.cut(backend.serial());
                } else {
                    close_tunnels(&backend, &proxy, tunnels, now);
                    evict_sessions(&backend, &proxy, sessions, now).await;
                    next = tunnels.next(now).min(next);
                }
            }
            sleep_until(next).await;
        }
        backend.set_lifecycle(Lifecycle::Evicted);
        let sessions = proxy.sids.forget_backend(&backend).await;
        let tunnels = proxy.tunnels.cut(backend.serial());
        let (pool, name) = (backend.pool(), backend.name());
        tracing::info!(
            pool,
            backend = name,
            sessions,
            tunnels,
            "drained backend removed; remaining sessions forgotten, remaining tunnels cut"
        );
    }
}

/// Closes the tunnels of a backend that are due.
fn close_tunnels(backend: &Backend, proxy: &SharedState, pace: &mut ClosePace, now: Instant) {
    let count = pace.due(proxy.tunnels.staying(backend.serial()), now);
    pace.record(proxy.tunnels.close(backend.serial(), count, CloseReason::Drained));
}

/// Evicts the polling sessions of a backend that are due.
async fn evict_sessions(
    backend: &Backend,
    proxy: &SharedState,
    pace: &mut ClosePace,
    now: Instant,
) {
    let polling = backend.sessions().saturating_sub(proxy.tunnels.of(backend.serial()));
    let count = pace.due(polling, now);
    if count > 0 {
        pace.record(proxy.sids.evict_polling(backend, count).await);
    }
}

fn is_used(backend: &Backend, proxy: &SharedState) -> bool {
    backend.sessions() > 0 || backend.requests() > 0 || proxy.tunnels.of(backend.serial()) > 0
}

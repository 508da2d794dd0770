//! Drains of a backend and the shutdown of the whole process.
//!
//! A drain takes no new sessions. It closes nothing until the last part of its time. Then it closes
//! tunnels one after the other, evenly spread. Polling sessions may expire by themselves; near the end
//! those that still live are evicted. At the deadline the rest is cut. The pace is computed anew at
//! each step from what is left and the time left, so that a slow client delays no other close. A drain
//! has one task, however many tunnels there are.

mod leave;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{count::HeldCount, unix_now};
use crate::{
    api::{BackendTarget, DrainState},
    config::DrainConfig,
    handoff::{DrainDirective, DrainUntil, Predecessors},
    shared::SharedState,
    tunnel::{CloseReason, close::ANSWER_TIMEOUT},
    upstream::{Backend, Lifecycle},
};

/// How often a drain is looked at while nothing is to be closed. Nobody waits for its end but the books.
const LOOK: Duration = Duration::from_millis(250);

/// Shortest step between closes; few of them would show in a shorter one.
const SHORTEST: Duration = Duration::from_millis(10);

/// Steps over which closes are spread, where those are not shorter or longer than the above.
const STEPS: u32 = 64;

/// A backend may hold sessions that this process has never heard of, from before a restart or through
/// another proxy. Clients that are alive show them within a poll.
const LINGER: Duration = Duration::from_secs(60);

/// What becomes of a backend that is empty, or whose deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainEnd {
    /// It has left the configuration: it goes.
    Goes,
    /// It drains by order: it stays drained until the order is lifted.
    Stays,
}

/// Every backend's drain, by serial.
#[derive(Debug)]
pub(super) struct Drains {
    running: HashMap<u64, RunningDrain>,
    whole: Arc<ProcessShutdown>,
    /// What they hold of a backend is to end as well.
    before: Predecessors,
}

#[derive(Debug)]
struct RunningDrain {
    end: DrainEnd,
    terms: Option<DrainConfig>,
    /// Where the configuration has the same address: until it has not, nothing is closed.
    goes_on_as: Option<BackendTarget>,
    clock: DrainClock,
    task: JoinHandle<()>,
}

/// The drain of the whole process, for whoever asks about it.
#[derive(Debug, Default)]
pub(super) struct ProcessShutdown(Mutex<Option<DrainClock>>);

/// When a drain does what.
#[derive(Clone, Copy, Debug)]
struct DrainClock {
    /// Unix time.
    since: f64,
    start: Instant,
    /// `None`: nothing is ever closed.
    times: Option<DrainTimes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainTimes {
    deadline: Instant,
    spread: Duration,
}

impl Drains {
    /// None yet, after these processes.
    pub(super) fn new(before: Predecessors) -> Self {
        Self { running: HashMap::new(), whole: Arc::default(), before }
    }

    /// Starts to drain a backend. Where it drains to the same end already, other terms take the
    /// place of those, counted from now, and the same ones change nothing.
    pub(super) fn start(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        terms: Option<DrainConfig>,
        end: DrainEnd,
    ) {
        let mut since = unix_now();
        if let Some(running) = self.running.get(&backend.serial()) {
            if (running.terms, running.end) == (terms, end) {
                return;
            }
            since = running.clock.since;
            running.task.abort();
        } else if end == DrainEnd::Stays || terms.is_some() {
            let (pool, name) = (backend.pool(), backend.name());
            tracing::info!(pool, backend = name, sessions = backend.sessions(), "backend drains");
        }
        backend.set_lifecycle(Lifecycle::Draining);
        let clock = DrainClock { since, ..DrainClock::new(terms) };
        let task = DrainTask {
            backend: Arc::clone(backend),
            proxy: Arc::clone(proxy),
            before: self.before.clone(),
            clock,
            end,
        };
        let task = tokio::spawn(task.run());
        let running = RunningDrain { end, terms, goes_on_as: None, clock, task };
        self.running.insert(backend.serial(), running);
    }

    /// Ends a drain to this end; whether there was one. The backend's life is the caller's to change,
    /// after this.
    pub(super) async fn cancel(&mut self, serial: u64, end: DrainEnd) -> bool {
        if self.running.get(&serial).is_none_or(|running| running.end != end) {
            return false;
        }
        if let Some(running) = self.running.remove(&serial) {
            running.task.abort();
            // Its last step may be under way on another thread: the caller's comes after it.
            let _ = running.task.await;
        }
        true
    }

    /// To which end a backend drains, if it does.
    pub(super) fn drains_to(&self, serial: u64) -> Option<DrainEnd> {
        self.running.get(&serial).map(|running| running.end)
    }

    /// How far a backend is from being empty, where it drains.
    pub(super) fn state(&self, backend: &Backend, proxy: &SharedState) -> Option<DrainState> {
        let running = self.running.get(&backend.serial())?;
        Some(running.clock.state(HeldCount::of(backend, proxy, &self.before)))
    }

    /// What becomes of a backend's tunnels, wherever they are.
    pub(super) fn directive(&self, backend: &Backend) -> DrainDirective {
        match self.running.get(&backend.serial()) {
            None => DrainDirective::Serve,
            Some(running) => DrainDirective::Drain(running.clock.times.map(DrainTimes::until)),
        }
    }

    /// Backends that have gone since this was last asked.
    pub(super) fn finished(&mut self) -> Vec<u64> {
        let gone = self
            .running
            .extract_if(|_, running| running.end == DrainEnd::Goes && running.task.is_finished());
        gone.map(|(serial, _)| serial).collect()
    }

    /// The drain of the whole process.
    pub(super) fn whole(&self) -> &Arc<ProcessShutdown> {
        &self.whole
    }
}

impl ProcessShutdown {
    /// Empties the process within these terms from now on. Where it is being emptied already, the
    /// deadline only ever comes nearer.
    pub(super) fn begin(&self, terms: DrainConfig) {
        let mut clock = self.lock();
        let new = DrainClock::new(Some(terms));
        *clock = match *clock {
            Some(before) if before.deadline() <= new.deadline() => Some(before),
            Some(before) => Some(DrainClock { since: before.since, ..new }),
            None => Some(new),
        };
    }

    /// Closes tunnels as the terms say; returns at the deadline, when what is left must be cut.
    pub(super) async fn close(&self, proxy: &SharedState) {
        let mut running: Option<(DrainTimes, ClosePace)> = None;
        loop {
            let now = Instant::now();
            let Some(times) = (*self.lock()).and_then(|clock| clock.times) else { return };
            if now >= times.deadline {
                return;
            }
            let (_, pace) = match &mut running {
                Some(same) if same.0 == times => same,
                other => other.insert((times, ClosePace::new(times.deadline, times.spread))),
            };
            let count = pace.due(proxy.tunnels.all_staying(), now);
            pace.took(proxy.tunnels.close_any(count, CloseReason::Drained));
            sleep_until(pace.next(now).min(now + LOOK).min(times.deadline)).await;
        }
    }

    /// How far the process is from being empty, where it drains.
    pub(super) fn state(&self, proxy: &SharedState) -> Option<DrainState> {
        let clock = *self.lock();
        let tunnels = proxy.tunnels.len() as u64;
        Some(clock?.state(HeldCount { tunnels, sessions: sessions(proxy) }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<DrainClock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DrainTimes {
    fn until(self) -> DrainUntil {
        DrainUntil { deadline: self.deadline, spread: self.spread }
    }
}

impl DrainClock {
    fn new(terms: Option<DrainConfig>) -> Self {
        let start = Instant::now();
        let times =
            terms.map(|terms| DrainTimes { deadline: start + terms.within, spread: terms.spread });
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

/// A backend that drains.
struct DrainTask {
    backend: Arc<Backend>,
    proxy: Arc<SharedState>,
    before: Predecessors,
    clock: DrainClock,
    end: DrainEnd,
}

impl DrainTask {
    /// Aborted where the backend is wanted again.
    async fn run(self) {
        let Self { backend, proxy, before, clock, end } = self;
        let within = clock.times.map(|times| times.deadline - clock.start);
        let linger = clock.start + within.map_or(LINGER, |within| within.min(LINGER));
        let mut paces = clock.times.map(|DrainTimes { deadline, spread }| {
            (ClosePace::new(deadline, spread), ClosePace::new(deadline, spread / 4))
        });
        loop {
            let now = Instant::now();
            let over = clock.times.is_some_and(|times| now >= times.deadline);
            let idle = now >= linger && !is_used(&backend, &proxy) && !before.may_hold(&backend);
            if end == DrainEnd::Goes && (idle || over) {
                break;
            }
            let mut next = now + LOOK;
            if let Some((tunnels, sessions)) = &mut paces {
                if over {
                    // By order it stays, and a session may turn out to be there only now. All of the
                    // table is looked through for those alone.
                    if backend.sessions() > 0 {
                        proxy.sids.evict_polling(&backend, usize::MAX);
                    }
                    proxy.tunnels.cut(backend.serial());
                } else {
                    close(&backend, &proxy, tunnels, now);
                    let_go(&backend, &proxy, sessions, now);
                    next = tunnels.next(now).min(next);
                }
            }
            sleep_until(next).await;
        }
        backend.set_lifecycle(Lifecycle::Evicted);
        let sessions = proxy.sids.forget_backend(&backend);
        let tunnels = proxy.tunnels.cut(backend.serial());
        let (pool, name) = (backend.pool(), backend.name());
        tracing::info!(
            pool,
            backend = name,
            sessions,
            tunnels,
            "backend has gone; cut what was left"
        );
    }
}

/// Closes as many of a backend's tunnels as are due.
fn close(backend: &Backend, proxy: &SharedState, pace: &mut ClosePace, now: Instant) {
    let count = pace.due(proxy.tunnels.staying(backend.serial()), now);
    pace.took(proxy.tunnels.close(backend.serial(), count, CloseReason::Drained));
}

/// Lets as many of a backend's polling sessions go as are due.
fn let_go(backend: &Backend, proxy: &SharedState, pace: &mut ClosePace, now: Instant) {
    let polling = backend.sessions().saturating_sub(proxy.tunnels.of(backend.serial()));
    let count = pace.due(polling, now);
    if count > 0 {
        pace.took(proxy.sids.evict_polling(backend, count));
    }
}

/// Live sessions of all backends.
fn sessions(proxy: &SharedState) -> u64 {
    let snapshot = proxy.snapshot.load();
    snapshot.holders().map(|backend| backend.sessions() as u64).sum()
}

fn is_used(backend: &Backend, proxy: &SharedState) -> bool {
    backend.sessions() > 0 || backend.requests() > 0 || proxy.tunnels.of(backend.serial()) > 0
}

/// Spreads closes evenly over a stretch of time.
#[derive(Debug)]
pub(super) struct ClosePace {
    start: Instant,
    /// When the last one is closed: shortly before the deadline, so that it can still say good-bye.
    end: Instant,
    step: Duration,
    before: Instant,
    /// Closes that are due and not done yet, in parts of one.
    credit: f64,
}

impl ClosePace {
    pub(super) fn new(deadline: Instant, spread: Duration) -> Self {
        let start = deadline.checked_sub(spread).unwrap_or(deadline);
        let end = deadline.checked_sub((spread / 5).min(ANSWER_TIMEOUT)).unwrap_or(deadline);
        let step = (spread / STEPS).clamp(SHORTEST, LOOK);
        // The first turn is anywhere in the first one's stretch.
        Self { start, end, step, before: start, credit: fastrand::f64() }
    }

    /// How many of those that are left should be closed by now.
    pub(super) fn due(&mut self, left: usize, now: Instant) -> usize {
        if now < self.start {
            return 0;
        }
        if now >= self.end {
            return left;
        }
        let elapsed = now.saturating_duration_since(self.before).as_secs_f64();
        let ahead = self.end.saturating_duration_since(self.before).as_secs_f64();
        self.before = now;
        if left > 0 {
            self.credit += left as f64 * elapsed / ahead;
        }
        (self.credit as usize).min(left)
    }

    /// Notes how many were.
    pub(super) fn took(&mut self, count: usize) {
        self.credit = (self.credit - count as f64).max(0.0);
    }

    /// When to look again: a step from now, longer or shorter by chance.
    fn next(&self, now: Instant) -> Instant {
        if now < self.start {
            return self.start;
        }
        now + self.step.mul_f64(0.5 + fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Closes over time: how many by each tenth of the spread.
    fn run(left: usize, within: Duration, spread: Duration) -> Vec<usize> {
        let start = Instant::now();
        let deadline = start + within;
        let mut pace = ClosePace::new(deadline, spread);
        let (mut now, mut staying, mut closed) = (start, left, vec![0; 11]);
        while now < deadline {
            let count = pace.due(staying, now);
            assert!(count == 0 || now >= deadline - spread, "too early");
            staying -= count;
            pace.took(count);
            let part = (now + spread).saturating_duration_since(deadline).as_secs_f64();
            closed[(part / spread.as_secs_f64() * 10.0) as usize] += count;
            now = pace.next(now).min(deadline);
        }
        assert_eq!(staying, 0, "empty before the deadline");
        closed
    }

    #[test]
    fn closes_are_spread_evenly_and_end_before_the_deadline() {
        for (within, spread) in [(300, 150), (2_000, 1_000), (3_600_000, 600_000)] {
            let [within, spread] = [within, spread].map(Duration::from_millis);
            let closed = run(8_000, within, spread);
            let most = closed.iter().max().unwrap();
            assert!(*most <= 2_500, "{spread:?}: {closed:?}");
            assert!(closed[..7].iter().all(|&count| count >= 250), "{spread:?}: {closed:?}");
        }
    }

    #[test]
    fn a_few_are_not_closed_at_once() {
        let closed = run(4, Duration::from_secs(3_600), Duration::from_secs(1_800));
        assert!(closed.iter().all(|&count| count <= 1), "{closed:?}");
    }

    #[test]
    fn without_a_spread_nothing_is_closed_before_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut pace = ClosePace::new(deadline, Duration::ZERO);
        assert_eq!(pace.due(5, deadline - Duration::from_millis(1)), 0);
        assert_eq!(pace.due(5, deadline), 5);
    }

    #[test]
    fn those_that_came_late_have_their_turn_as_well() {
        let start = Instant::now();
        let mut pace = ClosePace::new(start + Duration::from_secs(10), Duration::from_secs(10));
        let half = start + Duration::from_secs(5);
        assert!(pace.due(0, half) == 0);
        assert!(pace.due(1_000, half + Duration::from_millis(300)) >= 90);
    }
}

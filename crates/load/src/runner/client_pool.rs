//! The clients of a run: when each of them arrives, and the threads that run them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use tokio::{runtime, sync::mpsc, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::RunContext;
use crate::{
    client::{self, ClientCommand, Context},
    scenario::{Arrival, Scenario},
};

/// Maximum part of the hold that does not count as steady.
const MAX_SETTLING_TIME: Duration = Duration::from_secs(2);

/// Maximum clients that arrive at the same moment, and maximum time between two such moments. Clients that
/// arrive together share a wake-up; a server sees them as a burst of this size.
const MAX_BURST: u32 = 10;
const MAX_BURST_INTERVAL: Duration = Duration::from_millis(200);

/// Times of a run, from the first arrival on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// First arrival.
    start: Instant,
    /// Average time between two arrivals.
    spacing: Duration,
    /// Number of clients that arrive at the same moment.
    burst: u32,
    /// Last arrival.
    pub(super) last_arrival: Instant,
    /// When the effects of the arrivals should be over.
    pub(super) settled: Instant,
    /// When the clients disconnect, unless the events take longer.
    pub(super) end: Instant,
}

impl Schedule {
    /// Returns the schedule of a run whose first client arrives at `start`.
    pub(super) fn new(scenario: &Scenario, start: Instant) -> Self {
        let spacing = match scenario.arrival {
            Arrival::Rate(rate) => Duration::from_secs_f64(rate.recip()),
            Arrival::Ramp(ramp) => ramp / scenario.clients.max(1),
        };
        let fitting = MAX_BURST_INTERVAL.as_nanos() / spacing.as_nanos().max(1);
        let burst = fitting.clamp(1, u128::from(MAX_BURST)) as u32;
        let last_arrival = start + spacing * scenario.clients.saturating_sub(1);
        let settled = last_arrival + MAX_SETTLING_TIME.min(scenario.hold / 4);
        Self { start, spacing, burst, last_arrival, settled, end: last_arrival + scenario.hold }
    }

    /// Returns when client `number` is due.
    fn due(&self, number: u32) -> Instant {
        self.start + self.spacing * (number - number % self.burst)
    }
}

/// Clients that arrive, run and end, in their own threads.
#[derive(Debug)]
pub(super) struct ClientPool {
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has no client left.
    alive: mpsc::Receiver<()>,
    abort: CancellationToken,
    /// Clients that were still running when they were aborted.
    aborted: Arc<AtomicUsize>,
}

/// State of one thread of clients.
struct Worker {
    context: Arc<Context>,
    schedule: Schedule,
    /// Index of this thread.
    index: usize,
    threads: usize,
    abort: CancellationToken,
    aborted: Arc<AtomicUsize>,
    /// Held only so that the channel closes with the last thread.
    _alive: mpsc::Sender<()>,
}

impl ClientPool {
    /// Starts the threads.
    pub(super) fn start(run: &RunContext, schedule: Schedule) -> anyhow::Result<Self> {
        let (sender, alive) = mpsc::channel(1);
        let abort = CancellationToken::new();
        let aborted = Arc::default();
        let mut pool = Self { threads: Vec::new(), alive, abort, aborted };
        for index in 0..run.scenario.threads {
            let context = Context {
                scenario: Arc::clone(&run.scenario),
                connector: Arc::clone(&run.connector),
                recorder: run.collector.recorder(),
                commands: run.commands.subscribe(),
                node_states: Arc::clone(&run.node_states),
                epoch: run.collector.epoch(),
            };
            let worker = Worker {
                context: Arc::new(context),
                schedule,
                index,
                threads: run.scenario.threads,
                abort: pool.abort.clone(),
                aborted: Arc::clone(&pool.aborted),
                _alive: sender.clone(),
            };
            pool.threads.push(worker.spawn()?);
        }
        Ok(pool)
    }

    /// Waits until no client is left.
    pub(super) async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
    }

    /// Aborts the remaining clients, and returns their number.
    pub(super) fn abort(mut self) -> usize {
        self.abort.cancel();
        for thread in self.threads.drain(..) {
            // A thread that panicked has already printed the panic.
            let _ = thread.join();
        }
        self.aborted.load(Ordering::Relaxed)
    }
}

impl Drop for ClientPool {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

impl Worker {
    fn spawn(self) -> anyhow::Result<JoinHandle<()>> {
        let failed = |e| anyhow!("cannot start a thread for clients: {e}");
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let name = format!("clients-{}", self.index);
        let run = move || runtime.block_on(self.run());
        thread::Builder::new().name(name).spawn(run).map_err(failed)
    }

    async fn run(self) {
        let clients = TaskTracker::new();
        let all = async {
            self.arrivals(&clients).await;
            clients.close();
            clients.wait().await;
        };
        if self.abort.run_until_cancelled(all).await.is_none() {
            self.aborted.fetch_add(clients.len(), Ordering::Relaxed);
        }
    }

    /// Starts the clients of this thread at their times, until the run commands all clients to disconnect.
    async fn arrivals(&self, clients: &TaskTracker) {
        let mut commands = self.context.commands.clone();
        for number in (0..self.context.scenario.clients).skip(self.index).step_by(self.threads) {
            let due = self.schedule.due(number);
            tokio::select! {
                biased;
                _ = commands.wait_for(|order| *order == ClientCommand::Stop) => return,
                () = sleep_until(due.into()) => {}
            }
            clients.spawn(client::run_client(Arc::clone(&self.context), number, due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::options::Options;

    fn scenario(change: impl FnOnce(&mut Options)) -> Scenario {
        let url = Some("http://127.0.0.1:9".to_owned());
        let mut options =
            Options { url, clients: Some(5), hold: "4s".parse().ok(), ..Options::default() };
        change(&mut options);
        Scenario::check(options).unwrap()
    }

    #[test]
    fn arrivals_are_even_and_hold_counts_from_the_last() {
        let millis = Duration::from_millis;
        let start = Instant::now();
        let schedule = Schedule::new(&scenario(|options| options.rate = "4".parse().ok()), start);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(3), start + millis(750));
        assert_eq!(schedule.last_arrival, start + millis(1000));
        assert_eq!(schedule.settled, start + millis(2000));
        assert_eq!(schedule.end, start + millis(5000));

        let schedule = Schedule::new(&scenario(|options| options.ramp = "2s".parse().ok()), start);
        assert_eq!(schedule.due(1), start + millis(400));
        let at_once = Schedule::new(&scenario(|options| options.ramp = "0".parse().ok()), start);
        assert_eq!(at_once.last_arrival, start);
    }

    #[test]
    fn arrivals_at_a_high_rate_come_in_small_bursts() {
        let start = Instant::now();
        for (rate, burst) in [("10", 2), ("50", 10), ("1000", 10)] {
            let schedule =
                Schedule::new(&scenario(|options| options.rate = rate.parse().ok()), start);
            assert_eq!(schedule.due(burst - 1), start, "{rate} per second");
            assert_eq!(schedule.due(burst), start + schedule.spacing * burst);
        }
    }

    #[test]
    fn steady_phase_of_a_long_hold_starts_after_two_seconds() {
        let start = Instant::now();
        let scenario = scenario(|options| {
            options.ramp = "0".parse().ok();
            options.hold = "1m".parse().ok();
        });
        assert_eq!(Schedule::new(&scenario, start).settled, start + MAX_SETTLING_TIME);
    }
}

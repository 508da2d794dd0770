//! All clients: when each of them arrives, and the threads that drive them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{runtime, sync::mpsc, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Stage;
use crate::{
    client::{self, Context, Order},
    scenario::{Arrival, Scenario},
};

/// Longest part of the hold that does not count as steady.
const SETTLING: Duration = Duration::from_secs(2);

/// Clients that arrive at the same moment, at most, and longest time from one such moment to the next:
/// so many share their wake-ups. A server meets them as a burst of that size.
const TOGETHER: u32 = 10;
const LULL: Duration = Duration::from_millis(200);

/// When things happen, from the first arrival on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// The first arrival.
    start: Instant,
    /// From one arrival to the next, on average.
    spacing: Duration,
    /// How many arrive at the same moment.
    together: u32,
    /// The last arrival.
    pub(super) arrived: Instant,
    /// When what an arrival brings about should be over.
    pub(super) settled: Instant,
    /// When the clients are to leave, where nothing takes longer.
    pub(super) leave: Instant,
}

impl Schedule {
    /// For a run whose first client arrives at `start`.
    pub(super) fn new(scenario: &Scenario, start: Instant) -> Self {
        let spacing = match scenario.arrival {
            Arrival::Rate(rate) => Duration::from_secs_f64(rate.recip()),
            Arrival::Ramp(ramp) => ramp / scenario.clients.max(1),
        };
        let fitting = LULL.as_nanos() / spacing.as_nanos().max(1);
        let together = fitting.clamp(1, u128::from(TOGETHER)) as u32;
        let arrived = start + spacing * scenario.clients.saturating_sub(1);
        let settled = arrived + SETTLING.min(scenario.hold / 4);
        Self { start, spacing, together, arrived, settled, leave: arrived + scenario.hold }
    }

    /// When client `number` is due.
    fn due(&self, number: u32) -> Instant {
        self.start + self.spacing * (number - number % self.together)
    }
}

/// Clients that arrive, live and leave in threads of their own.
#[derive(Debug)]
pub(super) struct Crowd {
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has no client left.
    living: mpsc::Receiver<()>,
    cut: CancellationToken,
    /// Clients that were there when they were cut off.
    stayed: Arc<AtomicUsize>,
}

/// What a thread knows.
struct Driver {
    context: Arc<Context>,
    schedule: Schedule,
    /// Its place among so many.
    index: usize,
    threads: usize,
    cut: CancellationToken,
    stayed: Arc<AtomicUsize>,
    /// Only held.
    _living: mpsc::Sender<()>,
}

impl Crowd {
    /// Starts the threads.
    pub(super) fn start(stage: &Stage, schedule: Schedule) -> Result<Self, String> {
        let (sender, living) = mpsc::channel(1);
        let cut = CancellationToken::new();
        let stayed = Arc::default();
        let mut crowd = Self { threads: Vec::new(), living, cut, stayed };
        for index in 0..stage.scenario.threads {
            let context = Context {
                scenario: Arc::clone(&stage.scenario),
                connector: Arc::clone(&stage.connector),
                recorder: stage.collector.recorder(),
                orders: stage.orders.subscribe(),
                departed: Arc::clone(&stage.departed),
                epoch: stage.collector.epoch(),
            };
            let driver = Driver {
                context: Arc::new(context),
                schedule,
                index,
                threads: stage.scenario.threads,
                cut: crowd.cut.clone(),
                stayed: Arc::clone(&crowd.stayed),
                _living: sender.clone(),
            };
            crowd.threads.push(driver.spawn()?);
        }
        Ok(crowd)
    }

    /// Waits until no client is left.
    pub(super) async fn ended(&mut self) {
        while self.living.recv().await.is_some() {}
    }

    /// Ends whoever is left: how many that are.
    pub(super) fn cut(mut self) -> usize {
        self.cut.cancel();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
        self.stayed.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

impl Driver {
    fn spawn(self) -> Result<JoinHandle<()>, String> {
        let failed = |e| format!("no thread can be started: {e}");
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
        if self.cut.run_until_cancelled(all).await.is_none() {
            self.stayed.fetch_add(clients.len(), Ordering::Relaxed);
        }
    }

    /// Lets this thread's share of the clients arrive in time, until they are told to leave.
    async fn arrivals(&self, clients: &TaskTracker) {
        let mut orders = self.context.orders.clone();
        for number in (0..self.context.scenario.clients).skip(self.index).step_by(self.threads) {
            let due = self.schedule.due(number);
            tokio::select! {
                biased;
                _ = orders.wait_for(|order| *order == Order::Leave) => return,
                () = sleep_until(due.into()) => {}
            }
            clients.spawn(client::live(Arc::clone(&self.context), number, due));
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
    fn arrivals_are_even_and_the_hold_counts_from_the_last() {
        let millis = Duration::from_millis;
        let start = Instant::now();
        let schedule = Schedule::new(&scenario(|typed| typed.rate = "4".parse().ok()), start);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(3), start + millis(750));
        assert_eq!(schedule.arrived, start + millis(1000));
        assert_eq!(schedule.settled, start + millis(2000));
        assert_eq!(schedule.leave, start + millis(5000));

        let schedule = Schedule::new(&scenario(|typed| typed.ramp = "2s".parse().ok()), start);
        assert_eq!(schedule.due(1), start + millis(400));
        let at_once = Schedule::new(&scenario(|typed| typed.ramp = "0".parse().ok()), start);
        assert_eq!(at_once.arrived, start);
    }

    #[test]
    fn many_arrive_a_few_at_a_time() {
        let start = Instant::now();
        for (rate, together) in [("10", 2), ("50", 10), ("1000", 10)] {
            let schedule = Schedule::new(&scenario(|typed| typed.rate = rate.parse().ok()), start);
            assert_eq!(schedule.due(together - 1), start, "{rate} a second");
            assert_eq!(schedule.due(together), start + schedule.spacing * together);
        }
    }

    #[test]
    fn a_long_hold_is_steady_but_for_two_seconds() {
        let start = Instant::now();
        let scenario = scenario(|typed| {
            typed.ramp = "0".parse().ok();
            typed.hold = "1m".parse().ok();
        });
        assert_eq!(Schedule::new(&scenario, start).settled, start + SETTLING);
    }
}

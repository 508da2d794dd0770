//! Detects stuck workers of the runtime: blocked in a system call, on a lock, or in an endless loop.
//!
//! A worker that neither sleeps nor does its regular upkeep between two checks is still in one
//! step of a task, and everything that depends on the worker waits. This is a defect of the proxy,
//! or the machine is far too small: it is counted, shown while it lasts, and logged at once. The
//! checks run in a separate thread, since a stuck runtime cannot report itself. They stop while the
//! process is idle.

use std::{
    io,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use tokio::runtime::RuntimeMetrics;

use super::Metrics;

/// Interval of the checks.
const PERIOD: Duration = Duration::from_millis(250);

/// Checks without activity after which a worker counts as stuck: one second. Steps take
/// microseconds.
const STUCK: u32 = 4;

/// Checks with all workers asleep after which the watch sleeps too.
const QUIET: u32 = 8;

/// State of one worker at the last check.
#[derive(Clone, Debug, Default)]
struct WatchedWorker {
    parks: u64,
    busy: Duration,
    /// Checks without activity.
    silent: u32,
}

/// Change found by a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerChange {
    /// No change.
    Same,
    /// The worker is stuck from now on.
    Stuck,
    /// A stuck worker is running again.
    Freed,
}

/// Records that workers run, and wakes the watch for it.
#[derive(Clone, Debug, Default)]
pub struct WorkerActivity(Arc<ActivityState>);

#[derive(Debug, Default)]
struct ActivityState {
    /// The watch checks the workers.
    watched: AtomicBool,
    /// The thread of the watch.
    watch: OnceLock<Thread>,
}

impl WorkerActivity {
    /// Records that a worker wakes up. While the watch is awake, this costs one load.
    pub fn record(&self) {
        let state = &self.0;
        if state.watched.load(SeqCst) || state.watched.swap(true, SeqCst) {
            return;
        }
        if let Some(watch) = state.watch.get() {
            watch.unpark();
        }
    }

    /// Blocks until a worker wakes up.
    fn wait(&self) {
        while !self.0.watched.load(SeqCst) {
            thread::park();
        }
    }
}

/// Watches the workers of these runtimes until `metrics` are dropped. Sleeps while all of them sleep, until
/// `activity` is recorded.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(
    runtimes: Vec<(&'static str, RuntimeMetrics)>,
    activity: &WorkerActivity,
    metrics: &Arc<Metrics>,
) -> io::Result<()> {
    let (activity, metrics) = (activity.clone(), Arc::downgrade(metrics));
    let watch = move || {
        let _ = activity.0.watch.set(thread::current());
        let mut runtimes: Vec<_> = runtimes.into_iter().map(WatchedRuntime::new).collect();
        watch_until_gone(&mut runtimes, &activity, &metrics);
    };
    thread::Builder::new().name("stalls".to_owned()).spawn(watch).map(drop)
}

fn watch_until_gone(
    runtimes: &mut [WatchedRuntime],
    activity: &WorkerActivity,
    metrics: &Weak<Metrics>,
) {
    let mut quiet = 0;
    activity.0.watched.store(true, SeqCst);
    loop {
        thread::sleep(PERIOD);
        let Some(metrics) = metrics.upgrade() else { return };
        let mut asleep = true;
        for runtime in &mut *runtimes {
            asleep &= runtime.look(&metrics);
        }
        quiet = if asleep { quiet + 1 } else { 0 };
        if quiet < QUIET {
            continue;
        }
        activity.0.watched.store(false, SeqCst);
        // A worker that woke up before has not woken the watch.
        if runtimes.iter().all(WatchedRuntime::sleeps) {
            drop(metrics);
            activity.wait();
        } else {
            activity.0.watched.store(true, SeqCst);
        }
        quiet = 0;
    }
}

/// The workers of one runtime.
struct WatchedRuntime {
    name: &'static str,
    metrics: RuntimeMetrics,
    workers: Vec<WatchedWorker>,
}

impl WatchedRuntime {
    fn new((name, metrics): (&'static str, RuntimeMetrics)) -> Self {
        let workers = vec![WatchedWorker::default(); metrics.num_workers()];
        Self { name, metrics, workers }
    }

    /// Checks each worker, and reports changes. Returns whether all of them sleep.
    fn look(&mut self, metrics: &Metrics) -> bool {
        let runtime = self.name;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let parks = self.metrics.worker_park_unpark_count(index);
            match worker.look(parks, self.metrics.worker_total_busy_duration(index)) {
                WorkerChange::Same => {}
                WorkerChange::Stuck => {
                    metrics.stalls.inc();
                    metrics.stalled_workers.inc();
                    tracing::error!(runtime, worker = index, "a worker is stuck in one task");
                }
                WorkerChange::Freed => {
                    metrics.stalled_workers.dec();
                    tracing::warn!(
                        runtime,
                        worker = index,
                        "a worker that was stuck is running again"
                    );
                }
            }
        }
        self.sleeps()
    }

    fn sleeps(&self) -> bool {
        let parks = |index| self.metrics.worker_park_unpark_count(index);
        (0..self.workers.len()).all(|index| parks(index) % 2 == 1)
    }
}

impl WatchedWorker {
    /// Checks the worker. `parks` increments when the worker goes to sleep and when it wakes: odd
    /// while it sleeps. `busy` is updated then, and after a number of steps.
    fn look(&mut self, parks: u64, busy: Duration) -> WorkerChange {
        let was_stuck = self.silent >= STUCK;
        let alive = parks % 2 == 1 || (parks, busy) != (self.parks, self.busy);
        (self.parks, self.busy) = (parks, busy);
        self.silent = if alive { 0 } else { self.silent.saturating_add(1) };
        match (was_stuck, self.silent >= STUCK) {
            (false, true) => WorkerChange::Stuck,
            (true, false) => WorkerChange::Freed,
            _ => WorkerChange::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(worker: &mut WatchedWorker, parks: u64, busy: u64, times: u32) -> Vec<WorkerChange> {
        (0..times).map(|_| worker.look(parks, Duration::from_millis(busy))).collect()
    }

    #[test]
    fn a_worker_that_sleeps_or_makes_progress_is_not_stuck() {
        let mut worker = WatchedWorker::default();
        assert_eq!(looks(&mut worker, 1, 0, 100), [WorkerChange::Same; 100]);
        for step in 0..100 {
            // Never asleep, but busy with many tasks.
            assert_eq!(worker.look(2, Duration::from_millis(step)), WorkerChange::Same);
        }
    }

    #[test]
    fn a_stuck_worker_is_reported_once_and_again_when_it_runs() {
        let mut worker = WatchedWorker::default();
        let mut found = looks(&mut worker, 2, 7, STUCK + 10);
        assert_eq!(found.remove(STUCK as usize), WorkerChange::Stuck);
        assert!(found.iter().all(|found| *found == WorkerChange::Same));
        assert_eq!(worker.look(3, Duration::from_millis(7)), WorkerChange::Freed);
        assert_eq!(worker.look(4, Duration::from_millis(7)), WorkerChange::Same);
    }
}

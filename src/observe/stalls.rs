//! Detects stuck workers of the runtime: blocked in a system call, on a lock, or in an endless loop.
//!
//! A worker that neither sleeps nor does its regular upkeep between two checks is still in one
//! step of a task, and everything that depends on the worker waits. This is a defect of the proxy,
//! or the machine is far too small: it is counted, shown while it lasts, and logged at once. The
//! checks run in a separate thread, since a stuck runtime cannot report itself.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use tokio::runtime::RuntimeMetrics;

use super::Metrics;

/// Interval of the checks.
const PERIOD: Duration = Duration::from_millis(250);

/// Checks without activity after which a worker counts as stuck: one second. Steps take
/// microseconds.
const STUCK: u32 = 4;

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

/// Watches the workers of the runtime until `metrics` are dropped.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(runtime: RuntimeMetrics, metrics: &Arc<Metrics>) -> io::Result<()> {
    let metrics = Arc::downgrade(metrics);
    let look = move || watch_until_gone(&runtime, &metrics);
    thread::Builder::new().name("stalls".to_owned()).spawn(look).map(drop)
}

fn watch_until_gone(runtime: &RuntimeMetrics, metrics: &Weak<Metrics>) {
    let mut workers = vec![WatchedWorker::default(); runtime.num_workers()];
    loop {
        thread::sleep(PERIOD);
        let Some(metrics) = metrics.upgrade() else { return };
        for (index, worker) in workers.iter_mut().enumerate() {
            let parks = runtime.worker_park_unpark_count(index);
            match worker.look(parks, runtime.worker_total_busy_duration(index)) {
                WorkerChange::Same => {}
                WorkerChange::Stuck => {
                    metrics.stalls.inc();
                    metrics.stalled_workers.inc();
                    tracing::error!(worker = index, "a worker is stuck in one task");
                }
                WorkerChange::Freed => {
                    metrics.stalled_workers.dec();
                    tracing::warn!(worker = index, "a worker that was stuck is running again");
                }
            }
        }
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

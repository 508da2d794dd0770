//! Workers of the runtime that are stuck: in a system call that blocks, a lock, an endless loop.
//!
//! A worker that has neither gone to sleep nor come to its regular upkeep between two looks is still
//! in one and the same step of one task, and everything that waits for it waits. That is a defect of ours,
//! or a machine that is far too small: it is counted, shown for as long as it lasts, and told at once.
//! The looks come from a thread of its own, since a stuck runtime could not tell of itself.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use tokio::runtime::RuntimeMetrics;

use super::Metrics;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(250);

/// Looks without a sign of life after which a worker counts as stuck: a second. Steps take microseconds.
const STUCK: u32 = 4;

/// One worker, look by look.
#[derive(Clone, Debug, Default)]
struct WatchedWorker {
    parks: u64,
    busy: Duration,
    /// Looks without a sign of life.
    silent: u32,
}

/// What a look finds of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerChange {
    /// Nothing new.
    Same,
    /// It is stuck from now on.
    Stuck,
    /// It was, and goes on.
    Freed,
}

/// Watches the runtime's workers until `metrics` are gone.
///
/// # Errors
/// No thread can be started.
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
                    tracing::warn!(worker = index, "a worker that was stuck goes on");
                }
            }
        }
    }
}

impl WatchedWorker {
    /// `parks` counts up when the worker goes to sleep and when it wakes: odd while it sleeps. `busy` is
    /// brought up to date then, and every so many steps.
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
    fn one_that_sleeps_or_makes_progress_is_not_stuck() {
        let mut worker = WatchedWorker::default();
        assert_eq!(looks(&mut worker, 1, 0, 100), [WorkerChange::Same; 100]);
        for step in 0..100 {
            // Never asleep, but busy with many tasks.
            assert_eq!(worker.look(2, Duration::from_millis(step)), WorkerChange::Same);
        }
    }

    #[test]
    fn one_that_shows_no_sign_of_life_is_told_once_and_once_more_when_it_goes_on() {
        let mut worker = WatchedWorker::default();
        let mut found = looks(&mut worker, 2, 7, STUCK + 10);
        assert_eq!(found.remove(STUCK as usize), WorkerChange::Stuck);
        assert!(found.iter().all(|found| *found == WorkerChange::Same));
        assert_eq!(worker.look(3, Duration::from_millis(7)), WorkerChange::Freed);
        assert_eq!(worker.look(4, Duration::from_millis(7)), WorkerChange::Same);
    }
}

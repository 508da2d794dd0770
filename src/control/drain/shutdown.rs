//! The shutdown of the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};

use super::{CHECK_INTERVAL, ClosePace, DrainSchedule, DrainTimes};
use crate::{
    api::DrainState, config::DrainConfig, control::held::HeldCount, shared::SharedState,
    tunnel::CloseReason,
};

/// The shutdown of the process, and its progress. Without a schedule, the process is not shutting down.
#[derive(Debug, Default)]
pub(in crate::control) struct ProcessShutdown(Mutex<Option<DrainSchedule>>);

impl ProcessShutdown {
    /// Begins the shutdown. If it has begun already, only an earlier deadline takes effect.
    pub(in crate::control) fn begin(&self, config: DrainConfig) {
        let mut schedule = self.lock();
        let new = DrainSchedule::new(Some(config));
        *schedule = match *schedule {
            Some(current) if current.deadline() <= new.deadline() => Some(current),
            Some(current) => Some(DrainSchedule { since: current.since, ..new }),
            None => Some(new),
        };
    }

    /// Closes tunnels according to the schedule; returns at the deadline. The caller cuts the remaining
    /// tunnels.
    pub(in crate::control) async fn close_tunnels(&self, proxy: &SharedState) {
        let mut running: Option<(DrainTimes, ClosePace)> = None;
        loop {
            let now = Instant::now();
            let Some(times) = (*self.lock()).and_then(|schedule| schedule.times) else { return };
            if now >= times.deadline {
                return;
            }
            let (_, pace) = match &mut running {
                Some(current) if current.0 == times => current,
                changed => changed.insert((times, ClosePace::new(times.deadline, times.spread))),
            };
            let count = pace.due(proxy.tunnels.all_staying(), now);
            pace.record(proxy.tunnels.close_any(count, CloseReason::Drained));
            sleep_until(pace.next(now).min(now + CHECK_INTERVAL).min(times.deadline)).await;
        }
    }

    /// Returns the progress of the shutdown, if it has begun.
    pub(in crate::control) fn state(&self, proxy: &SharedState) -> Option<DrainState> {
        let schedule = *self.lock();
        let tunnels = proxy.tunnels.len() as u64;
        Some(schedule?.state(HeldCount { tunnels, sessions: sessions(proxy) }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<DrainSchedule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of live sessions of all backends.
fn sessions(proxy: &SharedState) -> u64 {
    let snapshot = proxy.snapshot.load();
    snapshot.holders().map(|backend| backend.sessions() as u64).sum()
}

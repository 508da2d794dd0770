//! Drops idle connections as soon as the backend closes them.
//!
//! All tracked connections of a pool share one waker. It wakes one small task for each pool, which looks
//! through the list: a backend that closes all its connections at once costs a few rounds.

use std::{
    sync::{Arc, Weak},
    task::{Wake, Waker},
    time::Instant,
};

use tokio::{runtime::Handle, sync::Notify};

use super::list::IdleConnections;

/// Notified when something has happened on an idle connection.
#[derive(Debug, Default)]
pub(super) struct CloseSignal(Notify);

impl CloseSignal {
    /// Returns a waker that gives this signal.
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Ends the sweeper, after its pool has been dropped.
    pub(super) fn end(&self) {
        self.0.notify_one();
    }
}

impl Wake for CloseSignal {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// Spawns the sweeper of a pool. Does nothing outside of a runtime.
pub(super) fn spawn(idle: &Arc<IdleConnections>) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(sweep(Arc::downgrade(idle), Arc::clone(&idle.signal)));
    }
}

async fn sweep(idle: Weak<IdleConnections>, signal: Arc<CloseSignal>) {
    loop {
        signal.0.notified().await;
        let Some(idle) = idle.upgrade() else { return };
        idle.sweep(Instant::now());
    }
}

//! Connections to one backend that are in use, how many may be, and how many requests may wait for one.
//!
//! In use is a connection from the moment a request asks for it until the response is over, or the
//! tunnel that it became; idle ones are with [`reuse`](super::reuse), which has to make room where a new
//! one is opened. Probes are not counted. Whoever can go elsewhere does so where all are in use; who
//! cannot waits, in order of coming.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

use crate::config;

/// The connections of one backend.
#[derive(Debug)]
pub(super) struct Connections {
    in_use: AtomicUsize,
    most: AtomicUsize,
    pending: AtomicUsize,
    most_pending: AtomicUsize,
    /// Told at each that ends, while anybody waits.
    freed: Notify,
}

impl Connections {
    /// None, and no limits.
    pub(super) fn new() -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            pending: AtomicUsize::new(0),
            most_pending: AtomicUsize::new(usize::MAX),
            freed: Notify::new(),
        }
    }

    /// Takes other limits; what is in use counts against them from now on.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.most_pending.store(limits.pending.unwrap_or(usize::MAX), SeqCst);
        self.most.store(limits.connections.unwrap_or(usize::MAX), SeqCst);
        self.freed.notify_waiters();
    }

    /// Counts one more, if there may be.
    pub(super) fn add(&self) -> bool {
        let most = self.most.load(SeqCst);
        if most == usize::MAX {
            self.in_use.fetch_add(1, SeqCst);
            return true;
        }
        let more = |in_use: usize| (in_use < most).then(|| in_use + 1);
        self.in_use.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    pub(super) fn remove(&self) {
        self.in_use.fetch_sub(1, SeqCst);
        // Whoever waits said so before looking: either this sees it, or it sees this.
        if self.pending.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Counts one more once there may be. To be called by who is counted as pending.
    pub(super) async fn added(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.add() {
                return;
            }
            freed.await;
        }
    }

    /// Counts one more that waits, if there may be.
    pub(super) fn add_pending(&self) -> bool {
        let most = self.most_pending.load(SeqCst);
        let more = |pending: usize| (pending < most).then(|| pending + 1);
        self.pending.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    pub(super) fn remove_pending(&self) {
        self.pending.fetch_sub(1, SeqCst);
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_use.load(SeqCst) >= self.most.load(SeqCst)
    }

    /// How many idle ones there may be beside those in use; `None`: any number.
    pub(super) fn room(&self) -> Option<usize> {
        let most = self.most.load(SeqCst);
        (most != usize::MAX).then(|| most.saturating_sub(self.in_use.load(SeqCst)))
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(SeqCst)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }
}

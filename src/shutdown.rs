//! Shutdown in two steps: a graceful phase lets open work finish, then a forced phase cuts it.
//!
//! Every connection, request and tunnel that the shutdown waits for holds a [`Watch`]. The watch gives
//! the current phase, and its existence shows that the work still lives. A task that serves until the
//! end (metrics, probes) must not hold one, because [`Trigger::idle`] would wait for it. Phases only
//! advance. The caller decides when a shutdown starts and how long it may take.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::{Notify, futures::Notified, watch};

/// The phase that a [`Watch`] sees; phases only advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShutdownPhase {
    /// No shutdown.
    Running,
    /// End at the next point that clients do not notice: a kept-alive connection ends with its next
    /// reply.
    Handoff,
    /// Start no new work, finish open work.
    Graceful,
    /// Stop at once.
    Forced,
}

/// Returns a new pair in [`ShutdownPhase::Running`]. Give clones of the watch to the work that must be
/// waited for, and drop the original: it counts like any other.
pub fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(ShutdownPhase::Running);
    let phase = Arc::new(SharedPhase::default());
    (Trigger { sender, phase: Arc::clone(&phase) }, Watch { receiver, phase })
}

/// Copy of the phase that connections read without a lock, with a small future for its change.
#[derive(Debug, Default)]
struct SharedPhase {
    /// [`ShutdownPhase`] as a number.
    number: AtomicU8,
    changed: Notify,
}

/// Advances the phase and waits until all watches are dropped.
///
/// If the trigger is dropped, the phase stays as it is.
#[derive(Debug)]
pub struct Trigger {
    sender: watch::Sender<ShutdownPhase>,
    phase: Arc<SharedPhase>,
}

impl Trigger {
    /// Asks every holder to end at the next point that clients do not notice. No effect after a later
    /// phase.
    pub fn close_after_response(&self) {
        self.advance(ShutdownPhase::Handoff);
    }

    /// Asks every holder to finish. No effect after a later phase.
    pub fn graceful(&self) {
        self.advance(ShutdownPhase::Graceful);
    }

    /// Asks every holder to stop at once.
    pub fn force(&self) {
        self.advance(ShutdownPhase::Forced);
    }

    /// Returns the current phase.
    pub fn phase(&self) -> ShutdownPhase {
        *self.sender.borrow()
    }

    /// Resolves when no watch is left. A watch can only be cloned from a living one: clones made
    /// meanwhile are waited for too, and none can appear afterwards.
    pub async fn idle(&self) {
        self.sender.closed().await;
    }

    /// Returns the number of watches.
    pub fn live(&self) -> usize {
        self.sender.receiver_count()
    }

    fn advance(&self, to: ShutdownPhase) {
        self.sender.send_if_modified(|phase| {
            let advances = *phase < to;
            *phase = to.max(*phase);
            // Before the watches are woken.
            self.phase.number.store(*phase as u8, Ordering::Release);
            if advances {
                self.phase.changed.notify_waiters();
            }
            advances
        });
    }
}

/// Gives the current phase, and keeps [`Trigger::idle`] waiting while it exists.
#[derive(Clone, Debug)]
pub struct Watch {
    receiver: watch::Receiver<ShutdownPhase>,
    phase: Arc<SharedPhase>,
}

impl Watch {
    /// Returns the current phase. Costs no more than reading a number.
    pub fn phase(&self) -> ShutdownPhase {
        match self.phase.number.load(Ordering::Acquire) {
            0 => ShutdownPhase::Running,
            1 => ShutdownPhase::Handoff,
            2 => ShutdownPhase::Graceful,
            _ => ShutdownPhase::Forced,
        }
    }

    /// Resolves at the next change of the phase after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.phase.changed.notified()
    }

    /// Resolves in [`ShutdownPhase::Graceful`] or later; immediately if the phase has been reached.
    /// Cancel-safe.
    pub async fn graceful(&mut self) {
        self.reached(ShutdownPhase::Graceful).await;
    }

    /// Resolves in [`ShutdownPhase::Forced`]; immediately if the phase has been reached. Cancel-safe.
    pub async fn forced(&mut self) {
        self.reached(ShutdownPhase::Forced).await;
    }

    async fn reached(&mut self, wanted: ShutdownPhase) {
        let gone = self.receiver.wait_for(|phase| *phase >= wanted).await.is_err();
        if gone {
            // Without a trigger the phase cannot change.
            future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    /// Whether `future` is ready when polled once.
    fn ready<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[tokio::test]
    async fn phases_only_advance() {
        let (trigger, watch) = channel();
        assert_eq!(watch.phase(), ShutdownPhase::Running);
        trigger.close_after_response();
        assert_eq!(watch.phase(), ShutdownPhase::Handoff);
        trigger.force();
        trigger.graceful();
        trigger.close_after_response();
        assert_eq!(watch.phase(), ShutdownPhase::Forced);
        assert_eq!(trigger.phase(), ShutdownPhase::Forced);
    }

    #[tokio::test]
    async fn a_forced_shutdown_is_graceful_too() {
        let (trigger, mut watch) = channel();
        trigger.force();
        watch.graceful().await;
        watch.forced().await;
    }

    #[tokio::test]
    async fn waiting_for_force_outlasts_the_graceful_phase() {
        let (trigger, mut watch) = channel();
        let mut forced = std::pin::pin!(watch.forced());
        assert!(!ready(forced.as_mut()));
        trigger.graceful();
        assert!(!ready(forced.as_mut()));
        trigger.force();
        assert!(ready(forced.as_mut()));
    }

    #[tokio::test]
    async fn idle_waits_for_clones_made_while_it_waits() {
        let (trigger, first) = channel();
        let mut idle = std::pin::pin!(trigger.idle());
        assert!(!ready(idle.as_mut()));
        let second = first.clone();
        drop(first);
        assert!(!ready(idle.as_mut()));
        let third = second.clone();
        drop(second);
        assert!(!ready(idle.as_mut()));
        assert_eq!(trigger.live(), 1);
        drop(third);
        assert!(ready(idle.as_mut()));
        assert_eq!(trigger.live(), 0);
    }

    #[tokio::test]
    async fn idle_resolves_immediately_without_watches() {
        let (trigger, watch) = channel();
        drop(watch);
        trigger.idle().await;
        trigger.graceful();
        assert_eq!(trigger.phase(), ShutdownPhase::Graceful);
    }

    #[tokio::test]
    async fn a_thousand_tasks_finish_on_a_graceful_shutdown() {
        let (trigger, watch) = channel();
        let tasks = TaskTracker::new();
        for _ in 0..1000 {
            let mut watch = watch.clone();
            tasks.spawn(async move { watch.graceful().await });
        }
        drop(watch);
        assert_eq!(trigger.live(), 1000);
        trigger.graceful();
        trigger.idle().await;
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_dropped_trigger_changes_nothing() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        assert!(!ready(std::pin::pin!(watch.graceful())));
        assert_eq!(watch.phase(), ShutdownPhase::Running);
    }
}

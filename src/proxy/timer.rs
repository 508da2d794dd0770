//! One timer for all deadlines of a connection, moved as seldom as possible.
//!
//! Deadlines change with each byte, and nearly all of them move to later. The timer therefore stays where it is, and
//! is moved when it fires too early.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer whose deadline moves.
#[derive(Debug)]
pub(super) struct Timer(Pin<Box<Sleep>>);

impl Timer {
    /// Creates a timer that fires at `until`.
    pub(super) fn new(until: Instant) -> Self {
        Self(Box::pin(sleep_until(until)))
    }

    /// Ready once `until` has passed.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        loop {
            if self.0.deadline() > until || self.0.is_elapsed() {
                self.0.as_mut().reset(until);
            }
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_move_both_ways() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(start + 5 * second);
        poll_fn(|cx| timer.poll_until(cx, start + second)).await;
        assert_eq!(Instant::now(), start + second);
        poll_fn(|cx| timer.poll_until(cx, start + 9 * second)).await;
        assert_eq!(Instant::now(), start + 9 * second);
        poll_fn(|cx| timer.poll_until(cx, start)).await;
        assert_eq!(Instant::now(), start + 9 * second);
    }
}

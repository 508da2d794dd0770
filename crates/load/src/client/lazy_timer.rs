//! The timer of one client.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

/// A timer that is reset lazily: moving a deadline later costs nothing until the timer fires.
#[derive(Debug)]
pub(crate) struct LazyTimer(Pin<Box<Sleep>>);

impl LazyTimer {
    /// A timer without a deadline.
    pub(crate) fn new() -> Self {
        Self(Box::pin(sleep_until(Instant::now().into())))
    }

    /// Ready at `at` or later; never if `at` is `None`.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        loop {
            if self.0.is_elapsed() || self.0.deadline() > at.into() {
                self.0.as_mut().reset(at.into());
            }
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= at {
                return Poll::Ready(());
            }
        }
    }
}

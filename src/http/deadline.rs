//! Deadlines for a backend to read a request and to answer it.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::body::BodyProgress;
use crate::error::Phase;

/// Waits for `response` and returns its output, or the phase in which the backend was too slow.
///
/// The deadline of the header is a fixed instant: `header` after the last byte of the request;
/// `None` means no limit. While the body is being sent, the backend may leave it unread for
/// `body_idle`. The client's deadline is enforced by the code that reads the body.
pub(super) async fn in_time<T>(
    header: Option<Duration>,
    body_idle: Duration,
    progress: &BodyProgress,
    response: impl Future<Output = T>,
) -> Result<T, Phase> {
    let started = Instant::now();
    let mut response = pin!(response);
    let mut timer = pin!(sleep_until(started));
    loop {
        let was_done = progress.is_done();
        let last = progress.last_progress().max(started);
        let until = match header {
            _ if !was_done => Some(last + body_idle),
            Some(limit) => Some(last + limit),
            None => None,
        };
        if let Some(until) = until {
            timer.as_mut().reset(until);
        }
        tokio::select! {
            biased;
            outcome = &mut response => return Ok(outcome),
            () = progress.done_reading(), if !was_done => {}
            () = &mut timer, if until.is_some() => {
                if was_done {
                    return Err(Phase::ResponseHeader);
                }
                let moved = progress.is_done() || progress.last_progress().max(started) > last;
                if !moved && !progress.waits_for_client() {
                    return Err(Phase::RequestBody);
                }
                if !moved {
                    // The client's pause is measured by the body itself, which fails: check again
                    // later.
                    progress.note_progress();
                }
            }
        }
    }
}

//! How long a backend may take to read a request and to answer it.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::body::BodyProgress;
use crate::error::Phase;

/// What `response` resolves to, or the phase in which the backend was too slow.
///
/// The header's deadline is one instant: `header` after the last byte of the request; `None`: unlimited. While
/// the body is on its way, the backend may leave it unread for `body_idle`; how long the client may take is
/// kept where the body is read from it.
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
                    // The client's pause is measured elsewhere and ends the body: look again later.
                    progress.note_progress();
                }
            }
        }
    }
}

//! A connection and its TLS handshake, without a request.

use std::{pin::pin, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Context, SessionEnd, User, http::wait_until, pace::MessageTracker};
use crate::{net::Stream, scenario::Pace, stats::ConnectedGuard};

/// Connects once or, with a pace, for each message that is due. Closes each connection at once.
pub(crate) async fn run(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    let messages = &context.scenario.messages;
    if messages.pace == Pace::Silent {
        return match open(context, user, due).await {
            Ok((stream, connected_guard)) => {
                close(context, stream, connected_guard).await;
                SessionEnd::Completed
            }
            Err(end) => end,
        };
    }
    let mut tracker =
        MessageTracker::new(messages, user.settled, user.number, context.grid(), Instant::now());
    let end = loop {
        if tracker.is_done() {
            break SessionEnd::Completed;
        }
        if let Some(by) = wait_until(tracker.due(), pin!(user.commands.next())).await {
            break SessionEnd::Interrupted { by, connected: false };
        }
        let number = tracker.record_sent();
        context.recorder.sent(0);
        let (stream, connected_guard) = match open(context, user, tracker.intended(number)).await {
            Ok(opened) => opened,
            Err(end) => {
                tracker.give_up(Instant::now());
                break end;
            }
        };
        // The connection is the answer; the time that the server takes to close it is not measured.
        if let Some(intended) = tracker.answered(number, Instant::now()) {
            context.recorder.answered(intended, 0);
        }
        close(context, stream, connected_guard).await;
    };
    user.settled += tracker.settled();
    context.recorder.unanswered(tracker.unanswered());
    end
}

async fn open(
    context: &Context,
    user: &mut User,
    due: Instant,
) -> Result<(Stream, ConnectedGuard), SessionEnd> {
    let connection = async { user.dialer.connect().await.map_err(SessionEnd::from) };
    let stream = user.commands.attempt(context.scenario.timeout, connection).await?;
    Ok((stream, context.recorder.connected(None, due)))
}

/// Closes the sending side and reads the rest, which has the TLS tickets for the next connection. A server
/// that does not close in time still counts as connected.
async fn close(context: &Context, mut stream: Stream, connected_guard: ConnectedGuard) {
    let closing = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 512];
        while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
    };
    let _ = timeout(context.scenario.timeout, closing).await;
    drop(connected_guard);
}

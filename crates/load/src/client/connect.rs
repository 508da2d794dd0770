//! A connection and its TLS handshake; no request.

use std::{pin::pin, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Context, End, User, http::wait, pace::Talk};
use crate::{net::Stream, scenario::Pace, stats::Seat};

/// Connects once, or, where it has a pace, for each message that is due; says goodbye at once.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let messages = &context.scenario.messages;
    if messages.pace == Pace::Silent {
        return match open(context, user, due).await {
            Ok((stream, seat)) => {
                goodbye(context, stream, seat).await;
                End::Said
            }
            Err(end) => end,
        };
    }
    let mut talk = Talk::new(messages, user.said, user.number, context.grid(), Instant::now());
    let end = loop {
        if talk.done() {
            break End::Said;
        }
        if let Some(by) = wait(talk.due(), pin!(user.orders.next())).await {
            break End::Ordered { by, connected: false };
        }
        let number = talk.say();
        context.recorder.sent(0);
        let (stream, seat) = match open(context, user, talk.intended(number)).await {
            Ok(opened) => opened,
            Err(end) => {
                talk.give_up(Instant::now());
                break end;
            }
        };
        // The connection is the answer; how long the server takes to let go of it is not measured.
        if let Some(intended) = talk.answered(number, Instant::now()) {
            context.recorder.answered(intended, 0);
        }
        goodbye(context, stream, seat).await;
    };
    user.said += talk.settled();
    context.recorder.unanswered(talk.unanswered());
    end
}

async fn open(context: &Context, user: &mut User, due: Instant) -> Result<(Stream, Seat), End> {
    let connection = async { user.dialer.connect().await.map_err(End::from) };
    let stream = user.orders.attempt(context.scenario.timeout, connection).await?;
    Ok((stream, context.recorder.connected(None, due)))
}

/// Ends our side and reads what is left: over TLS, that holds the tickets for the next connection. A
/// server that does not say goodbye has shown all the same that it takes connections.
async fn goodbye(context: &Context, mut stream: Stream, seat: Seat) {
    let said = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 512];
        while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
    };
    let _ = timeout(context.scenario.timeout, said).await;
    drop(seat);
}

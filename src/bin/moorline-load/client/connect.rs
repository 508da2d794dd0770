//! A connection and its TLS handshake; no request.

use std::{pin::pin, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Context, End, User, http::wait, pace::Talk};
use crate::{net::Stream, scenario::Pace};

/// Connects once, or, where it has a pace, for each message that is due; says goodbye at once.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let messages = &context.scenario.messages;
    if messages.pace == Pace::Silent {
        return once(context, user, due).await.map_or_else(|end| end, |()| End::Said);
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
        if let Err(end) = once(context, user, talk.intended(number)).await {
            talk.give_up(Instant::now());
            break end;
        }
        if let Some(intended) = talk.answered(number, Instant::now()) {
            context.recorder.answered(intended, 0);
        }
    };
    user.said += talk.settled();
    context.recorder.unanswered(talk.unanswered());
    end
}

async fn once(context: &Context, user: &mut User, due: Instant) -> Result<(), End> {
    let patience = context.scenario.timeout;
    let connection = async { user.dialer.connect().await.map_err(End::from) };
    let stream = user.orders.attempt(patience, connection).await?;
    let seat = context.recorder.connected(None, due);
    // A server that does not say goodbye has shown all the same that it takes connections.
    let _ = timeout(patience, goodbye(stream)).await;
    drop(seat);
    Ok(())
}

/// Ends our side and reads what is left: over TLS, that holds the tickets for the next connection.
async fn goodbye(mut stream: Stream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 512];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
}

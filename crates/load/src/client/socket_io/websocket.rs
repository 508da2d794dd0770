//! A session over WebSocket, from the start or after an upgrade.

use std::{pin::pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{Break, Context, Conversation, Stop, User, not_upgraded, note_node, path_and_query};
use crate::{
    client::user::Orders,
    net::{Kind, Message, WebSocket},
    scenario::Protocol,
    stats::Failure,
    wire::engine_io::{Frame, Packet},
};

/// Bytes that may wait for a slow server before nothing more is said.
const MOST_WAITING: usize = 64 << 10;
/// How long a server may take to answer a goodbye.
pub(super) const GOODBYE: Duration = Duration::from_secs(3);

/// Connects without polling first.
pub(super) async fn open(
    context: &Context,
    user: &mut User,
    conversation: &mut Conversation<'_>,
) -> Result<WebSocket, Stop> {
    let path = path_and_query(context, "websocket", None);
    let fields = user.jar.fields();
    let connection = user.dialer.websocket(&path, &fields);
    let opened = tokio::select! {
        opened = timeout(context.scenario.timeout, connection) => opened,
        by = user.orders.next() => return Err(Stop::Ordered(by)),
    };
    match opened {
        Ok(Ok((socket, headers))) => {
            note_node(&headers, conversation);
            user.jar.keep(&headers);
            Ok(socket)
        }
        Ok(Err(error)) => Err(not_upgraded(error, conversation).into()),
        Err(_) => Err(conversation.silence().into()),
    }
}

/// Talks until the end of the session. `outbox` holds what was not sent by polling.
pub(super) async fn converse(
    mut socket: WebSocket,
    conversation: &mut Conversation<'_>,
    orders: &mut Orders,
    mut outbox: Vec<Frame>,
) -> Stop {
    let protocol = conversation.protocol();
    let mut ordered = pin!(orders.next());
    let mut timer = pin!(sleep_until(conversation.wake().into()));
    loop {
        let held_up = socket.backlog() > MOST_WAITING;
        let next = match conversation.turn(held_up, &mut outbox) {
            Ok(next) => next,
            Err(failure) => return failure.into(),
        };
        if let Err(failure) = send(&mut socket, &mut outbox, protocol).await {
            return failure.into();
        }
        if conversation.is_done() {
            goodbye(socket, conversation).await;
            return Stop::Said;
        }
        // Later is not sooner: a timer that rings early is set again then, and costs nothing until.
        if let Some(wake) = next
            && (timer.is_elapsed() || timer.deadline() > wake.into())
        {
            timer.as_mut().reset(wake.into());
        }
        tokio::select! {
            biased;
            message = socket.next() => {
                if let Err(stop) = receive(message, conversation, &mut outbox) {
                    return stop;
                }
            }
            by = &mut ordered => {
                if by == Break::Leave {
                    goodbye(socket, conversation).await;
                }
                return Stop::Ordered(by);
            }
            () = &mut timer, if next.is_some() => {}
            () = yield_now(), if next.is_none() => {}
        }
    }
}

/// Sends all frames.
pub(super) async fn send(
    socket: &mut WebSocket,
    outbox: &mut Vec<Frame>,
    protocol: Protocol,
) -> Result<(), Failure> {
    for frame in outbox.drain(..) {
        match frame {
            Frame::Text(text) => socket.send(Kind::Text, text.as_bytes()).await?,
            Frame::Binary(data) => {
                socket.send(Kind::Binary, &Frame::binary(data, protocol)).await?;
            }
        }
    }
    Ok(())
}

fn receive(
    message: Result<Message, Failure>,
    conversation: &mut Conversation<'_>,
    outbox: &mut Vec<Frame>,
) -> Result<(), Stop> {
    match message? {
        Message::Text(text) => conversation.receive(Packet::from_text(&text)?, outbox)?,
        Message::Binary(data) => {
            let packet = Packet::from_binary(&data, conversation.protocol())?;
            conversation.receive(packet, outbox)?;
        }
        Message::Close(closure) if closure.asks_to_return() => {
            return Err(Stop::Moved(closure.into()));
        }
        Message::Close(closure) => return Err(closure.into()),
    }
    Ok(())
}

/// Leaves the namespace, then the connection. A server that takes no leave is left alone.
async fn goodbye(mut socket: WebSocket, conversation: &Conversation<'_>) {
    if conversation.is_connected() {
        let mut outbox = vec![conversation.goodbye()];
        // What is broken is over as well.
        let _ = send(&mut socket, &mut outbox, conversation.protocol()).await;
    }
    let _ = timeout(GOODBYE, Box::pin(socket.close())).await;
}

//! A session over WebSocket, from the start or after an upgrade.

use std::{pin::pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{
    Context, Interruption, Session, TransportEnd, User, failure_of_upgrade, note_node,
    path_and_query,
};
use crate::{
    client::user::CommandReceiver,
    net::{Kind, Message, WebSocket},
    scenario::Protocol,
    stats::Failure,
    wire::engine_io::{Frame, Packet},
};

/// Maximum bytes that wait for a slow server; above this, the client sends no more.
const MAX_BACKLOG: usize = 64 << 10;
/// Maximum time until the server answers a close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects without polling first.
pub(super) async fn open(
    context: &Context,
    user: &mut User,
    session: &mut Session<'_>,
) -> Result<WebSocket, TransportEnd> {
    let path = path_and_query(context, "websocket", None);
    let fields = user.cookies.headers();
    let connection = user.dialer.websocket(&path, &fields);
    let opened = tokio::select! {
        opened = timeout(context.scenario.timeout, connection) => opened,
        by = user.commands.next() => return Err(TransportEnd::Interrupted(by)),
    };
    match opened {
        Ok(Ok((socket, headers))) => {
            note_node(&headers, session);
            user.cookies.store(&headers);
            Ok(socket)
        }
        Ok(Err(error)) => Err(failure_of_upgrade(error, session).into()),
        Err(_) => Err(session.timeout_failure().into()),
    }
}

/// Runs the session until its end. `outbox` contains what was not sent by polling.
pub(super) async fn run(
    mut socket: WebSocket,
    session: &mut Session<'_>,
    commands: &mut CommandReceiver,
    mut outbox: Vec<Frame>,
) -> TransportEnd {
    let protocol = session.protocol();
    let mut command = pin!(commands.next());
    let mut timer = pin!(sleep_until(session.next_wakeup().into()));
    loop {
        let blocked = socket.backlog() > MAX_BACKLOG;
        let next = match session.run_due(blocked, &mut outbox) {
            Ok(next) => next,
            Err(failure) => return failure.into(),
        };
        if let Err(failure) = send(&mut socket, &mut outbox, protocol).await {
            return failure.into();
        }
        if session.is_done() {
            close(socket, session).await;
            return TransportEnd::Completed;
        }
        // A later deadline does not reset the timer: if it fires too early, it is set again.
        if let Some(wake) = next
            && (timer.is_elapsed() || timer.deadline() > wake.into())
        {
            timer.as_mut().reset(wake.into());
        }
        tokio::select! {
            biased;
            message = socket.next() => {
                if let Err(end) = receive(message, session, &mut outbox) {
                    return end;
                }
            }
            by = &mut command => {
                if by == Interruption::Stop {
                    close(socket, session).await;
                }
                return TransportEnd::Interrupted(by);
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
    session: &mut Session<'_>,
    outbox: &mut Vec<Frame>,
) -> Result<(), TransportEnd> {
    match message? {
        Message::Text(text) => session.receive(Packet::from_text(&text)?, outbox)?,
        Message::Binary(data) => {
            let packet = Packet::from_binary(&data, session.protocol())?;
            session.receive(packet, outbox)?;
        }
        Message::Close(close_frame) if close_frame.asks_to_reconnect() => {
            return Err(TransportEnd::Moved(close_frame.into()));
        }
        Message::Close(close_frame) => return Err(close_frame.into()),
    }
    Ok(())
}

/// Disconnects from the namespace and closes the connection. Gives up after a timeout.
async fn close(mut socket: WebSocket, session: &Session<'_>) {
    if session.is_connected() {
        let mut outbox = vec![session.disconnect_packet()];
        // An error means that the connection is already closed.
        let _ = send(&mut socket, &mut outbox, session.protocol()).await;
    }
    let _ = timeout(CLOSE_TIMEOUT, Box::pin(socket.close())).await;
}

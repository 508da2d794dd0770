//! Plain WebSocket to an echo server.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::{task::yield_now, time::timeout};

use super::{
    Context, Interruption, SessionEnd, User, lazy_timer::LazyTimer, pace::MessageTracker,
    payload::PayloadGenerator,
};
use crate::{
    net::{Kind, Message, UpgradeError, WebSocket},
    scenario::{Answer, Messages, Payload},
    stats::{ErrorKind, Failure},
};

/// Maximum bytes that wait for a slow server; above this, the client sends no more.
const MAX_BACKLOG: usize = 64 << 10;
/// Delay after which a client that waits for a slow server checks again.
const BLOCKED_RETRY: Duration = Duration::from_millis(5);
/// Maximum messages sent in a row before echoes and commands are checked.
const MAX_MESSAGES_IN_A_ROW: usize = 64;

/// Runs one connection to the target's path: sends messages when they are due and checks each echo.
pub(crate) async fn run(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    let target = &context.scenario.target;
    // Boxed, so that the future of an idle client does not include the state of connecting.
    let (socket, node) = match Box::pin(open(context, user, &target.path_and_query())).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let connected_guard = context.recorder.connected(node.as_deref(), due);
    let mut echo = EchoSession::new(context, user, socket);
    let end = echo.run(pin!(user.commands.next())).await;
    drop(connected_guard);
    user.settled += echo.tracker.settled();
    context.recorder.unanswered(echo.tracker.unanswered());
    match end {
        EchoEnd::Completed => {
            close(context, echo.socket).await;
            SessionEnd::Completed
        }
        EchoEnd::Interrupted(by) => {
            if by == Interruption::Stop {
                close(context, echo.socket).await;
            }
            SessionEnd::Interrupted { by, connected: true }
        }
        EchoEnd::Moved(failure) => SessionEnd::Moved { failure },
        EchoEnd::Lost(failure) => SessionEnd::Lost { failure, node },
    }
}

/// Connects and upgrades within the deadline. Also returns the name of the node.
///
/// # Errors
///
/// How the session ended before it began.
pub(super) async fn open(
    context: &Context,
    user: &mut User,
    path_and_query: &str,
) -> Result<(WebSocket, Option<Box<str>>), SessionEnd> {
    let cookies = user.cookies.headers();
    let connection = async {
        user.dialer.websocket(path_and_query, &cookies).await.map_err(|error| {
            let node = match &error {
                UpgradeError::Rejected(reply) => node(&reply.headers),
                UpgradeError::Failed(_) => None,
            };
            SessionEnd::Failed { failure: error.into(), node }
        })
    };
    let (socket, headers) = user.commands.attempt(context.scenario.timeout, connection).await?;
    user.cookies.store(&headers);
    Ok((socket, node(&headers)))
}

/// Closes properly, or drops the connection after a timeout.
pub(super) async fn close(context: &Context, socket: WebSocket) {
    let _ = timeout(context.scenario.timeout, socket.close()).await;
}

/// Returns the name of the node that sent a reply.
pub(super) fn node(headers: &HeaderMap) -> Option<Box<str>> {
    Some(headers.get("x-node")?.to_str().ok()?.into())
}

/// How a connection ended.
enum EchoEnd {
    /// All messages are sent and settled.
    Completed,
    Interrupted(Interruption),
    /// The server asked the client to reconnect, with the code of its Close.
    Moved(Failure),
    Lost(Failure),
}

/// A connection that sends messages and checks echoes.
struct EchoSession<'a> {
    context: &'a Context,
    socket: WebSocket,
    tracker: MessageTracker,
    generator: PayloadGenerator,
    kind: Kind,
    timer: LazyTimer,
}

/// What a client waits for.
enum Event {
    Message(Message),
    Command(Interruption),
    Timer,
}

impl<'a> EchoSession<'a> {
    fn new(context: &'a Context, user: &User, socket: WebSocket) -> Self {
        let messages = &context.scenario.messages;
        let (kind, generator) = payload(messages, user.number);
        let tracker = MessageTracker::new(
            messages,
            user.settled,
            user.number,
            context.grid(),
            Instant::now(),
        );
        Self { context, socket, tracker, generator, kind, timer: LazyTimer::new() }
    }

    async fn run(&mut self, mut commands: Pin<&mut impl Future<Output = Interruption>>) -> EchoEnd {
        while !self.tracker.is_done() {
            let behind = match self.send_due().await {
                Ok(behind) => behind,
                Err(failure) => return EchoEnd::Lost(failure),
            };
            if behind {
                yield_now().await;
            }
            match self.event(commands.as_mut(), behind).await {
                Ok(Event::Message(Message::Text(text))) => self.receive(text.as_bytes()),
                Ok(Event::Message(Message::Binary(bytes))) => self.receive(&bytes),
                Ok(Event::Message(Message::Close(close_frame)))
                    if close_frame.asks_to_reconnect() =>
                {
                    return EchoEnd::Moved(close_frame.into());
                }
                Ok(Event::Message(Message::Close(close_frame))) => {
                    return EchoEnd::Lost(close_frame.into());
                }
                Ok(Event::Command(by)) => return EchoEnd::Interrupted(by),
                Ok(Event::Timer) => self.give_up(),
                Err(failure) => return EchoEnd::Lost(failure),
            }
        }
        EchoEnd::Completed
    }

    /// Sends the messages that are due, unless the server is slow. Returns whether more messages are due.
    async fn send_due(&mut self) -> Result<bool, Failure> {
        for _ in 0..MAX_MESSAGES_IN_A_ROW {
            let due = self.tracker.due().is_some_and(|due| due <= Instant::now());
            if !due || self.is_blocked() {
                return Ok(false);
            }
            let number = self.tracker.record_sent();
            let generator = self.generator;
            let write = |out: &mut Vec<u8>| generator.write(number, out);
            self.socket.send_with(self.kind, generator.size(), write).await?;
            self.context.recorder.sent(generator.size());
        }
        Ok(true)
    }

    /// Whether the server does not read what was sent.
    fn is_blocked(&self) -> bool {
        self.socket.backlog() > MAX_BACKLOG
    }

    /// Returns the next event. With `behind`, does not wait for it.
    async fn event(
        &mut self,
        mut commands: Pin<&mut impl Future<Output = Interruption>>,
        behind: bool,
    ) -> Result<Event, Failure> {
        let deadline = self.tracker.deadline(self.context.scenario.timeout);
        let due = match self.is_blocked() {
            true => self.tracker.due().map(|due| due.max(Instant::now() + BLOCKED_RETRY)),
            false => self.tracker.due(),
        };
        let next = due.into_iter().chain(deadline).min();
        let mut message = pin!(self.socket.next());
        poll_fn(|cx| {
            // An endless series of echoes must not delay a command.
            if behind && let Poll::Ready(by) = commands.as_mut().poll(cx) {
                return Poll::Ready(Ok(Event::Command(by)));
            }
            if let Poll::Ready(message) = message.as_mut().poll(cx) {
                return Poll::Ready(message.map(Event::Message));
            }
            if behind {
                return Poll::Ready(Ok(Event::Timer));
            }
            if let Poll::Ready(by) = commands.as_mut().poll(cx) {
                return Poll::Ready(Ok(Event::Command(by)));
            }
            self.timer.poll_until(cx, next).map(|()| Ok(Event::Timer))
        })
        .await
    }

    fn receive(&mut self, bytes: &[u8]) {
        let recorder = &self.context.recorder;
        let expects_answers = self.context.scenario.messages.answer != Answer::Nothing;
        // A payload too short for a number answers the oldest message: echoes on one connection are in order.
        let number = self.generator.number(bytes).or(self.tracker.oldest_unanswered());
        let Some(number) = number.filter(|_| expects_answers) else {
            recorder.received(bytes.len());
            return;
        };
        if !self.generator.matches(number, bytes) {
            let detail =
                format!("received {} bytes that are not an echo of a message", bytes.len());
            recorder.failed(&Failure::new(ErrorKind::WrongEcho, detail));
            self.tracker.give_up(Instant::now());
            return;
        }
        // An answer after its deadline was already counted as a timeout.
        if let Some(intended) = self.tracker.answered(number, Instant::now()) {
            recorder.answered(intended, bytes.len());
        }
    }

    /// Counts the messages whose answers have timed out.
    fn give_up(&mut self) {
        let limit = self.context.scenario.timeout;
        let now = Instant::now();
        while self.tracker.deadline(limit).is_some_and(|deadline| deadline <= now) {
            let detail = format!("no echo within {limit:?}");
            self.context.recorder.failed(&Failure::new(ErrorKind::Timeout, detail));
            self.tracker.give_up(now);
        }
    }
}

/// Returns the message type and the payloads of client `number`.
fn payload(messages: &Messages, number: u32) -> (Kind, PayloadGenerator) {
    match messages.payload {
        Payload::Text | Payload::Json => {
            (Kind::Text, PayloadGenerator::text(number, messages.size))
        }
        Payload::Binary => (Kind::Binary, PayloadGenerator::binary(number, messages.size)),
    }
}

//! Plain WebSocket to an echo.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::{task::yield_now, time::timeout};

use super::{Break, Context, End, User, alarm::Alarm, pace::Talk, payload::Maker};
use crate::{
    net::{Kind, Message, UpgradeError, WebSocket},
    scenario::{Answer, Messages, Payload},
    stats::{ErrorKind, Failure},
};

/// Bytes that may wait for a slow server before nothing more is said.
const MOST_WAITING: usize = 64 << 10;
/// How soon a client that is held up looks again.
const RETRY: Duration = Duration::from_millis(5);
/// Messages said in a row before echoes and orders are looked at.
const IN_A_ROW: usize = 64;

/// One connection to the target's path: says what is due and checks each echo.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let target = &context.scenario.target;
    // Boxed, so that an idle client does not carry what only its first moments need.
    let (socket, node) = match Box::pin(open(context, user, &target.path_and_query())).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let seat = context.recorder.connected(node.as_deref(), due);
    let mut echo = Echo::new(context, user, socket);
    let end = echo.run(pin!(user.orders.next())).await;
    drop(seat);
    user.said += echo.talk.settled();
    context.recorder.unanswered(echo.talk.unanswered());
    match end {
        Ended::Done => {
            goodbye(context, echo.socket).await;
            End::Said
        }
        Ended::Ordered(by) => {
            if by == Break::Leave {
                goodbye(context, echo.socket).await;
            }
            End::Ordered { by, connected: true }
        }
        Ended::Moved(failure) => End::Moved { failure },
        Ended::Lost(failure) => End::Lost { failure, node },
    }
}

/// Connects and upgrades within the deadline; also returns the node's name.
///
/// # Errors
///
/// The end of the session that was to be.
pub(super) async fn open(
    context: &Context,
    user: &mut User,
    path_and_query: &str,
) -> Result<(WebSocket, Option<Box<str>>), End> {
    let fields = user.jar.fields();
    let connection = async {
        user.dialer.websocket(path_and_query, &fields).await.map_err(|error| {
            let node = match &error {
                UpgradeError::Refused(reply) => node(&reply.headers),
                UpgradeError::Failed(_) => None,
            };
            End::Failed { failure: error.into(), node }
        })
    };
    let (socket, headers) = user.orders.attempt(context.scenario.timeout, connection).await?;
    user.jar.keep(&headers);
    Ok((socket, node(&headers)))
}

/// Closes in good order, or leaves where that takes too long.
pub(super) async fn goodbye(context: &Context, socket: WebSocket) {
    let _ = timeout(context.scenario.timeout, socket.close()).await;
}

/// The name that our own nodes tell.
pub(super) fn node(headers: &HeaderMap) -> Option<Box<str>> {
    Some(headers.get("x-node")?.to_str().ok()?.into())
}

/// How the talk on a connection ended.
enum Ended {
    /// All is said and answered.
    Done,
    Ordered(Break),
    /// The server asked the client to come back, by the code of its Close.
    Moved(Failure),
    Lost(Failure),
}

/// A connection on which messages are said and echoes checked.
struct Echo<'a> {
    context: &'a Context,
    socket: WebSocket,
    talk: Talk,
    maker: Maker,
    kind: Kind,
    alarm: Alarm,
}

/// What a client waits for.
enum Event {
    Message(Message),
    Order(Break),
    Alarm,
}

impl<'a> Echo<'a> {
    fn new(context: &'a Context, user: &User, socket: WebSocket) -> Self {
        let messages = &context.scenario.messages;
        let (kind, maker) = payload(messages, user.number);
        let talk = Talk::new(messages, user.said, user.number, context.grid(), Instant::now());
        Self { context, socket, talk, maker, kind, alarm: Alarm::new() }
    }

    async fn run(&mut self, mut orders: Pin<&mut impl Future<Output = Break>>) -> Ended {
        while !self.talk.done() {
            let behind = match self.say().await {
                Ok(behind) => behind,
                Err(failure) => return Ended::Lost(failure),
            };
            if behind {
                yield_now().await;
            }
            match self.event(orders.as_mut(), behind).await {
                Ok(Event::Message(Message::Text(text))) => self.heard(text.as_bytes()),
                Ok(Event::Message(Message::Binary(bytes))) => self.heard(&bytes),
                Ok(Event::Message(Message::Close(closure))) if closure.asks_to_return() => {
                    return Ended::Moved(closure.into());
                }
                Ok(Event::Message(Message::Close(closure))) => return Ended::Lost(closure.into()),
                Ok(Event::Order(by)) => return Ended::Ordered(by),
                Ok(Event::Alarm) => self.give_up(),
                Err(failure) => return Ended::Lost(failure),
            }
        }
        Ended::Done
    }

    /// Says what is due, as far as the server takes it; whether more could be said at once.
    async fn say(&mut self) -> Result<bool, Failure> {
        for _ in 0..IN_A_ROW {
            let due = self.talk.due().is_some_and(|due| due <= Instant::now());
            if !due || self.is_held_up() {
                return Ok(false);
            }
            let number = self.talk.say();
            let maker = self.maker;
            let make = |out: &mut Vec<u8>| maker.write(number, out);
            self.socket.send_made(self.kind, maker.size(), make).await?;
            self.context.recorder.sent(maker.size());
        }
        Ok(true)
    }

    /// Whether the server does not take what was said.
    fn is_held_up(&self) -> bool {
        self.socket.backlog() > MOST_WAITING
    }

    /// What comes next; a client that is `behind` does not wait for it.
    async fn event(
        &mut self,
        mut orders: Pin<&mut impl Future<Output = Break>>,
        behind: bool,
    ) -> Result<Event, Failure> {
        let deadline = self.talk.deadline(self.context.scenario.timeout);
        let due = match self.is_held_up() {
            true => self.talk.due().map(|due| due.max(Instant::now() + RETRY)),
            false => self.talk.due(),
        };
        let next = due.into_iter().chain(deadline).min();
        let mut message = pin!(self.socket.next());
        poll_fn(|cx| {
            // Echoes without end must not hide an order.
            if behind && let Poll::Ready(by) = orders.as_mut().poll(cx) {
                return Poll::Ready(Ok(Event::Order(by)));
            }
            if let Poll::Ready(message) = message.as_mut().poll(cx) {
                return Poll::Ready(message.map(Event::Message));
            }
            if behind {
                return Poll::Ready(Ok(Event::Alarm));
            }
            if let Poll::Ready(by) = orders.as_mut().poll(cx) {
                return Poll::Ready(Ok(Event::Order(by)));
            }
            self.alarm.poll_until(cx, next).map(|()| Ok(Event::Alarm))
        })
        .await
    }

    fn heard(&mut self, bytes: &[u8]) {
        let recorder = &self.context.recorder;
        let awaits = self.context.scenario.messages.answer != Answer::Nothing;
        // Payloads too short for a number are answered in order, as all are on one connection.
        let number = self.maker.number(bytes).or(self.talk.oldest());
        let Some(number) = number.filter(|_| awaits) else {
            recorder.received(bytes.len());
            return;
        };
        if !self.maker.matches(number, bytes) {
            let detail = format!("{} bytes came back that were not sent", bytes.len());
            recorder.failed(&Failure::new(ErrorKind::WrongEcho, detail));
            self.talk.give_up(Instant::now());
            return;
        }
        // An answer after its deadline has been counted as a timeout.
        if let Some(intended) = self.talk.answered(number, Instant::now()) {
            recorder.answered(intended, bytes.len());
        }
    }

    /// Counts the messages whose answers are overdue.
    fn give_up(&mut self) {
        let patience = self.context.scenario.timeout;
        let now = Instant::now();
        while self.talk.deadline(patience).is_some_and(|deadline| deadline <= now) {
            let detail = format!("no echo within {patience:?}");
            self.context.recorder.failed(&Failure::new(ErrorKind::Timeout, detail));
            self.talk.give_up(now);
        }
    }
}

/// What client `number` says, and as what.
fn payload(messages: &Messages, number: u32) -> (Kind, Maker) {
    match messages.payload {
        Payload::Text | Payload::Json => (Kind::Text, Maker::text(number, messages.size)),
        Payload::Binary => (Kind::Binary, Maker::binary(number, messages.size)),
    }
}

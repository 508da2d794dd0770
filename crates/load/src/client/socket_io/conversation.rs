//! A Socket.IO session as seen from one client, whatever carries it: CONNECT, heartbeats, messages
//! and their answers.
//!
//! Must not know transports: packets come in, frames go to an outbox, and [`Conversation::wake`]
//! says when time matters next.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{
    super::{Context, pace::Talk},
    ended,
    speech::{self, Speech},
};
use crate::{
    scenario::{Answer, Protocol},
    stats::{ErrorKind, Failure, Seat},
    wire::{
        Malformed,
        engine_io::{Frame, Handshake, Packet},
        socket_io::{self, Kind},
    },
};

/// Frames in an outbox that are enough: more is said when they are gone.
const ROOM: usize = 64;
/// How soon a client that is held up looks again.
const RETRY: Duration = Duration::from_millis(5);

/// One session.
#[derive(Debug)]
pub(super) struct Conversation<'c> {
    context: &'c Context,
    number: u32,
    /// When the connection was due.
    due: Instant,
    /// The node that carries the session, where it tells.
    node: Option<Box<str>>,
    speech: Speech,
    heartbeat: Heartbeat,
    /// A packet whose attachments are still coming.
    partial: Option<Box<Partial>>,
    /// Messages settled before this connection.
    before: u64,
    /// From CONNECT on.
    connected: Option<Connected>,
}

#[derive(Debug)]
struct Connected {
    /// Counts the client as connected.
    _seat: Seat,
    talk: Talk,
    /// When the next message to all is due, where this client sends them.
    broadcast: Option<Instant>,
}

#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    /// Without a packet until then, the connection is dead; before CONNECT, the attempt has failed.
    deadline: Instant,
    /// When this side is to ping next, in protocol 3.
    ping: Option<Instant>,
}

#[derive(Debug)]
struct Partial {
    text: String,
    expected: u32,
    attachments: Vec<Vec<u8>>,
}

impl<'c> Conversation<'c> {
    /// Of client `number`, due at `due`, whose session has settled `before` messages already.
    pub(super) fn new(context: &'c Context, number: u32, due: Instant, before: u64) -> Self {
        let deadline = Instant::now() + context.scenario.timeout;
        Self {
            context,
            number,
            due,
            node: None,
            speech: Speech::new(&context.scenario.messages, number),
            heartbeat: Heartbeat { interval: Duration::ZERO, deadline, ping: None },
            partial: None,
            before,
            connected: None,
        }
    }

    /// What it speaks.
    pub(super) fn protocol(&self) -> Protocol {
        self.context.scenario.protocol
    }

    /// Whether CONNECT was acknowledged.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Whether all is said and answered.
    pub(super) fn is_done(&self) -> bool {
        self.connected.as_ref().is_some_and(|connected| connected.talk.done())
    }

    /// Messages that this session has settled, on this connection and before it.
    pub(super) fn settled(&self) -> u64 {
        self.before + self.connected.as_ref().map_or(0, |connected| connected.talk.settled())
    }

    /// When the messages of this connection were due that wait for their answers.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Instant> {
        self.connected.iter().flat_map(|connected| connected.talk.unanswered())
    }

    /// Whether the session's node is being drained.
    pub(super) fn drains(&self) -> bool {
        self.context.drains(self.node.as_deref())
    }

    /// The node that carries the session.
    pub(super) fn into_node(self) -> Option<Box<str>> {
        self.node
    }

    /// A reply or an event told its node; where the session's own has gone, another one answers.
    pub(super) fn answered_by(&mut self, node: &str) {
        match &self.node {
            None => {
                self.node = Some(node.into());
                self.context.recorder.named();
            }
            Some(own) if **own != *node && !self.context.gone(Some(own)) => {
                self.context.recorder.misrouted(own, node);
            }
            Some(_) => {}
        }
    }

    /// Reports a failure that does not end the session; one of a node that went away is none.
    pub(super) fn report(&self, failure: &Failure) {
        if !self.context.gone(self.node.as_deref()) {
            self.context.recorder.failed(failure);
        }
    }

    /// The session was opened.
    pub(super) fn open(&mut self, handshake: &Handshake, outbox: &mut Vec<Frame>) {
        self.heartbeat.interval = handshake.ping_interval();
        match self.context.scenario.protocol {
            Protocol::V3 => self.heartbeat.ping = Some(Instant::now() + self.heartbeat.interval),
            // Socket.IO 2 connects the main namespace by itself.
            Protocol::V4 => outbox.push(Frame::Text("40".to_owned())),
        }
    }

    /// What a client says before it closes.
    pub(super) fn goodbye(&self) -> Frame {
        Frame::Text("41".to_owned())
    }

    /// A packet came.
    ///
    /// # Errors
    ///
    /// What ends the session.
    pub(super) fn receive(
        &mut self,
        packet: Packet<'_>,
        outbox: &mut Vec<Frame>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        if self.is_connected() {
            self.heartbeat.deadline = now + self.heartbeat.interval + self.context.scenario.timeout;
        }
        match packet {
            Packet::Open(data) => self.open(&Handshake::parse(data)?, outbox),
            Packet::Close => return Err(ended("the server closed the session")),
            Packet::Ping(data) => outbox.push(Frame::Text(format!("3{data}"))),
            Packet::Pong(_) => self.heartbeat.ping = Some(now + self.heartbeat.interval),
            Packet::Text(text) => self.message(text, now)?,
            Packet::Binary(data) => self.attachment(data.into_owned(), now)?,
            Packet::Upgrade | Packet::Noop => {}
        }
        Ok(())
    }

    /// When something is to be done next, if nothing comes before.
    pub(super) fn wake(&self) -> Instant {
        let mut times = [self.heartbeat.ping, None, None, None];
        if let Some(Connected { talk, broadcast, .. }) = &self.connected {
            let overdue = talk.deadline(self.context.scenario.timeout);
            times = [self.heartbeat.ping, talk.due(), overdue, *broadcast];
        }
        times.into_iter().flatten().fold(self.heartbeat.deadline, Instant::min)
    }

    /// Does what is due, and tells when something will be next; `None`: at once. A client that is
    /// `held_up`, because the server does not take what it said, says no more for now.
    ///
    /// # Errors
    ///
    /// A server that was silent for too long.
    pub(super) fn turn(
        &mut self,
        held_up: bool,
        outbox: &mut Vec<Frame>,
    ) -> Result<Option<Instant>, Failure> {
        let now = Instant::now();
        let wake = self.wake();
        if wake > now {
            return Ok(Some(wake));
        }
        if now >= self.heartbeat.deadline {
            return Err(self.silence());
        }
        if self.heartbeat.ping.is_some_and(|ping| ping <= now) {
            outbox.push(Frame::Text("2".to_owned()));
            self.heartbeat.ping = None;
            self.heartbeat.deadline =
                self.heartbeat.deadline.min(now + self.context.scenario.timeout);
        }
        self.give_up(now);
        if held_up {
            return Ok(Some(self.wake().max(now + RETRY)));
        }
        self.speak(now, outbox);
        Ok(Some(self.wake()).filter(|wake| *wake > now))
    }

    /// What it means that nothing came in time.
    pub(super) fn silence(&self) -> Failure {
        let timeout = self.context.scenario.timeout;
        let clause = match self.connected {
            Some(_) => "the server was silent for longer than its heartbeat allows".to_owned(),
            None => format!("no Socket.IO session within {timeout:?}"),
        };
        Failure::new(ErrorKind::Timeout, clause)
    }

    /// Settles what is overdue: errors, but where the node was hurt by the run itself.
    fn give_up(&mut self, now: Instant) {
        let timeout = self.context.scenario.timeout;
        let gone = self.context.gone(self.node.as_deref());
        let Some(Connected { talk, .. }) = &mut self.connected else { return };
        while talk.deadline(timeout).is_some_and(|deadline| deadline <= now) {
            let due = talk.give_up(now);
            if gone {
                self.context.recorder.unanswered(due.into_iter());
            } else {
                let clause = format!("no answer within {timeout:?}");
                self.context.recorder.failed(&Failure::new(ErrorKind::Timeout, clause));
            }
        }
    }

    fn speak(&mut self, now: Instant, outbox: &mut Vec<Frame>) {
        let scenario = &self.context.scenario;
        let messages = &scenario.messages;
        let Some(Connected { talk, broadcast, .. }) = &mut self.connected else { return };
        while outbox.len() < ROOM && talk.due().is_some_and(|due| due <= now) {
            let number = talk.say();
            let id = (messages.answer == Answer::Ack).then_some(number);
            self.speech.event(&messages.event, number, id, outbox);
            self.context.recorder.sent(messages.size);
        }
        if let (Some(due), Some(every)) = (*broadcast, scenario.broadcast_every)
            && due <= now
        {
            let micros = due.saturating_duration_since(self.context.epoch).as_micros() as u64;
            speech::broadcast(micros, messages.size, outbox);
            self.context.recorder.sent(messages.size);
            *broadcast = Some(due + every);
        }
    }

    fn message(&mut self, text: &str, now: Instant) -> Result<(), Failure> {
        if self.partial.is_some() {
            return Err(Malformed("a text where an attachment was due").into());
        }
        let packet = socket_io::Packet::parse(text)?;
        match packet.attachments {
            0 => self.handle(packet, &[], now),
            expected => {
                let (text, attachments) = (text.to_owned(), Vec::new());
                self.partial = Some(Box::new(Partial { text, expected, attachments }));
                Ok(())
            }
        }
    }

    fn attachment(&mut self, data: Vec<u8>, now: Instant) -> Result<(), Failure> {
        let Some(mut partial) = self.partial.take() else {
            return Err(Malformed("an attachment of nothing").into());
        };
        partial.attachments.push(data);
        if partial.attachments.len() < partial.expected as usize {
            self.partial = Some(partial);
            return Ok(());
        }
        self.handle(socket_io::Packet::parse(&partial.text)?, &partial.attachments, now)
    }

    /// A whole packet.
    fn handle(
        &mut self,
        packet: socket_io::Packet<'_>,
        attachments: &[Vec<u8>],
        now: Instant,
    ) -> Result<(), Failure> {
        match packet.kind {
            _ if packet.namespace != "/" => {}
            Kind::Connect => self.connect(now),
            Kind::Disconnect => return Err(ended("the server disconnected the client")),
            Kind::ConnectError => {
                let clause = format!("the server refused to CONNECT: {}", packet.data);
                return Err(Failure::new(ErrorKind::EngineIo, clause));
            }
            Kind::Event => self.event(&packet, attachments, now)?,
            Kind::Ack => {
                let arguments = packet.arguments()?;
                self.answer(packet.id, arguments.first().copied(), attachments, now);
            }
        }
        Ok(())
    }

    fn connect(&mut self, now: Instant) {
        let scenario = &self.context.scenario;
        self.heartbeat.deadline = now + self.heartbeat.interval + scenario.timeout;
        if self.connected.is_none() {
            let speaker = self.number == speech::SPEAKER;
            self.connected = Some(Connected {
                _seat: self.context.recorder.connected(self.node.as_deref(), self.due),
                talk: Talk::new(
                    &scenario.messages,
                    self.before,
                    self.number,
                    self.context.grid(),
                    now,
                ),
                broadcast: scenario.broadcast_every.filter(|_| speaker).map(|every| now + every),
            });
        }
    }

    fn event(
        &mut self,
        packet: &socket_io::Packet<'_>,
        attachments: &[Vec<u8>],
        now: Instant,
    ) -> Result<(), Failure> {
        let messages = &self.context.scenario.messages;
        let arguments = packet.arguments()?;
        let Some((name, arguments)) = arguments.split_first() else {
            return Err(Malformed("an event without a name").into());
        };
        let name: String = serde_json::from_str(name.get()).unwrap_or_default();
        if name == speech::BROADCAST
            && let Some((micros, whole)) = speech::heard(arguments, messages.size)
        {
            self.hear(micros, whole);
        } else if name == messages.event && messages.answer == Answer::Echo {
            self.answer(None, arguments.first().copied(), attachments, now);
        } else {
            if name == "node"
                && let [node] = arguments
                && let Ok(node) = serde_json::from_str::<String>(node.get())
            {
                self.answered_by(&node);
            }
            let attached: usize = attachments.iter().map(Vec::len).sum();
            self.context.recorder.received(packet.data.len() + attached);
        }
        Ok(())
    }

    fn hear(&self, micros: u64, whole: bool) {
        if !whole {
            self.report(&Failure::new(ErrorKind::WrongEcho, "a message to all was changed"));
            return;
        }
        let sent = self.context.epoch + Duration::from_micros(micros);
        self.context.recorder.heard(sent, self.context.scenario.messages.size);
    }

    /// An answer to message `number`; where the packet does not tell, the payload may.
    fn answer(
        &mut self,
        number: Option<u64>,
        argument: Option<&RawValue>,
        attachments: &[Vec<u8>],
        now: Instant,
    ) {
        let Some(Connected { talk, .. }) = &mut self.connected else { return };
        let maker = self.speech.maker();
        let payload = self.speech.payload(argument, attachments).unwrap_or_default();
        let number = number.or_else(|| maker.number(&payload)).or_else(|| talk.oldest());
        let clause = match number.and_then(|number| Some((number, talk.answered(number, now)?))) {
            Some((number, intended)) if maker.matches(number, &payload) => {
                return self.context.recorder.answered(intended, payload.len());
            }
            Some((number, _)) => format!("the answer to message {number} is not what was sent"),
            // It may be one that came too late.
            None if talk.gave_up() => return,
            None => "an answer that was not asked for, or came twice".to_owned(),
        };
        self.report(&Failure::new(ErrorKind::WrongEcho, clause));
    }
}

//! A Socket.IO session of one client, independent of the transport: CONNECT, heartbeats, messages and their
//! answers.
//!
//! Does not know about transports: packets come in, frames go to an outbox, and [`Session::next_wakeup`]
//! returns when something is due next.

mod incoming;

use std::time::{Duration, Instant};

use super::{
    super::{Context, pace::MessageTracker},
    disconnected,
    event_codec::{self, EventCodec},
};
use crate::{
    scenario::{Answer, Protocol},
    stats::{ConnectedGuard, ErrorKind, Failure},
    wire::engine_io::{Frame, Handshake, Packet},
};

/// Maximum frames in an outbox; above this, the client waits before it sends more.
const OUTBOX_LIMIT: usize = 64;
/// Delay after which a client that waits for a slow server checks again.
const BLOCKED_RETRY: Duration = Duration::from_millis(5);

/// One session.
#[derive(Debug)]
pub(super) struct Session<'c> {
    context: &'c Context,
    number: u32,
    /// When the connection was due.
    due: Instant,
    /// The node that owns the session, if it is named.
    node: Option<Box<str>>,
    codec: EventCodec,
    heartbeat: Heartbeat,
    /// A packet whose attachments are not complete yet.
    partial: Option<Box<Partial>>,
    /// Messages settled on earlier connections.
    settled_before: u64,
    /// Set by CONNECT.
    connected: Option<Connected>,
}

#[derive(Debug)]
struct Connected {
    /// Counts the client as connected.
    _guard: ConnectedGuard,
    tracker: MessageTracker,
    /// When the next broadcast is due, if this client sends them.
    broadcast: Option<Instant>,
}

#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    /// If no packet comes until then, the connection is dead. Before CONNECT: the attempt has failed.
    deadline: Instant,
    /// When the client must ping next, in protocol 3.
    ping: Option<Instant>,
}

#[derive(Debug)]
struct Partial {
    text: String,
    expected: u32,
    attachments: Vec<Vec<u8>>,
}

impl<'c> Session<'c> {
    /// A session of client `number`, due at `due`, with `settled_before` messages settled on earlier connections.
    pub(super) fn new(
        context: &'c Context,
        number: u32,
        due: Instant,
        settled_before: u64,
    ) -> Self {
        let deadline = Instant::now() + context.scenario.timeout;
        Self {
            context,
            number,
            due,
            node: None,
            codec: EventCodec::new(&context.scenario.messages, number),
            heartbeat: Heartbeat { interval: Duration::ZERO, deadline, ping: None },
            partial: None,
            settled_before,
            connected: None,
        }
    }

    /// Engine.IO protocol.
    pub(super) fn protocol(&self) -> Protocol {
        self.context.scenario.protocol
    }

    /// Whether CONNECT was acknowledged.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Whether all messages are sent and settled.
    pub(super) fn is_done(&self) -> bool {
        self.connected.as_ref().is_some_and(|connected| connected.tracker.is_done())
    }

    /// Returns the number of messages that this session has settled, on all its connections.
    pub(super) fn settled(&self) -> u64 {
        self.settled_before
            + self.connected.as_ref().map_or(0, |connected| connected.tracker.settled())
    }

    /// Returns the intended times of the messages of this connection that wait for an answer.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Instant> {
        self.connected.iter().flat_map(|connected| connected.tracker.unanswered())
    }

    /// Whether the session's node drains.
    pub(super) fn is_draining(&self) -> bool {
        self.context.is_draining(self.node.as_deref())
    }

    /// Returns the node that owns the session.
    pub(super) fn into_node(self) -> Option<Box<str>> {
        self.node
    }

    /// Records the node that sent a reply or event. A different node than the session's is misrouting, unless
    /// the session's node is down.
    pub(super) fn note_node(&mut self, node: &str) {
        match &self.node {
            None => {
                self.node = Some(node.into());
                self.context.recorder.node_named();
            }
            Some(own) if **own != *node && !self.context.is_down(Some(own)) => {
                self.context.recorder.misrouted(own, node);
            }
            Some(_) => {}
        }
    }

    /// Reports a failure that does not end the session, unless the session's node is down.
    pub(super) fn report(&self, failure: &Failure) {
        if !self.context.is_down(self.node.as_deref()) {
            self.context.recorder.failed(failure);
        }
    }

    /// Handles the handshake.
    pub(super) fn open(&mut self, handshake: &Handshake, outbox: &mut Vec<Frame>) {
        self.heartbeat.interval = handshake.ping_interval();
        match self.context.scenario.protocol {
            Protocol::V3 => self.heartbeat.ping = Some(Instant::now() + self.heartbeat.interval),
            // Socket.IO 2 connects the main namespace without a request.
            Protocol::V4 => outbox.push(Frame::Text("40".to_owned())),
        }
    }

    /// The packet that a client sends before it closes.
    pub(super) fn disconnect_packet(&self) -> Frame {
        Frame::Text("41".to_owned())
    }

    /// Handles a received packet.
    ///
    /// # Errors
    ///
    /// The failure that ends the session.
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
            Packet::Close => return Err(disconnected("the server closed the session")),
            Packet::Ping(data) => outbox.push(Frame::Text(format!("3{data}"))),
            Packet::Pong(_) => self.heartbeat.ping = Some(now + self.heartbeat.interval),
            Packet::Text(text) => self.message(text, now)?,
            Packet::Binary(data) => self.attachment(data.into_owned(), now)?,
            Packet::Upgrade | Packet::Noop => {}
        }
        Ok(())
    }

    /// Returns when something is due next, if nothing is received before.
    pub(super) fn next_wakeup(&self) -> Instant {
        let mut times = [self.heartbeat.ping, None, None, None];
        if let Some(Connected { tracker, broadcast, .. }) = &self.connected {
            let overdue = tracker.deadline(self.context.scenario.timeout);
            times = [self.heartbeat.ping, tracker.due(), overdue, *broadcast];
        }
        times.into_iter().flatten().fold(self.heartbeat.deadline, Instant::min)
    }

    /// Does what is due, and returns when something is due next; `None`: at once. A client that is `blocked`,
    /// because the server does not read, sends nothing for now.
    ///
    /// # Errors
    ///
    /// The server was silent for too long.
    pub(super) fn run_due(
        &mut self,
        blocked: bool,
        outbox: &mut Vec<Frame>,
    ) -> Result<Option<Instant>, Failure> {
        let now = Instant::now();
        let next_wakeup = self.next_wakeup();
        if next_wakeup > now {
            return Ok(Some(next_wakeup));
        }
        if now >= self.heartbeat.deadline {
            return Err(self.timeout_failure());
        }
        if self.heartbeat.ping.is_some_and(|ping| ping <= now) {
            outbox.push(Frame::Text("2".to_owned()));
            self.heartbeat.ping = None;
            self.heartbeat.deadline =
                self.heartbeat.deadline.min(now + self.context.scenario.timeout);
        }
        self.give_up(now);
        if blocked {
            return Ok(Some(self.next_wakeup().max(now + BLOCKED_RETRY)));
        }
        self.send_due(now, outbox);
        Ok(Some(self.next_wakeup()).filter(|next_wakeup| *next_wakeup > now))
    }

    /// Returns the failure for a server that was silent for too long.
    pub(super) fn timeout_failure(&self) -> Failure {
        let timeout = self.context.scenario.timeout;
        let detail = match self.connected {
            Some(_) => "no heartbeat from the server in time".to_owned(),
            None => format!("no Socket.IO session within {timeout:?}"),
        };
        Failure::new(ErrorKind::Timeout, detail)
    }

    /// Gives up on answers that have timed out. They are errors, unless the run itself has made the node
    /// faulty.
    fn give_up(&mut self, now: Instant) {
        let timeout = self.context.scenario.timeout;
        let node_is_down = self.context.is_down(self.node.as_deref());
        let Some(Connected { tracker, .. }) = &mut self.connected else { return };
        while tracker.deadline(timeout).is_some_and(|deadline| deadline <= now) {
            let due = tracker.give_up(now);
            if node_is_down {
                self.context.recorder.unanswered(due.into_iter());
            } else {
                let detail = format!("no answer within {timeout:?}");
                self.context.recorder.failed(&Failure::new(ErrorKind::Timeout, detail));
            }
        }
    }

    fn send_due(&mut self, now: Instant, outbox: &mut Vec<Frame>) {
        let scenario = &self.context.scenario;
        let messages = &scenario.messages;
        let Some(Connected { tracker, broadcast, .. }) = &mut self.connected else { return };
        while outbox.len() < OUTBOX_LIMIT && tracker.due().is_some_and(|due| due <= now) {
            let number = tracker.record_sent();
            let id = (messages.answer == Answer::Ack).then_some(number);
            self.codec.encode(&messages.event, number, id, outbox);
            self.context.recorder.sent(messages.size);
        }
        if let (Some(due), Some(every)) = (*broadcast, scenario.broadcast_every)
            && due <= now
        {
            let micros = due.saturating_duration_since(self.context.epoch).as_micros() as u64;
            event_codec::encode_broadcast(micros, messages.size, outbox);
            self.context.recorder.sent(messages.size);
            *broadcast = Some(due + every);
        }
    }
}

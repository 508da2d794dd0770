//! Received Socket.IO packets: CONNECT, events and acknowledgements.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{
    super::{super::pace::MessageTracker, disconnected, event_codec},
    Connected, Partial, Session,
};
use crate::{
    scenario::Answer,
    stats::{ErrorKind, Failure},
    wire::{
        Malformed,
        socket_io::{self, Kind},
    },
};

impl Session<'_> {
    /// Handles a text message of Engine.IO.
    pub(super) fn message(&mut self, text: &str, now: Instant) -> Result<(), Failure> {
        if self.partial.is_some() {
            return Err(Malformed("a text instead of an attachment").into());
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

    /// Handles a binary message of Engine.IO.
    pub(super) fn attachment(&mut self, data: Vec<u8>, now: Instant) -> Result<(), Failure> {
        let Some(mut partial) = self.partial.take() else {
            return Err(Malformed("an attachment without a packet").into());
        };
        partial.attachments.push(data);
        if partial.attachments.len() < partial.expected as usize {
            self.partial = Some(partial);
            return Ok(());
        }
        self.handle(socket_io::Packet::parse(&partial.text)?, &partial.attachments, now)
    }

    /// Handles a complete packet.
    fn handle(
        &mut self,
        packet: socket_io::Packet<'_>,
        attachments: &[Vec<u8>],
        now: Instant,
    ) -> Result<(), Failure> {
        match packet.kind {
            _ if packet.namespace != "/" => {}
            Kind::Connect => self.connect(now),
            Kind::Disconnect => return Err(disconnected("the server disconnected the client")),
            Kind::ConnectError => {
                let detail = format!("the server rejected CONNECT: {}", packet.data);
                return Err(Failure::new(ErrorKind::EngineIo, detail));
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
            let is_broadcaster = self.number == event_codec::BROADCASTER;
            self.connected = Some(Connected {
                _guard: self.context.recorder.connected(self.node.as_deref(), self.due),
                tracker: MessageTracker::new(
                    &scenario.messages,
                    self.settled_before,
                    self.number,
                    self.context.grid(),
                    now,
                ),
                broadcast: scenario
                    .broadcast_every
                    .filter(|_| is_broadcaster)
                    .map(|every| now + every),
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
        if name == event_codec::BROADCAST_EVENT
            && let Some((micros, whole)) = event_codec::decode_broadcast(arguments, messages.size)
        {
            self.receive_broadcast(micros, whole);
        } else if name == messages.event && messages.answer == Answer::Echo {
            self.answer(None, arguments.first().copied(), attachments, now);
        } else {
            if name == "node"
                && let [node] = arguments
                && let Ok(node) = serde_json::from_str::<String>(node.get())
            {
                self.note_node(&node);
            }
            let attached: usize = attachments.iter().map(Vec::len).sum();
            self.context.recorder.received(packet.data.len() + attached);
        }
        Ok(())
    }

    fn receive_broadcast(&self, micros: u64, whole: bool) {
        if !whole {
            self.report(&Failure::new(
                ErrorKind::WrongEcho,
                "the content of a broadcast was changed",
            ));
            return;
        }
        let sent = self.context.epoch + Duration::from_micros(micros);
        self.context.recorder.received_broadcast(sent, self.context.scenario.messages.size);
    }

    /// Handles the answer to message `number`. Without a number in the packet, uses the one in the payload.
    fn answer(
        &mut self,
        number: Option<u64>,
        argument: Option<&RawValue>,
        attachments: &[Vec<u8>],
        now: Instant,
    ) {
        let Some(Connected { tracker, .. }) = &mut self.connected else { return };
        let generator = self.codec.generator();
        let payload = self.codec.decode(argument, attachments).unwrap_or_default();
        let number =
            number.or_else(|| generator.number(&payload)).or_else(|| tracker.oldest_unanswered());
        let detail = match number.and_then(|number| Some((number, tracker.answered(number, now)?)))
        {
            Some((number, intended)) if generator.matches(number, &payload) => {
                return self.context.recorder.answered(intended, payload.len());
            }
            Some((number, _)) => format!("the answer to message {number} is not what was sent"),
            // It may be a late answer.
            None if tracker.gave_up() => return,
            None => "an unexpected or repeated answer".to_owned(),
        };
        self.report(&Failure::new(ErrorKind::WrongEcho, detail));
    }
}

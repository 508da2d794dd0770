//! Encodes payloads as Socket.IO events, and decodes them from answers.
//!
//! Does not know when messages are sent.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::payload::PayloadGenerator;
use crate::{
    scenario::{Messages, Payload},
    wire::{
        engine_io::Frame,
        socket_io::{Kind, Packet},
    },
};

/// The event that the nodes of the harness send to all their clients.
pub(super) const BROADCAST_EVENT: &str = "all";
/// The client that broadcasts.
pub(super) const BROADCASTER: u32 = 0;

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":0}"#;

/// Encodes the messages of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventCodec {
    generator: PayloadGenerator,
    payload: Payload,
}

/// A JSON payload.
#[derive(Deserialize)]
struct JsonPayload<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// A reference to an attachment.
#[derive(Deserialize)]
struct Placeholder {
    num: usize,
}

impl EventCodec {
    pub(super) fn new(messages: &Messages, number: u32) -> Self {
        let payload = messages.payload;
        let generator = match payload {
            Payload::Binary => PayloadGenerator::binary(number, messages.size),
            Payload::Text | Payload::Json => PayloadGenerator::text(number, messages.size),
        };
        Self { generator, payload }
    }

    /// Generates and checks the payloads.
    pub(super) fn generator(&self) -> &PayloadGenerator {
        &self.generator
    }

    /// Appends message `number` as an event. With an `id`, the event requests an acknowledgement.
    pub(super) fn encode(&self, name: &str, number: u64, id: Option<u64>, outbox: &mut Vec<Frame>) {
        let attachments = u32::from(self.payload == Payload::Binary);
        let mut text = event_prefix(name, attachments, id, self.generator.size());
        text.push(',');
        match self.payload {
            Payload::Text => push_text(&self.generator, number, &mut text),
            Payload::Json => {
                text.push_str(r#"{"text":"#);
                push_text(&self.generator, number, &mut text);
                text.push('}');
            }
            Payload::Binary => text.push_str(PLACEHOLDER),
        }
        text.push(']');
        outbox.push(Frame::Text(text));
        if self.payload == Payload::Binary {
            let mut data = Vec::new();
            self.generator.write(number, &mut data);
            outbox.push(Frame::Binary(data));
        }
    }

    /// Returns the payload in an argument; `None` if the argument is not a payload.
    pub(super) fn decode<'a>(
        &self,
        argument: Option<&'a RawValue>,
        attachments: &'a [Vec<u8>],
    ) -> Option<Cow<'a, [u8]>> {
        let json = argument?.get();
        match self.payload {
            Payload::Text => text(json).map(bytes),
            Payload::Json => {
                serde_json::from_str::<JsonPayload<'_>>(json).ok().map(|object| bytes(object.text))
            }
            Payload::Binary => {
                let place: Placeholder = serde_json::from_str(json).ok()?;
                Some(attachments.get(place.num)?.into())
            }
        }
    }
}

/// Appends the broadcast that is due `micros` microseconds after the epoch of the run.
pub(super) fn encode_broadcast(micros: u64, size: usize, outbox: &mut Vec<Frame>) {
    let mut text = event_prefix(BROADCAST_EVENT, 0, None, size);
    text.push_str(&format!(",{micros},"));
    push_text(&PayloadGenerator::text(BROADCASTER, size), micros, &mut text);
    text.push(']');
    outbox.push(Frame::Text(text));
}

/// Returns when a broadcast was due, from its arguments, and whether its content is correct; `None` if it is
/// not a broadcast of this harness.
pub(super) fn decode_broadcast(arguments: &[&RawValue], size: usize) -> Option<(u64, bool)> {
    let [micros, payload] = arguments else { return None };
    let micros = micros.get().parse().ok()?;
    let payload = text(payload.get())?;
    Some((micros, PayloadGenerator::text(BROADCASTER, size).matches(micros, payload.as_bytes())))
}

/// Starts an event, up to the end of its name.
fn event_prefix(name: &str, attachments: u32, id: Option<u64>, size: usize) -> String {
    let mut text = String::with_capacity(size + name.len() + 64);
    text.push('4');
    Packet { attachments, id, ..Packet::bare(Kind::Event) }.write(&mut text);
    text.push('[');
    // A string is always valid JSON.
    text.push_str(&serde_json::to_string(name).unwrap_or_default());
    text
}

/// Appends a payload in quotes. It needs no escapes.
fn push_text(generator: &PayloadGenerator, number: u64, into: &mut String) {
    into.push('"');
    let mut bytes = std::mem::take(into).into_bytes();
    generator.write(number, &mut bytes);
    // Payloads of texts are ASCII.
    *into = String::from_utf8(bytes).unwrap_or_default();
    into.push('"');
}

/// Returns the content of a JSON string.
fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        false => Some(inner.into()),
        true => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::{Answer, Pace};

    fn codec_for(payload: Payload) -> EventCodec {
        let pace = Pace::Every(Duration::from_secs(1));
        let (event, answer) = ("echo".to_owned(), Answer::Ack);
        let messages = Messages {
            pace,
            count: None,
            repeat: false,
            stay: false,
            size: 20,
            payload,
            event,
            answer,
        };
        EventCodec::new(&messages, 1)
    }

    fn encoded(payload: Payload) -> Vec<Frame> {
        let mut outbox = Vec::new();
        codec_for(payload).encode("say \"it\"", 2, Some(3), &mut outbox);
        outbox
    }

    /// Decodes the payload of an encoded event.
    fn decoded(payload: Payload, frames: &[Frame]) -> Vec<u8> {
        let Frame::Text(packet) = &frames[0] else { panic!("{frames:?}") };
        let packet = Packet::parse(packet.strip_prefix('4').unwrap()).unwrap();
        assert_eq!((packet.kind, packet.id), (Kind::Event, Some(3)));
        assert_eq!(packet.attachments as usize, frames.len() - 1);
        let attachments: Vec<_> = frames[1..]
            .iter()
            .map(|frame| match frame {
                Frame::Binary(data) => data.clone(),
                Frame::Text(_) => panic!("{frames:?}"),
            })
            .collect();
        let arguments = packet.arguments().unwrap();
        assert_eq!(arguments[0].get(), r#""say \"it\"""#);
        codec_for(payload).decode(Some(arguments[1]), &attachments).unwrap().into_owned()
    }

    #[test]
    fn payloads_round_trip() {
        for payload in [Payload::Text, Payload::Json, Payload::Binary] {
            let bytes = decoded(payload, &encoded(payload));
            assert!(codec_for(payload).generator().matches(2, &bytes), "{payload:?}");
        }
    }

    #[test]
    fn events_match_socket_io_client() {
        let text = r#"423["say \"it\"","0000000100000002abcd"]"#;
        assert_eq!(encoded(Payload::Text), [Frame::Text(text.to_owned())]);
        let text = r#"423["say \"it\"",{"text":"0000000100000002abcd"}]"#;
        assert_eq!(encoded(Payload::Json), [Frame::Text(text.to_owned())]);
        let text = r#"451-3["say \"it\"",{"_placeholder":true,"num":0}]"#;
        assert_eq!(encoded(Payload::Binary)[0], Frame::Text(text.to_owned()));
    }

    #[test]
    fn escapes_are_decoded_and_other_types_ignored() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let escaped = raw(r#""\u0061\"""#);
        let codec = codec_for(Payload::Text);
        assert_eq!(codec.decode(Some(&escaped), &[]).unwrap(), &b"a\""[..]);
        for other in ["7", "null", "{}", "[]"] {
            for payload in [Payload::Text, Payload::Json, Payload::Binary] {
                let other = raw(other);
                assert_eq!(codec_for(payload).decode(Some(&other), &[]), None);
            }
        }
        assert_eq!(codec.decode(None, &[]), None);
    }

    #[test]
    fn broadcast_contains_its_intended_time() {
        let mut outbox = Vec::new();
        encode_broadcast(1_234_567, 30, &mut outbox);
        let [Frame::Text(packet)] = outbox.as_slice() else { panic!("{outbox:?}") };
        let packet = Packet::parse(&packet[1..]).unwrap();
        let arguments = packet.arguments().unwrap();
        assert_eq!(arguments[0].get(), r#""all""#);
        assert_eq!(decode_broadcast(&arguments[1..], 30), Some((1_234_567, true)));
        assert_eq!(decode_broadcast(&arguments[1..], 31), Some((1_234_567, false)));
        assert_eq!(decode_broadcast(&arguments, 30), None);
    }
}

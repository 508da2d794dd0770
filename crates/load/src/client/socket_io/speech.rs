//! How payloads are packed into Socket.IO events, and taken out of answers.
//!
//! Must not know when something is said.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::payload::Maker;
use crate::{
    scenario::{Messages, Payload},
    wire::{
        engine_io::Frame,
        socket_io::{Kind, Packet},
    },
};

/// The event that our nodes pass on to all of their clients.
pub(super) const BROADCAST: &str = "all";
/// Who broadcasts.
pub(super) const SPEAKER: u32 = 0;

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":0}"#;

/// The words of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speech {
    maker: Maker,
    payload: Payload,
}

/// A JSON payload.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// What stands for an attachment.
#[derive(Deserialize)]
struct Placeholder {
    num: usize,
}

impl Speech {
    pub(super) fn new(messages: &Messages, number: u32) -> Self {
        let payload = messages.payload;
        let maker = match payload {
            Payload::Binary => Maker::binary(number, messages.size),
            Payload::Text | Payload::Json => Maker::text(number, messages.size),
        };
        Self { maker, payload }
    }

    /// What is packed.
    pub(super) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Appends message `number` as an event, which asks for an acknowledgement where it has an `id`.
    pub(super) fn event(&self, name: &str, number: u64, id: Option<u64>, outbox: &mut Vec<Frame>) {
        let attachments = u32::from(self.payload == Payload::Binary);
        let mut text = opening(name, attachments, id, self.maker.size());
        text.push(',');
        match self.payload {
            Payload::Text => push_text(&self.maker, number, &mut text),
            Payload::Json => {
                text.push_str(r#"{"text":"#);
                push_text(&self.maker, number, &mut text);
                text.push('}');
            }
            Payload::Binary => text.push_str(PLACEHOLDER),
        }
        text.push(']');
        outbox.push(Frame::Text(text));
        if self.payload == Payload::Binary {
            let mut data = Vec::new();
            self.maker.write(number, &mut data);
            outbox.push(Frame::Binary(data));
        }
    }

    /// The payload in an argument; `None` where there is nothing of its kind.
    pub(super) fn payload<'a>(
        &self,
        argument: Option<&'a RawValue>,
        attachments: &'a [Vec<u8>],
    ) -> Option<Cow<'a, [u8]>> {
        let json = argument?.get();
        match self.payload {
            Payload::Text => text(json).map(bytes),
            Payload::Json => {
                serde_json::from_str::<Object<'_>>(json).ok().map(|object| bytes(object.text))
            }
            Payload::Binary => {
                let place: Placeholder = serde_json::from_str(json).ok()?;
                Some(attachments.get(place.num)?.into())
            }
        }
    }
}

/// Appends the message to all that is due so many microseconds after the run's epoch.
pub(super) fn broadcast(micros: u64, size: usize, outbox: &mut Vec<Frame>) {
    let mut text = opening(BROADCAST, 0, None, size);
    text.push_str(&format!(",{micros},"));
    push_text(&Maker::text(SPEAKER, size), micros, &mut text);
    text.push(']');
    outbox.push(Frame::Text(text));
}

/// When a message to all was due, by its arguments, and whether it is as it was; `None` where it is
/// of another making.
pub(super) fn heard(arguments: &[&RawValue], size: usize) -> Option<(u64, bool)> {
    let [micros, payload] = arguments else { return None };
    let micros = micros.get().parse().ok()?;
    let payload = text(payload.get())?;
    Some((micros, Maker::text(SPEAKER, size).matches(micros, payload.as_bytes())))
}

/// An event up to the end of its name.
fn opening(name: &str, attachments: u32, id: Option<u64>, size: usize) -> String {
    let mut text = String::with_capacity(size + name.len() + 64);
    text.push('4');
    Packet { attachments, id, ..Packet::bare(Kind::Event) }.write(&mut text);
    text.push('[');
    // Strings are always JSON.
    text.push_str(&serde_json::to_string(name).unwrap_or_default());
    text
}

/// A payload that needs no escape, in quotes.
fn push_text(maker: &Maker, number: u64, into: &mut String) {
    into.push('"');
    let mut bytes = std::mem::take(into).into_bytes();
    maker.write(number, &mut bytes);
    // Makers of texts write ASCII.
    *into = String::from_utf8(bytes).unwrap_or_default();
    into.push('"');
}

/// The string in a JSON string.
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

    fn speech(payload: Payload) -> Speech {
        let pace = Pace::Every(Duration::from_secs(1));
        let (event, answer) = ("echo".to_owned(), Answer::Ack);
        let messages =
            Messages { pace, count: None, repeat: false, size: 20, payload, event, answer };
        Speech::new(&messages, 1)
    }

    fn packed(payload: Payload) -> Vec<Frame> {
        let mut outbox = Vec::new();
        speech(payload).event("say \"it\"", 2, Some(3), &mut outbox);
        outbox
    }

    /// Takes the payload out of what was packed, by way of the packet's own data.
    fn unpacked(payload: Payload, frames: &[Frame]) -> Vec<u8> {
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
        speech(payload).payload(Some(arguments[1]), &attachments).unwrap().into_owned()
    }

    #[test]
    fn what_is_packed_can_be_unpacked() {
        for payload in [Payload::Text, Payload::Json, Payload::Binary] {
            let bytes = unpacked(payload, &packed(payload));
            assert!(speech(payload).maker().matches(2, &bytes), "{payload:?}");
        }
    }

    #[test]
    fn events_look_like_those_of_the_real_client() {
        let text = r#"423["say \"it\"","0000000100000002abcd"]"#;
        assert_eq!(packed(Payload::Text), [Frame::Text(text.to_owned())]);
        let text = r#"423["say \"it\"",{"text":"0000000100000002abcd"}]"#;
        assert_eq!(packed(Payload::Json), [Frame::Text(text.to_owned())]);
        let text = r#"451-3["say \"it\"",{"_placeholder":true,"num":0}]"#;
        assert_eq!(packed(Payload::Binary)[0], Frame::Text(text.to_owned()));
    }

    #[test]
    fn escapes_and_other_things_are_no_surprise() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let escaped = raw(r#""\u0061\"""#);
        let words = speech(Payload::Text);
        assert_eq!(words.payload(Some(&escaped), &[]).unwrap(), &b"a\""[..]);
        for other in ["7", "null", "{}", "[]"] {
            for payload in [Payload::Text, Payload::Json, Payload::Binary] {
                let other = raw(other);
                assert_eq!(speech(payload).payload(Some(&other), &[]), None);
            }
        }
        assert_eq!(words.payload(None, &[]), None);
    }

    #[test]
    fn a_broadcast_tells_when_it_was_due() {
        let mut outbox = Vec::new();
        broadcast(1_234_567, 30, &mut outbox);
        let [Frame::Text(packet)] = outbox.as_slice() else { panic!("{outbox:?}") };
        let packet = Packet::parse(&packet[1..]).unwrap();
        let arguments = packet.arguments().unwrap();
        assert_eq!(arguments[0].get(), r#""all""#);
        assert_eq!(heard(&arguments[1..], 30), Some((1_234_567, true)));
        assert_eq!(heard(&arguments[1..], 31), Some((1_234_567, false)));
        assert_eq!(heard(&arguments, 30), None);
    }
}

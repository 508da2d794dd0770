//! Engine.IO packets as WebSocket frames and as polling payloads, protocols 3 and 4.
//!
//! See <https://github.com/socketio/engine.io-protocol>. Details that it leaves open follow
//! `engine.io-parser` 2.2 and 5.2.

use std::{borrow::Cow, fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, de::Error};

use super::Malformed;
use crate::scenario::Protocol;

/// Separates the packets of a protocol 4 payload.
const SEPARATOR: u8 = 0x1e;
/// Ends the length of a packet in the binary payloads of protocol 3.
const END_OF_LENGTH: u8 = 0xff;
/// Type "message" as a number, which precedes binary data in protocol 3.
const BINARY_MESSAGE: u8 = 4;

/// A received packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// The session is open; contains a [`Handshake`] as JSON.
    Open(&'a str),
    /// The session is closed.
    Close,
    /// Must be answered by [`Packet::Pong`] with the same data. In protocol 4 the server sends it, in
    /// protocol 3 the client.
    Ping(&'a str),
    /// Answer to a ping.
    Pong(&'a str),
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(Cow<'a, [u8]>),
    /// The client switches to the transport of this packet.
    Upgrade,
    /// Ends a poll without data.
    Noop,
}

/// A packet to send, in the form of a WebSocket frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Type digit and data, such as `42["hello"]` or `3`.
    Text(String),
    /// Data of a binary message, without a type.
    Binary(Vec<u8>),
}

/// Content of an open packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Handshake {
    /// Session id.
    pub(crate) sid: String,
    /// Transports to which the session can be upgraded.
    #[serde(default)]
    pub(crate) upgrades: Vec<String>,
    /// In milliseconds.
    ping_interval: u64,
    /// Maximum bytes of a POST body; older servers do not send it.
    #[serde(default = "unlimited")]
    pub(crate) max_payload: usize,
}

/// Error object with which a server rejects a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct EngineIoError {
    /// 1 is "Session ID unknown". Some servers send a string.
    #[serde(deserialize_with = "number_or_digits")]
    pub(crate) code: u32,
    /// Description.
    #[serde(default)]
    pub(crate) message: String,
}

impl<'a> Packet<'a> {
    /// Parses a text frame.
    ///
    /// # Errors
    ///
    /// The type is missing or unknown.
    pub(crate) fn from_text(frame: &'a str) -> Result<Self, Malformed> {
        let mut rest = frame.chars();
        let kind = rest.next().ok_or(Malformed("an empty packet"))?;
        let data = rest.as_str();
        Ok(match kind {
            '0' => Self::Open(data),
            '1' => Self::Close,
            '2' => Self::Ping(data),
            '3' => Self::Pong(data),
            '4' => Self::Text(data),
            '5' => Self::Upgrade,
            '6' => Self::Noop,
            _ => return Err(Malformed("a packet of an unknown type")),
        })
    }

    /// Parses a binary frame.
    ///
    /// # Errors
    ///
    /// Protocol 3 only: the frame is not a message.
    pub(crate) fn from_binary(frame: &'a [u8], protocol: Protocol) -> Result<Self, Malformed> {
        match (protocol, frame.split_first()) {
            (Protocol::V4, _) => Ok(Self::Binary(frame.into())),
            (Protocol::V3, Some((&BINARY_MESSAGE, data))) => Ok(Self::Binary(data.into())),
            (Protocol::V3, _) => Err(Malformed("a binary packet that is not a message")),
        }
    }

    /// Parses all packets of a polling reply.
    ///
    /// # Errors
    ///
    /// The framing or a packet is malformed.
    pub(crate) fn from_payload(body: &'a [u8], protocol: Protocol) -> Result<Vec<Self>, Malformed> {
        match (protocol, body.first()) {
            (_, None) => Err(Malformed("an empty payload")),
            (Protocol::V4, _) => {
                body.split(|&byte| byte == SEPARATOR).map(Self::separated).collect()
            }
            // A text payload starts with a digit.
            (Protocol::V3, Some(0 | 1)) => binary_framed(body),
            (Protocol::V3, Some(_)) => text_framed(utf8(body)?),
        }
    }

    fn separated(packet: &'a [u8]) -> Result<Self, Malformed> {
        match packet.split_first() {
            Some((b'b', data)) => Ok(Self::Binary(base64(data)?.into())),
            _ => Self::from_text(utf8(packet)?),
        }
    }
}

/// `6:4hello2:40…`: lengths are in UTF-16 units, as in JavaScript.
fn text_framed(mut rest: &str) -> Result<Vec<Packet<'_>>, Malformed> {
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (length, data) = rest.split_once(':').ok_or(Malformed("a length without a colon"))?;
        let length = length.parse().map_err(|_| Malformed("a length that is not a number"))?;
        let end =
            utf16_prefix(data, length).ok_or(Malformed("a packet shorter than its length"))?;
        let (packet, after) = data.split_at(end);
        packets.push(match packet.strip_prefix("b4") {
            Some(data) => Packet::Binary(base64(data.as_bytes())?.into()),
            None => Packet::from_text(packet)?,
        });
        rest = after;
    }
    Ok(packets)
}

/// `00 06 ff 4hello 01 03 ff 04 xx xx`: the length in bytes, as decimal digits of one byte each.
fn binary_framed(mut rest: &[u8]) -> Result<Vec<Packet<'_>>, Malformed> {
    let mut packets = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        let end = after.iter().position(|&byte| byte == END_OF_LENGTH);
        let (digits, data) = after.split_at(end.ok_or(Malformed("a length without an end mark"))?);
        let mut length = 0_usize;
        for &digit in digits {
            if digit > 9 || length > usize::MAX / 100 {
                return Err(Malformed("a length that is not a number"));
            }
            length = length * 10 + usize::from(digit);
        }
        let (packet, after) = data[1..]
            .split_at_checked(length)
            .ok_or(Malformed("a packet shorter than its length"))?;
        packets.push(match kind {
            0 => Packet::from_text(utf8(packet)?)?,
            1 => Packet::from_binary(packet, Protocol::V3)?,
            _ => return Err(Malformed("a packet that is neither text nor binary")),
        });
        rest = after;
    }
    Ok(packets)
}

/// Returns the number of bytes of the first `units` UTF-16 units of `text`.
fn utf16_prefix(text: &str, units: usize) -> Option<usize> {
    let mut left = units;
    for (at, char) in text.char_indices() {
        if left == 0 {
            return Some(at);
        }
        left = left.checked_sub(char.len_utf16())?;
    }
    (left == 0).then_some(text.len())
}

fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a text packet that is not UTF-8"))
}

fn base64(data: &[u8]) -> Result<Vec<u8>, Malformed> {
    BASE64_STANDARD.decode(data).map_err(|_| Malformed("a binary packet that is not base64"))
}

impl Frame {
    /// Returns the content of a binary WebSocket frame with this data.
    pub(crate) fn binary(mut data: Vec<u8>, protocol: Protocol) -> Vec<u8> {
        if protocol == Protocol::V3 {
            data.insert(0, BINARY_MESSAGE);
        }
        data
    }

    /// Returns the POST body with these packets, and whether it is binary.
    pub(crate) fn payload(frames: &[Self], protocol: Protocol) -> (Vec<u8>, bool) {
        let binary = frames.iter().any(|frame| matches!(frame, Self::Binary(_)));
        let mut body = Vec::new();
        for frame in frames {
            match (protocol, binary) {
                (Protocol::V4, _) => frame.write_separated(&mut body),
                (Protocol::V3, false) => frame.write_text_framed(&mut body),
                (Protocol::V3, true) => frame.write_binary_framed(&mut body),
            }
        }
        (body, binary && protocol == Protocol::V3)
    }

    /// Returns how many of these packets fit into a protocol 4 payload of at most `limit` bytes. The first
    /// packet always counts, as in the real client.
    pub(crate) fn fitting(frames: &[Self], limit: usize) -> usize {
        let mut size = 0_usize;
        let fits = |frame: &Self| {
            let (first, separator) = (size == 0, usize::from(size > 0));
            size += separator + frame.separated_size();
            first || size <= limit
        };
        frames.iter().map(fits).take_while(|&fits| fits).count()
    }

    fn separated_size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(data) => 1 + data.len().div_ceil(3) * 4,
        }
    }

    fn write_separated(&self, body: &mut Vec<u8>) {
        if !body.is_empty() {
            body.push(SEPARATOR);
        }
        match self {
            Self::Text(text) => body.extend_from_slice(text.as_bytes()),
            Self::Binary(data) => {
                body.push(b'b');
                body.extend_from_slice(BASE64_STANDARD.encode(data).as_bytes());
            }
        }
    }

    fn write_text_framed(&self, body: &mut Vec<u8>) {
        let packet = match self {
            Self::Text(text) => Cow::from(text),
            Self::Binary(data) => format!("b4{}", BASE64_STANDARD.encode(data)).into(),
        };
        let units = packet.encode_utf16().count();
        body.extend_from_slice(format!("{units}:{packet}").as_bytes());
    }

    fn write_binary_framed(&self, body: &mut Vec<u8>) {
        let (kind, data) = match self {
            Self::Text(text) => (0, Cow::from(text.as_bytes())),
            Self::Binary(data) => (1, Self::binary(data.clone(), Protocol::V3).into()),
        };
        body.push(kind);
        body.extend(data.len().to_string().bytes().map(|digit| digit - b'0'));
        body.push(END_OF_LENGTH);
        body.extend_from_slice(&data);
    }
}

fn unlimited() -> usize {
    usize::MAX
}

impl Handshake {
    /// Parses the data of an open packet.
    ///
    /// # Errors
    ///
    /// It is not a handshake.
    pub(crate) fn parse(data: &str) -> Result<Self, Malformed> {
        serde_json::from_str(data)
            .map_err(|_| Malformed("an open packet without sid or pingInterval"))
    }

    /// Time from one ping to the next.
    pub(crate) fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval)
    }
}

impl EngineIoError {
    /// Parses the body of an error reply; `None` if it is not an error of Engine.IO. The body of a rejected
    /// upgrade is only the message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        const BARE: [(u32, &str); 5] = [
            (0, "Transport unknown"),
            (1, "Session ID unknown"),
            (2, "Bad handshake method"),
            (3, "Bad request"),
            (5, "Unsupported protocol version"),
        ];
        serde_json::from_slice(body).ok().or_else(|| {
            let body = std::str::from_utf8(body).ok()?.trim();
            let (code, message) = BARE.into_iter().find(|(_, message)| *message == body)?;
            Some(Self { code, message: message.to_owned() })
        })
    }
}

fn number_or_digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(u32),
        Digits(String),
    }
    match Code::deserialize(deserializer)? {
        Code::Number(code) => Ok(code),
        Code::Digits(digits) => digits.parse().map_err(D::Error::custom),
    }
}

impl fmt::Display for EngineIoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine.IO error {} ({})", self.code, self.message)
    }
}

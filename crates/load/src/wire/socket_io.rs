//! Socket.IO packets, the content of Engine.IO text messages: protocol revisions 4 (Socket.IO 1 and 2) and 5
//! (Socket.IO 3 and 4).
//!
//! See <https://github.com/socketio/socket.io-protocol>.

use std::fmt::Write;

use serde_json::value::RawValue;

use super::Malformed;

/// Maximum attachments of a packet, as in `socket.io-parser`.
const MAX_ATTACHMENTS: u32 = 10;

/// A packet. Its data is JSON that is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// Type of the packet.
    pub(crate) kind: Kind,
    /// Number of binary messages that follow. Placeholders in `data` refer to them.
    pub(crate) attachments: u32,
    /// Namespace; `/` by default.
    pub(crate) namespace: &'a str,
    /// Id of an event that must be acknowledged, or of the acknowledged event.
    pub(crate) id: Option<u64>,
    /// JSON; empty if the packet has no data.
    pub(crate) data: &'a str,
}

/// Type of a packet. Events and acknowledgements with attachments have a type digit of their own on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Request to connect to a namespace, or its confirmation.
    Connect,
    /// Disconnect from a namespace, by either side.
    Disconnect,
    /// An event: an array of its name and arguments.
    Event,
    /// An acknowledgement: an array of arguments.
    Ack,
    /// The server rejects a CONNECT.
    ConnectError,
}

impl<'a> Packet<'a> {
    /// A packet without data, for the main namespace.
    pub(crate) fn bare(kind: Kind) -> Self {
        Self { kind, attachments: 0, namespace: "/", id: None, data: "" }
    }

    /// Parses a text message.
    ///
    /// # Errors
    ///
    /// The message does not follow the grammar. The JSON is not checked.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut chars = text.chars();
        let digit = chars.next().ok_or(Malformed("an empty Socket.IO packet"))?;
        let mut rest = chars.as_str();
        let kind = match digit {
            '0' => Kind::Connect,
            '1' => Kind::Disconnect,
            '2' | '5' => Kind::Event,
            '3' | '6' => Kind::Ack,
            '4' => Kind::ConnectError,
            _ => return Err(Malformed("a Socket.IO packet of an unknown type")),
        };
        let mut attachments = 0;
        if matches!(digit, '5' | '6') {
            let (count, after) = rest
                .split_once('-')
                .ok_or(Malformed("a binary packet without a number of attachments"))?;
            attachments = count
                .parse()
                .ok()
                .filter(|count| (1..=MAX_ATTACHMENTS).contains(count))
                .ok_or(Malformed("a binary packet with an invalid number of attachments"))?;
            rest = after;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (id, data) = rest.split_at(digits);
        let id = match id {
            "" => None,
            id => Some(
                id.parse()
                    .map_err(|_| Malformed("a Socket.IO packet with an id that is too large"))?,
            ),
        };
        Ok(Self { kind, attachments, namespace, id, data })
    }

    /// Appends the packet to an Engine.IO message.
    pub(crate) fn write(&self, into: &mut String) {
        let binary = self.attachments > 0;
        into.push(match self.kind {
            Kind::Connect => '0',
            Kind::Disconnect => '1',
            Kind::Event if binary => '5',
            Kind::Event => '2',
            Kind::Ack if binary => '6',
            Kind::Ack => '3',
            Kind::ConnectError => '4',
        });
        // Writing to a string cannot fail.
        if binary {
            let _ = write!(into, "{}-", self.attachments);
        }
        if self.namespace != "/" {
            let _ = write!(into, "{},", self.namespace);
        }
        if let Some(id) = self.id {
            let _ = write!(into, "{id}");
        }
        into.push_str(self.data);
    }

    /// The elements of the array of an event or acknowledgement, each still JSON.
    ///
    /// # Errors
    ///
    /// The data is not a JSON array.
    pub(crate) fn arguments(&self) -> Result<Vec<&'a RawValue>, Malformed> {
        serde_json::from_str(self.data).map_err(|_| Malformed("an event that is not a JSON array"))
    }
}

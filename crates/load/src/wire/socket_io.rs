//! Socket.IO packets: what an Engine.IO text message holds, protocol revisions 4 (Socket.IO 1 and 2)
//! and 5 (3 and 4).
//!
//! The grammar is that of <https://github.com/socketio/socket.io-protocol>.

use std::fmt::Write;

use serde_json::value::RawValue;

use super::Malformed;

/// Attachments that a packet may have: as many as `socket.io-parser` takes.
const MAX_ATTACHMENTS: u32 = 10;

/// A packet; its data is JSON that is not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// How many binary messages follow, whose places in `data` are kept by placeholders.
    pub(crate) attachments: u32,
    /// `/` where none is named.
    pub(crate) namespace: &'a str,
    /// Number of an event that is to be acknowledged, or of the acknowledgement.
    pub(crate) id: Option<u64>,
    /// JSON; empty where there is none.
    pub(crate) data: &'a str,
}

/// What a packet is; the binary kinds are those with attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Asks for a namespace, or grants it.
    Connect,
    /// Leaves a namespace, or is thrown out of it.
    Disconnect,
    /// An array of a name and arguments.
    Event,
    /// An array of arguments.
    Ack,
    /// A namespace that is refused.
    ConnectError,
}

impl<'a> Packet<'a> {
    /// A packet without data, for the main namespace.
    pub(crate) fn bare(kind: Kind) -> Self {
        Self { kind, attachments: 0, namespace: "/", id: None, data: "" }
    }

    /// Reads a text message.
    ///
    /// # Errors
    ///
    /// Where it does not follow the grammar. The JSON is not read.
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
            _ => return Err(Malformed("a Socket.IO packet of unknown type")),
        };
        let mut attachments = 0;
        if matches!(digit, '5' | '6') {
            let (count, after) =
                rest.split_once('-').ok_or(Malformed("a binary packet without its count"))?;
            attachments = count
                .parse()
                .ok()
                .filter(|count| (1..=MAX_ATTACHMENTS).contains(count))
                .ok_or(Malformed("a binary packet with an illegal count"))?;
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
            id => Some(id.parse().map_err(|_| Malformed("a Socket.IO packet with a huge id"))?),
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

    /// The elements of the array that events and acknowledgements carry, each still JSON.
    ///
    /// # Errors
    ///
    /// Where the data is no array.
    pub(crate) fn arguments(&self) -> Result<Vec<&'a RawValue>, Malformed> {
        serde_json::from_str(self.data).map_err(|_| Malformed("an event that is no JSON array"))
    }
}

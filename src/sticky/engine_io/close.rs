//! Detects that a polling session is closed: the packet `1` in the body of a POST or of a poll reply.
//!
//! A [`CloseScan`] reads a body as a stream and keeps a few bytes of state, never the body. It supports the framings
//! of [`packet`](super::open_packet), in both directions of JSONP. A body that it cannot parse closes nothing.

use super::{EngineIoVersion, Query};

/// Framing of a session's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    protocol: EngineIoVersion,
    jsonp: bool,
}

/// Searches one body for a close packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseScan {
    wrap: Wrap,
    frame: Frame,
    found: bool,
}

/// Encoding around the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    Nothing,
    /// JSONP, client to server: a form with the single field `d`. Number of bytes read of the field name, then the
    /// state of an escape.
    Name(u8),
    Form,
    FormEscape(Option<u8>),
    /// JSONP, server to client: a call with a JSON string. Before the string, or inside it.
    Call,
    Text,
    Backslash,
    /// Missing hexadecimal digits and the value so far.
    Unit(u8, u16),
    /// The rest is not payload.
    End,
}

/// Position of the next byte in the payload's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// Version 4: at the start of a packet, after a `1` there, or later.
    Start,
    One,
    Rest,
    /// Version 3: at the first byte, which distinguishes text from binary.
    First,
    /// Inside the length of a text packet.
    Length(u32),
    /// Inside a text packet: UTF-16 units left, and whether it has been only `1` so far.
    Units(u32, bool),
    /// Inside the length of a packet in binary framing, with whether the packet is text.
    Bytes(bool, u32),
    /// Inside its data: bytes left, and whether it has been only `1` so far.
    Data(u32, bool),
    /// The body cannot be parsed.
    Lost,
}

/// Maximum packet length; larger values make the body invalid.
const LONGEST: u32 = 100_000_000;

impl Framing {
    /// Returns the framing of a session whose requests have this query.
    pub fn of(query: &Query<'_>) -> Self {
        Self { protocol: query.protocol, jsonp: query.jsonp.is_some() }
    }

    /// Starts a scan of a request body.
    pub fn request(self) -> CloseScan {
        CloseScan::new(self, Wrap::Name(0))
    }

    /// Starts a scan of a reply body, which must not be compressed.
    pub fn reply(self) -> CloseScan {
        CloseScan::new(self, Wrap::Call)
    }
}

impl CloseScan {
    fn new(framing: Framing, jsonp: Wrap) -> Self {
        let frame = match framing.protocol {
            EngineIoVersion::V4 => Frame::Start,
            EngineIoVersion::V3 => Frame::First,
        };
        let wrap = if framing.jsonp { jsonp } else { Wrap::Nothing };
        Self { wrap, frame, found: false }
    }

    /// Reads the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.found || self.frame == Frame::Lost {
            return;
        }
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            rest = tail;
            if self.wrap == Wrap::Nothing {
                // Nearly all bytes are inside packets of no interest.
                if self.frame == Frame::Rest {
                    let end = std::iter::once(byte).chain(tail).position(|&b| b == SEPARATOR);
                    let Some(end) = end else { return };
                    rest = &tail[end..];
                    self.frame = Frame::Start;
                    continue;
                }
                self.payload(*byte);
            } else {
                self.wrapped(*byte);
            }
        }
    }

    /// Whether the body closes the session. Call after the whole body has been read.
    pub fn closes(&self) -> bool {
        self.found || self.frame == Frame::One
    }

    fn wrapped(&mut self, byte: u8) {
        self.wrap = match (self.wrap, byte) {
            (Wrap::Name(0), b'd') => Wrap::Name(1),
            (Wrap::Name(1), b'=') => Wrap::Form,
            (Wrap::Form, b'%') => Wrap::FormEscape(None),
            (Wrap::FormEscape(None), _) => Wrap::FormEscape(Some(byte)),
            (Wrap::FormEscape(Some(high)), _) => {
                match (digit(high), digit(byte)) {
                    (Some(high), Some(low)) => self.payload((high << 4 | low) as u8),
                    _ => self.frame = Frame::Lost,
                }
                Wrap::Form
            }
            (Wrap::Form, b'&') => Wrap::End,
            (Wrap::Form, _) => {
                self.payload(if byte == b'+' { b' ' } else { byte });
                Wrap::Form
            }
            (Wrap::Call, b'"') => Wrap::Text,
            (Wrap::Call, _) => Wrap::Call,
            (Wrap::Text, b'\\') => Wrap::Backslash,
            (Wrap::Text, b'"') => Wrap::End,
            (Wrap::Backslash, b'u') => Wrap::Unit(4, 0),
            (Wrap::Text | Wrap::Backslash, _) => {
                // An escaped letter is one unit and never a character with a meaning here.
                self.payload(byte);
                Wrap::Text
            }
            (Wrap::Unit(left, unit), _) => self.unit(left, unit, byte),
            (Wrap::Name(_), _) => {
                self.frame = Frame::Lost;
                Wrap::End
            }
            (Wrap::End | Wrap::Nothing, _) => Wrap::End,
        };
    }

    /// Reads one digit of `\uXXXX`.
    fn unit(&mut self, left: u8, unit: u16, byte: u8) -> Wrap {
        let Some(digit) = digit(byte) else {
            self.frame = Frame::Lost;
            return Wrap::End;
        };
        let unit = unit << 4 | digit;
        if left > 1 {
            return Wrap::Unit(left - 1, unit);
        }
        // One unit, even if it is half of a surrogate pair.
        self.payload(u8::try_from(unit).ok().filter(u8::is_ascii).unwrap_or(b'?'));
        Wrap::Text
    }

    fn payload(&mut self, byte: u8) {
        if self.found {
            return;
        }
        self.frame = match self.frame {
            Frame::Start | Frame::One | Frame::Rest => self.packet(byte),
            Frame::First if byte <= 1 => Frame::Bytes(byte == 0, 0),
            Frame::First | Frame::Length(_) | Frame::Units(..) => self.text(byte),
            Frame::Bytes(..) | Frame::Data(..) => self.binary(byte),
            Frame::Lost => Frame::Lost,
        };
    }

    fn packet(&mut self, byte: u8) -> Frame {
        match (self.frame, byte) {
            (Frame::One, SEPARATOR) => {
                self.found = true;
                Frame::Start
            }
            (_, SEPARATOR) => Frame::Start,
            (Frame::Start, CLOSE) => Frame::One,
            _ => Frame::Rest,
        }
    }

    /// Reads `length:packet…`, with the length in UTF-16 units.
    fn text(&mut self, byte: u8) -> Frame {
        let continues = (0x80..0xc0).contains(&byte);
        match self.frame {
            Frame::Units(left, _) if left > 0 => {
                let units = match byte {
                    _ if continues => 0,
                    0xf0.. => 2,
                    _ => 1,
                };
                let alone = left == 1 && byte == CLOSE && self.frame == Frame::Units(1, true);
                self.found |= alone;
                match left.checked_sub(units) {
                    Some(left) => Frame::Units(left, false),
                    None => Frame::Lost,
                }
            }
            // Continuation bytes of the last character.
            Frame::Units(..) if continues => self.frame,
            Frame::Length(length) if byte == b':' => Frame::Units(length, length == 1),
            Frame::Length(length) => length_with(length, byte),
            // First digit of the next packet's length.
            _ => length_with(0, byte),
        }
    }

    /// Reads a type byte, digits as bare bytes, `0xff`, and that number of bytes.
    fn binary(&mut self, byte: u8) -> Frame {
        match self.frame {
            Frame::Bytes(text, length) if byte == 0xff => Frame::Data(length, text && length == 1),
            Frame::Bytes(text, length) => match decimal(length, byte) {
                Some(length) => Frame::Bytes(text, length),
                None => Frame::Lost,
            },
            Frame::Data(left, alone) if left > 0 => {
                self.found |= alone && byte == CLOSE;
                Frame::Data(left - 1, false)
            }
            _ if byte <= 1 => Frame::Bytes(byte == 0, 0),
            _ => Frame::Lost,
        }
    }
}

/// Separates packets of protocol 4.
const SEPARATOR: u8 = 0x1e;

/// The close packet, which has no content.
const CLOSE: u8 = b'1';

fn length_with(length: u32, digit: u8) -> Frame {
    decimal(length, digit.wrapping_sub(b'0')).map_or(Frame::Lost, Frame::Length)
}

fn decimal(number: u32, digit: u8) -> Option<u32> {
    let number = (digit <= 9).then(|| number * 10 + u32::from(digit))?;
    (number <= LONGEST).then_some(number)
}

/// Returns the value of a hexadecimal digit.
fn digit(byte: u8) -> Option<u16> {
    char::from(byte).to_digit(16).and_then(|value| u16::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::query, *};

    const V4: &str = "EIO=4&transport=polling&sid=a";
    const V3: &str = "EIO=3&transport=polling&sid=a";
    const V4_JSONP: &str = "EIO=4&transport=polling&sid=a&j=0";
    const V3_JSONP: &str = "EIO=3&transport=polling&sid=a&j=0";

    fn framing(text: &str) -> Framing {
        Framing::of(&query(text).unwrap())
    }

    /// Scans a body; the result must not depend on how the body is split.
    fn closes(scan: CloseScan, body: &[u8]) -> bool {
        let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut scan = scan;
            pieces.for_each(|piece| scan.feed(piece));
            scan.closes()
        };
        let whole = read(&mut std::iter::once(body));
        assert_eq!(read(&mut body.chunks(1)), whole);
        for at in 0..body.len() {
            assert_eq!(read(&mut [&body[..at], &body[at..]].into_iter()), whole, "{at}");
        }
        whole
    }

    #[test]
    fn close_packet_is_found_in_every_framing() {
        for (query, body) in [
            (V4, &b"1"[..]),
            (V4, "42[\"ä\"]\u{1e}1".as_bytes()),
            (V4, b"1\x1e41"),
            (V4, b"bAAEC\x1e\x1e1\x1e2"),
            (V3, b"1:1"),
            (V3, "6:42[\"😀1:1".as_bytes()),
            (V3, "2:4ä1:11:6".as_bytes()),
            (V3, b"\x00\x01\xff1"),
            (V3, b"\x00\x02\xff41\x01\x03\xff\x04\x01\x02\x00\x01\xff1"),
        ] {
            assert!(closes(framing(query).request(), body), "{query} {body:?}");
            assert!(closes(framing(query).reply(), body), "{query} {body:?}");
        }
        for (query, body) in [(V4_JSONP, "d=1"), (V4_JSONP, "d=41%1E1"), (V3_JSONP, "d=1%3A1")] {
            assert!(closes(framing(query).request(), body.as_bytes()), "{query} {body}");
        }
        for (query, body) in [
            (V4_JSONP, r#"___eio[0]("1");"#),
            (V4_JSONP, r#"___eio[12]("42[\"a\\\"\"]\u001e1");"#),
            (V3_JSONP, r#"___eio[0]("1:1");"#),
            (V3_JSONP, r#"___eio[0]("5:4\"\u2028\\n1:1");"#),
        ] {
            assert!(closes(framing(query).reply(), body.as_bytes()), "{query} {body}");
        }
    }

    #[test]
    fn other_bodies_do_not_close_a_session() {
        for (query, body) in [
            (V4, &b""[..]),
            (V4, b"2"),
            (V4, b"11"),
            (V4, b"41"),
            (V4, b"41\x1e"),
            (V4, b"42[1]\x1e21"),
            (V4, b"ok"),
            (V4, b"1:1"),
            (V3, b"1"),
            (V3, b"2:41"),
            (V3, b"1:2"),
            (V3, b"4:41:12:11"),
            (V3, b"2:11"),
            (V3, "4:a1:1".as_bytes()),
            (V3, b"ok"),
            (V3, b"\x01\x01\xff1"),
            (V3, b"\x00\x02\xff11"),
            (V3, b"99999999999999:1"),
            (V3, b":1"),
        ] {
            assert!(!closes(framing(query).request(), body), "{query} {body:?}");
            assert!(!closes(framing(query).reply(), body), "{query} {body:?}");
        }
        for body in ["1", "d=11", "x=1", "d=41&d=1", "d=%zz1"] {
            assert!(!closes(framing(V4_JSONP).request(), body.as_bytes()), "{body}");
        }
        for body in [r#"___eio[0]("2");1"#, r#"___eio[1]("11");"#, "1"] {
            assert!(!closes(framing(V4_JSONP).reply(), body.as_bytes()), "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted(body in prop::collection::vec(any::<u8>(), 0..40)) {
            for query in [V4, V3, V4_JSONP, V3_JSONP] {
                closes(framing(query).request(), &body);
                closes(framing(query).reply(), &body);
            }
        }

        /// Compares with bodies built from known packets.
        #[test]
        fn packets_are_distinguished(packets in prop::collection::vec("[0-6][a1ä😀:]{0,4}", 1..6)) {
            let expected = packets.iter().any(|packet| packet == "1");
            let v4 = packets.join("\u{1e}");
            prop_assert_eq!(closes(framing(V4).request(), v4.as_bytes()), expected);
            let units = |packet: &String| format!("{}:{packet}", packet.encode_utf16().count());
            let v3: String = packets.iter().map(units).collect();
            prop_assert_eq!(closes(framing(V3).request(), v3.as_bytes()), expected);
            let script = format!("___eio[3]({});", serde_json::to_string(&v3).unwrap());
            prop_assert_eq!(closes(framing(V3_JSONP).reply(), script.as_bytes()), expected);
            let form: String = v4.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(closes(framing(V4_JSONP).request(), format!("d={form}").as_bytes()), expected);
        }
    }
}

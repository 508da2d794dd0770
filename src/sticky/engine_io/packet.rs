//! Reads the session that a reply opens from its open packet, in every framing that servers use.
//!
//! | where | first bytes |
//! |---|---|
//! | protocol 4, polling | `0{…}`, further packets after `0x1e` |
//! | protocol 3, polling | `97:0{…}2:40`, lengths in UTF-16 units |
//! | protocol 3 before parser 2.1, polling without `b64` | `00 09 07 ff` and `0{…}`, the length in bytes |
//! | either as JSONP | `___eio[0]("…");` around the text form, as a JavaScript string |
//! | either, WebSocket | `0{…}` as the first text message |

use std::{str, time::Duration};

use serde::Deserialize;

/// The open packet of a new session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPacket {
    /// Session id, never empty.
    pub sid: String,
    /// Interval between heartbeats; an idle poll is held about as long.
    pub ping_interval: Duration,
    /// Maximum time until a heartbeat is answered.
    pub ping_timeout: Duration,
}

/// Upper bound for interval and timeout, in milliseconds: the maximum of a Node timer. Keeps sums of times far from
/// overflow.
const LONGEST_PING: f64 = i32::MAX as f64;

/// Reads the body of a polling handshake reply, whose first packet must be the open packet.
///
/// Returns `None` for all other bodies, truncated ones included. The body must not be compressed.
pub fn open_packet(body: &[u8]) -> Option<OpenPacket> {
    match body {
        [0, rest @ ..] => open_frame(byte_framed(rest)?),
        [b'_', ..] => text_payload(script(body)?.as_bytes()),
        _ => text_payload(body),
    }
}

/// Reads the first text message of a WebSocket session that did not start with polling.
pub fn open_frame(payload: &[u8]) -> Option<OpenPacket> {
    let json = payload.strip_prefix(b"0")?;
    let said: OpenPayload = serde_json::from_slice(json).ok()?;
    (!said.sid.is_empty()).then(|| OpenPacket {
        ping_interval: milliseconds(said.ping_interval),
        ping_timeout: milliseconds(said.ping_timeout),
        sid: said.sid,
    })
}

/// The relevant JSON fields of the open packet. Servers that omit the times use the defaults of Engine.IO 3 and
/// later.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenPayload {
    sid: String,
    #[serde(default = "default_interval")]
    ping_interval: f64,
    #[serde(default = "default_timeout")]
    ping_timeout: f64,
}

fn default_interval() -> f64 {
    25_000.0
}

fn default_timeout() -> f64 {
    20_000.0
}

fn milliseconds(value: f64) -> Duration {
    // The cast saturates and drops fractions of a millisecond.
    Duration::from_millis(value.clamp(0.0, LONGEST_PING) as u64)
}

/// Reads a payload in text form. No length starts with a zero, so the first byte identifies the protocol.
fn text_payload(body: &[u8]) -> Option<OpenPacket> {
    let packet = match body {
        [b'0', ..] => body.split(|&byte| byte == 0x1e).next()?,
        _ => unit_framed(body)?,
    };
    open_frame(packet)
}

/// Returns the first packet of `length:packet…`, with the length in UTF-16 units.
fn unit_framed(body: &[u8]) -> Option<&[u8]> {
    let colon = body.iter().take(MOST_DIGITS + 1).position(|&byte| byte == b':')?;
    let units = length(body[..colon].iter().map(|byte| byte.wrapping_sub(b'0')))?;
    let text = valid_prefix(&body[colon + 1..]);
    let mut left = units;
    let mut end = 0;
    for character in text.chars() {
        if left == 0 {
            break;
        }
        // A length that ends inside a surrogate pair is invalid.
        left = left.checked_sub(character.len_utf16())?;
        end += character.len_utf8();
    }
    (left == 0).then(|| &text.as_bytes()[..end])
}

/// Returns the first packet of a binary payload, after its type byte: decimal digits as bare bytes, `0xff`, the
/// packet. The length counts bytes.
fn byte_framed(rest: &[u8]) -> Option<&[u8]> {
    let end = rest.iter().take(MOST_DIGITS + 1).position(|&byte| byte == 0xff)?;
    let bytes = length(rest[..end].iter().copied())?;
    rest[end + 1..].get(..bytes)
}

/// Returns the payload inside `___eio[…]("…");`. Text after the string is ignored.
fn script(body: &[u8]) -> Option<String> {
    let call = body.strip_prefix(b"___eio[")?;
    let open = call.iter().take(MOST_DIGITS + 1).position(|&byte| byte == b']')?;
    if !call[..open].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let string = call[open..].strip_prefix(b"](")?;
    // Servers escape as in JSON, and U+2028 and U+2029 as well.
    serde_json::Deserializer::from_slice(string).into_iter().next()?.ok()
}

/// Maximum digits of a length or callback index; more digits exceed any handshake.
const MOST_DIGITS: usize = 9;

/// Parses at least one decimal digit.
fn length(digits: impl ExactSizeIterator<Item = u8>) -> Option<usize> {
    if !(1..=MOST_DIGITS).contains(&digits.len()) {
        return None;
    }
    digits
        .into_iter()
        .try_fold(0, |sum: usize, digit| (digit <= 9).then(|| sum * 10 + usize::from(digit)))
}

/// Returns the valid UTF-8 prefix: packets after the first may be binary.
fn valid_prefix(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN: &str = r#"0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;

    fn opened() -> Option<OpenPacket> {
        Some(OpenPacket {
            sid: "lv_VI97HAXpY6yYWAAAB".to_owned(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
        })
    }

    fn packet(sid: &str) -> String {
        let sid = serde_json::to_string(sid).unwrap();
        format!(r#"0{{"sid":{sid},"upgrades":[],"pingInterval":300,"pingTimeout":200}}"#)
    }

    fn in_units(packet: &str) -> Vec<u8> {
        format!("{}:{packet}", packet.encode_utf16().count()).into_bytes()
    }

    fn in_bytes(packet: &str) -> Vec<u8> {
        let digits = packet.len().to_string();
        [&[0], digits.bytes().map(|digit| digit - b'0').collect::<Vec<_>>().as_slice(), &[0xff]]
            .concat()
            .into_iter()
            .chain(packet.bytes())
            .collect()
    }

    fn in_script(payload: &[u8]) -> Vec<u8> {
        let text = serde_json::to_string(str::from_utf8(payload).unwrap()).unwrap();
        format!("___eio[7]({});", text.replace('\u{2028}', "\\u2028")).into_bytes()
    }

    #[test]
    fn later_packets_are_ignored() {
        assert_eq!(open_packet(OPEN.as_bytes()), opened());
        assert_eq!(open_packet(format!("{OPEN}\u{1e}40\u{1e}bAAEC").as_bytes()), opened());
        let mut framed = in_units(OPEN);
        framed.extend(b"2:40\xff\xfe");
        assert_eq!(open_packet(&framed), opened());
        let mut framed = in_bytes(OPEN);
        framed.extend(b"\x00\x02\xff40\x01\x03\xff\x04\x00\xff");
        assert_eq!(open_packet(&framed), opened());
    }

    #[test]
    fn only_an_open_packet_opens_a_session() {
        let other = OPEN.replacen('0', "4", 1);
        for body in [in_units(&other), in_bytes(&other), in_script(other.as_bytes()), other.into()]
        {
            assert_eq!(open_packet(&body), None, "{}", String::from_utf8_lossy(&body));
        }
        for body in ["", "0", "ok", "2", "40", "0{}", "0null", r#"0{"sid":""}"#, r#"0{"sid":7}"#] {
            assert_eq!(open_packet(body.as_bytes()), None, "{body}");
            assert_eq!(open_packet(&in_units(body)), None, "{body}");
            assert_eq!(open_frame(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn truncated_body_opens_no_session() {
        for body in [OPEN.into(), in_units(OPEN), in_bytes(OPEN), in_script(&in_units(OPEN))] {
            // The closing `);` of the script is optional.
            let whole = body.strip_suffix(b");").unwrap_or(&body);
            for end in 0..whole.len() {
                assert_eq!(open_packet(&whole[..end]), None, "{end}");
            }
            assert_eq!(open_packet(whole), opened());
        }
    }

    #[test]
    fn invalid_lengths_are_rejected() {
        for body in [":0{}", "-1:0", "999999999:0{}", "9999999999999999999999:0{}", "1 :0"] {
            assert_eq!(open_packet(body.as_bytes()), None, "{body}");
        }
        assert_eq!(open_packet(&[0, 0xff]), None);
        assert_eq!(open_packet(&[0, 200, 0xff, b'0']), None);
        assert_eq!(open_packet(&[0; 4096]), None);
        assert_eq!(open_packet("1:😀".as_bytes()), None);
    }

    #[test]
    fn times_are_bounded_and_have_defaults() {
        let times = |json: &str| {
            let open = open_frame(format!("0{{\"sid\":\"a\"{json}}}").as_bytes())?;
            Some((open.ping_interval.as_millis(), open.ping_timeout.as_millis()))
        };
        assert_eq!(times(""), Some((25_000, 20_000)));
        assert_eq!(times(r#","pingInterval":1.5e3,"pingTimeout":0"#), Some((1500, 0)));
        let longest = i32::MAX as u128;
        assert_eq!(times(r#","pingInterval":-1,"pingTimeout":1e300"#), Some((0, longest)));
    }

    #[test]
    fn deep_nesting_is_rejected() {
        let body = format!("0{{\"sid\":\"a\",\"x\":{}", "[".repeat(100_000));
        assert_eq!(open_packet(body.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (open_packet(&body), open_frame(&body));
        }

        #[test]
        fn bodies_with_one_wrong_byte_are_accepted(at in 0usize..100, byte: u8, which in 0usize..4) {
            let bodies = [OPEN.into(), in_units(OPEN), in_bytes(OPEN), in_script(&in_units(OPEN))];
            let mut body: Vec<u8> = bodies[which].clone();
            body[at] = byte;
            let _ = open_packet(&body);
        }

        #[test]
        fn any_sid_round_trips_in_every_framing(sid in ".+") {
            let packet = packet(&sid);
            let bodies = [packet.clone().into(), in_units(&packet), in_bytes(&packet)];
            let scripts = [in_script(&bodies[0]), in_script(&bodies[1])];
            for body in bodies.iter().chain(&scripts) {
                let open = open_packet(body).unwrap();
                prop_assert_eq!(&open.sid, &sid);
                prop_assert_eq!(open.ping_interval, Duration::from_millis(300));
                prop_assert_eq!(open.ping_timeout, Duration::from_millis(200));
            }
        }
    }
}

//! Recognizes Engine.IO requests and their session. A request is recognized by its query, never by its path, which
//! the application chooses.

use std::borrow::Cow;

/// Version of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineIoVersion {
    /// Socket.IO 1 and 2. Servers assume it for anything but `EIO=4`.
    V3,
    /// Socket.IO 3 and 4.
    V4,
}

/// Transport requested by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling: GET receives, POST sends.
    Polling,
    /// A WebSocket.
    WebSocket,
    /// A WebTransport session.
    WebTransport,
    /// Any other value; a server rejects it with code 0.
    Other,
}

/// The query of an Engine.IO request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Version of the Engine.IO protocol.
    pub protocol: EngineIoVersion,
    /// Requested transport.
    pub transport: Transport,
    /// Session id, percent-decoded, of any length and alphabet; `None` on a handshake.
    pub sid: Option<Cow<'a, str>>,
    /// JSONP callback index; present, even if empty, if the reply must be a script.
    pub jsonp: Option<Cow<'a, str>>,
    /// The client does not accept binary data, so that protocol 3 sends base64.
    pub b64: bool,
}

/// Parses the query of a request target, without the `?`.
///
/// Returns `None` if it is not an Engine.IO request: `EIO` and `transport` are required. Clients that omit `EIO` are
/// recognized by a known `transport` together with a `sid`. The first value of a repeated parameter counts; servers
/// reply to a repeated parameter as to an unknown sid.
pub fn query(query: &str) -> Option<Query<'_>> {
    let (mut revision, mut transport, mut sid, mut jsonp, mut b64) = (None, None, None, None, None);
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let field = match key {
            "EIO" => &mut revision,
            "transport" => &mut transport,
            "sid" => &mut sid,
            "j" => &mut jsonp,
            "b64" => &mut b64,
            _ => continue,
        };
        field.get_or_insert(value);
    }
    let transport = match transport? {
        "polling" => Transport::Polling,
        "websocket" => Transport::WebSocket,
        "webtransport" => Transport::WebTransport,
        _ => Transport::Other,
    };
    // Servers treat an empty sid or b64 as absent.
    let sid = sid.filter(|sid| !sid.is_empty());
    if revision.is_none() && (sid.is_none() || transport == Transport::Other) {
        return None;
    }
    Some(Query {
        protocol: if revision == Some("4") { EngineIoVersion::V4 } else { EngineIoVersion::V3 },
        transport,
        sid: sid.map(decode),
        jsonp: jsonp.map(decode),
        b64: b64.is_some_and(|b64| !b64.is_empty()),
    })
}

/// Decodes form encoding as Node's `querystring` does: a stray `%` is kept, and invalid UTF-8 becomes U+FFFD. Borrows
/// if there is nothing to decode.
fn decode(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => *byte,
        });
    }
    match String::from_utf8(decoded) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// Returns the value of a hexadecimal digit.
fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn handshake_has_no_session() {
        let parsed = query("EIO=4&transport=polling&t=PlkBg2a").unwrap();
        assert_eq!(parsed.protocol, EngineIoVersion::V4);
        assert_eq!(parsed.transport, Transport::Polling);
        assert_eq!((parsed.sid, parsed.jsonp, parsed.b64), (None, None, false));
    }

    #[test]
    fn poll_borrows_its_session_id() {
        let parsed = query("EIO=3&transport=polling&t=x&b64=1&sid=Jz-_0aaa&j=2").unwrap();
        assert_eq!(parsed.protocol, EngineIoVersion::V3);
        assert!(matches!(parsed.sid, Some(Cow::Borrowed("Jz-_0aaa"))));
        assert_eq!(parsed.jsonp.as_deref(), Some("2"));
        assert!(parsed.b64);
    }

    #[test]
    fn every_transport_is_recognized() {
        let transport = |text| query(text).map(|parsed| parsed.transport);
        assert_eq!(transport("EIO=4&transport=websocket&sid=a"), Some(Transport::WebSocket));
        assert_eq!(transport("EIO=4&transport=webtransport"), Some(Transport::WebTransport));
        assert_eq!(transport("EIO=4&transport=carrier-pigeon"), Some(Transport::Other));
    }

    #[test]
    fn other_queries_are_not_engine_io() {
        for text in
            ["", "a=b", "transport=polling", "EIO=4", "sid=1", "transport=bus&sid=9", "&&=&"]
        {
            assert_eq!(query(text), None, "{text}");
        }
    }

    #[test]
    fn client_without_eio_is_recognized_by_its_session() {
        let parsed = query("transport=polling&sid=abc").unwrap();
        assert_eq!((parsed.protocol, parsed.sid.as_deref()), (EngineIoVersion::V3, Some("abc")));
    }

    #[test]
    fn empty_sid_is_a_handshake_and_the_first_of_two_counts() {
        assert_eq!(query("EIO=4&transport=polling&sid=").unwrap().sid, None);
        let parsed = query("EIO=4&transport=polling&sid=a&sid=b").unwrap();
        assert_eq!(parsed.sid.as_deref(), Some("a"));
    }

    #[test]
    fn empty_callback_index_still_means_jsonp() {
        assert_eq!(query("EIO=3&transport=polling&j").unwrap().jsonp.as_deref(), Some(""));
    }

    #[test]
    fn sid_is_decoded_as_servers_do() {
        let sid = |text: &str| {
            query(&format!("EIO=4&transport=polling&sid={text}")).unwrap().sid.unwrap().into_owned()
        };
        assert_eq!(sid("a%2Fb%3d%26"), "a/b=&");
        assert_eq!(sid("n%C3%B6t+20"), "nöt 20");
        assert_eq!(sid("100%"), "100%");
        assert_eq!(sid("%zz%4"), "%zz%4");
        assert_eq!(sid("%ff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in ".*") {
            let _ = query(&text);
        }

        #[test]
        fn any_sid_round_trips(sid in ".+", plus in any::<bool>()) {
            let mut encoded: String = sid.bytes().map(|byte| format!("%{byte:02X}")).collect();
            if plus {
                encoded = encoded.replace("%20", "+");
            }
            let text = format!("EIO=4&transport=polling&sid={encoded}&t=0");
            let parsed = query(&text).unwrap();
            prop_assert_eq!(parsed.sid.as_deref(), Some(sid.as_str()));
        }
    }
}

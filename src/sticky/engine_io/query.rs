//! Which requests are Engine.IO's, and which session they name. A request is recognised by its query,
//! never by its path: the path is the application's to choose.

use std::borrow::Cow;

/// Revision of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Socket.IO 1 and 2. Also what a server takes anything but `EIO=4` for.
    V3,
    /// Socket.IO 3 and 4.
    V4,
}

/// How a client wants to exchange packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling: GET receives, POST sends.
    Polling,
    /// A WebSocket.
    WebSocket,
    /// A WebTransport session.
    WebTransport,
    /// Anything else; a server refuses it with code 0.
    Other,
}

/// The query of an Engine.IO request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Revision spoken.
    pub protocol: Protocol,
    /// Transport asked for.
    pub transport: Transport,
    /// Session, percent-decoded and of any length and alphabet; `None` on a handshake.
    pub sid: Option<Cow<'a, str>>,
    /// JSONP callback index; present, even if empty, where the reply is to be a script.
    pub jsonp: Option<Cow<'a, str>>,
    /// The client takes no binary, so that protocol 3 sends base64.
    pub b64: bool,
}

/// Reads the query of a request's target, without the `?`.
///
/// `None` where it is no Engine.IO request: that takes `EIO` and `transport`. Clients that leave `EIO`
/// out are recognised by a known `transport` together with a `sid`. Of a repeated parameter the first
/// counts; a server takes such a request for one with an unknown sid, wherever it is sent.
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
    // Servers take an empty sid or b64 for none.
    let sid = sid.filter(|sid| !sid.is_empty());
    if revision.is_none() && (sid.is_none() || transport == Transport::Other) {
        return None;
    }
    Some(Query {
        protocol: if revision == Some("4") { Protocol::V4 } else { Protocol::V3 },
        transport,
        sid: sid.map(decode),
        jsonp: jsonp.map(decode),
        b64: b64.is_some_and(|b64| !b64.is_empty()),
    })
}

/// Undoes form encoding as Node's `querystring` does: a stray `%` stands for itself, bytes that are no
/// UTF-8 become U+FFFD. Borrows where there is nothing to undo.
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

/// The value of one hexadecimal digit.
fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handshake_names_no_session() {
        let asked = query("EIO=4&transport=polling&t=PlkBg2a").unwrap();
        assert_eq!(asked.protocol, Protocol::V4);
        assert_eq!(asked.transport, Transport::Polling);
        assert_eq!((asked.sid, asked.jsonp, asked.b64), (None, None, false));
    }

    #[test]
    fn a_poll_names_its_session_without_copying_it() {
        let asked = query("EIO=3&transport=polling&t=x&b64=1&sid=Jz-_0aaa&j=2").unwrap();
        assert_eq!(asked.protocol, Protocol::V3);
        assert!(matches!(asked.sid, Some(Cow::Borrowed("Jz-_0aaa"))));
        assert_eq!(asked.jsonp.as_deref(), Some("2"));
        assert!(asked.b64);
    }

    #[test]
    fn every_transport_is_told_apart() {
        let transport = |text| query(text).map(|asked| asked.transport);
        assert_eq!(transport("EIO=4&transport=websocket&sid=a"), Some(Transport::WebSocket));
        assert_eq!(transport("EIO=4&transport=webtransport"), Some(Transport::WebTransport));
        assert_eq!(transport("EIO=4&transport=carrier-pigeon"), Some(Transport::Other));
    }

    #[test]
    fn other_applications_queries_are_not_engine_io() {
        for text in
            ["", "a=b", "transport=polling", "EIO=4", "sid=1", "transport=bus&sid=9", "&&=&"]
        {
            assert_eq!(query(text), None, "{text}");
        }
    }

    #[test]
    fn a_client_without_a_revision_is_known_by_its_session() {
        let asked = query("transport=polling&sid=abc").unwrap();
        assert_eq!((asked.protocol, asked.sid.as_deref()), (Protocol::V3, Some("abc")));
    }

    #[test]
    fn an_empty_sid_is_a_handshake_and_a_repeated_one_counts_once() {
        assert_eq!(query("EIO=4&transport=polling&sid=").unwrap().sid, None);
        let asked = query("EIO=4&transport=polling&sid=a&sid=b").unwrap();
        assert_eq!(asked.sid.as_deref(), Some("a"));
    }

    #[test]
    fn an_empty_callback_index_is_jsonp_all_the_same() {
        assert_eq!(query("EIO=3&transport=polling&j").unwrap().jsonp.as_deref(), Some(""));
    }

    #[test]
    fn a_sid_is_decoded_as_the_server_does() {
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
        fn any_text_is_survived(text in ".*") {
            let _ = query(&text);
        }

        #[test]
        fn any_sid_round_trips(sid in ".+", plus in any::<bool>()) {
            let mut encoded: String = sid.bytes().map(|byte| format!("%{byte:02X}")).collect();
            if plus {
                encoded = encoded.replace("%20", "+");
            }
            let text = format!("EIO=4&transport=polling&sid={encoded}&t=0");
            let asked = query(&text).unwrap();
            prop_assert_eq!(asked.sid.as_deref(), Some(sid.as_str()));
        }
    }
}

//! Detects in a backend's response the id of a new session, or that the session is unknown.
//!
//! Pure functions on the head of the response and the beginning of its decoded body. The caller reads the body piece by
//! piece, asks after each piece, and passes on to the client what it has read, unchanged. Not more than a
//! limit is ever needed.

use std::time::Duration;

use http::{Method, StatusCode};
use moorline_http::{FieldId, ResponseHead};

use crate::sticky::engine_io;

/// Maximum size of a handshake's reply that is read for its open packet. The packet comes first and
/// has a few hundred bytes; other packets may follow.
const MAX_OPEN: usize = 16 * 1024;

/// Maximum size of an Engine.IO error that is read; errors have about fifty bytes.
const MAX_ERROR: usize = 1024;

/// What the beginning of a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Detection<T> {
    /// Nothing yet: more of the body is needed.
    NeedsMore,
    /// This is certain, whatever follows.
    Decided(T),
}

/// A session that a reply has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetectedSession {
    pub(super) sid: String,
    /// How long the backend keeps the session without a request of the client.
    pub(super) lifetime: Duration,
}

/// Searches the reply to a polling handshake for the open packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenDetection(());

impl OpenDetection {
    /// Starts the search; `None` if this reply to a polling handshake opens no session.
    pub(super) fn of(response: &ResponseHead) -> Option<Self> {
        (response.status == StatusCode::OK).then_some(Self(()))
    }

    /// Reads the session from the beginning of the body. `complete`: the body ends after it.
    pub(super) fn decide(self, body: &[u8], complete: bool) -> Detection<Option<DetectedSession>> {
        match engine_io::open_packet(body) {
            Some(open) => Detection::Decided(Some(DetectedSession {
                sid: open.sid,
                lifetime: open.ping_interval + open.ping_timeout,
            })),
            None if complete || body.len() >= MAX_OPEN => Detection::Decided(None),
            None => Detection::NeedsMore,
        }
    }
}

/// Searches a response for an error that says that the session is unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownSidDetection<'a> {
    content_type: Option<&'a str>,
}

impl<'a> UnknownSidDetection<'a> {
    /// Starts the search; `None` if the response has another status than an error of this kind.
    pub(super) fn of(response: &'a ResponseHead) -> Option<Self> {
        let is_error = response.status == StatusCode::BAD_REQUEST;
        is_error.then(|| Self { content_type: response.head.text(FieldId::ContentType) })
    }

    /// Whether the session is unknown, by the beginning of the body. `complete`: the body ends after it.
    pub(super) fn decide(self, body: &[u8], complete: bool) -> Detection<bool> {
        if !complete && body.len() < MAX_ERROR {
            return Detection::NeedsMore;
        }
        Detection::Decided(engine_io::is_unknown_sid(self.content_type, body))
    }
}

/// Whether only the owner of the session can have sent this response to a request with this method: a client
/// must not be able to add invented sids to the table.
pub(super) fn proves_owner(response: &ResponseHead, method: &Method, upgrade: bool) -> bool {
    match response.status {
        StatusCode::SWITCHING_PROTOCOLS => upgrade,
        // Servers answer a poll with packets and a POST with `ok`.
        StatusCode::OK if method == Method::POST => {
            response.head.get(FieldId::ContentLength) == Some(b"2")
        }
        StatusCode::OK => {
            let kind = response.head.get(FieldId::ContentType);
            !kind.is_some_and(|kind| kind.starts_with(b"text/html"))
        }
        _ => false,
    }
}

/// Whether the response comes from something other than a running Engine.IO server, such as a
/// starting backend or another application. It says nothing about the session.
pub(super) fn is_other_service(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Whether a response is an event stream, which may be silent for any time.
pub(super) fn is_event_stream(response: &ResponseHead) -> bool {
    let kind = response.head.get(FieldId::ContentType).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proxy::testing::response, sticky::engine_io::UNKNOWN_SID};

    const OPEN: &str = r#"0{"sid":"abc","upgrades":[],"pingInterval":300,"pingTimeout":200}"#;

    #[test]
    fn a_session_is_detected_as_soon_as_its_open_packet_is_whole() {
        let detection = OpenDetection::of(&response("HTTP/1.1 200 OK\r\n")).unwrap();
        let sid = "abc".to_owned();
        let session = DetectedSession { sid, lifetime: Duration::from_millis(500) };
        assert_eq!(detection.decide(b"", false), Detection::NeedsMore);
        assert_eq!(detection.decide(&OPEN.as_bytes()[..20], false), Detection::NeedsMore);
        assert_eq!(detection.decide(&OPEN.as_bytes()[..20], true), Detection::Decided(None));
        assert_eq!(detection.decide(OPEN.as_bytes(), false), Detection::Decided(Some(session)));
        let other = vec![b'x'; MAX_OPEN];
        assert_eq!(detection.decide(&other[1..], false), Detection::NeedsMore);
        assert_eq!(detection.decide(&other, false), Detection::Decided(None));
        assert!(OpenDetection::of(&response("HTTP/1.1 400 Bad Request\r\n")).is_none());
    }

    #[test]
    fn an_unknown_session_is_decided_by_the_whole_error() {
        let json = response("HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n");
        let detection = UnknownSidDetection::of(&json).unwrap();
        assert_eq!(detection.decide(UNKNOWN_SID.as_bytes(), false), Detection::NeedsMore);
        assert_eq!(detection.decide(UNKNOWN_SID.as_bytes(), true), Detection::Decided(true));
        assert_eq!(detection.decide(b"{}", true), Detection::Decided(false));
        assert_eq!(detection.decide(&[b' '; MAX_ERROR], false), Detection::Decided(false));
        let html = response("HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n");
        let detection = UnknownSidDetection::of(&html).unwrap();
        assert_eq!(detection.decide(UNKNOWN_SID.as_bytes(), true), Detection::Decided(false));
        assert!(UnknownSidDetection::of(&response("HTTP/1.1 404 Not Found\r\n")).is_none());
    }

    #[test]
    fn only_the_answers_of_an_owner_prove_it() {
        let proves = |text: &str, method, upgrade| proves_owner(&response(text), &method, upgrade);
        let ok = "HTTP/1.1 200 OK\r\n";
        assert!(proves(ok, Method::GET, false));
        assert!(proves(&format!("{ok}Content-Length: 2\r\n"), Method::POST, false));
        assert!(!proves(&format!("{ok}Content-Length: 3\r\n"), Method::POST, false));
        assert!(!proves(ok, Method::POST, false));
        assert!(!proves(&format!("{ok}Content-Type: text/html\r\n"), Method::GET, false));
        assert!(!proves("HTTP/1.1 302 Found\r\n", Method::GET, false));
        let switching = "HTTP/1.1 101 Switching Protocols\r\n";
        assert!(proves(switching, Method::GET, true) && !proves(switching, Method::GET, false));
    }

    #[test]
    fn an_event_stream_is_recognized_with_parameters() {
        let is = |kind: &str| {
            is_event_stream(&response(&format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n")))
        };
        assert!(is("text/event-stream") && is("Text/Event-Stream ; charset=utf-8"));
        assert!(!is("text/plain") && !is(""));
    }
}

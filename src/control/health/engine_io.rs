//! The `engine.io` probe: a whole session.
//!
//! It does a handshake by polling, an upgrade to WebSocket with its probe packets, and a Close. All of
//! these go through the backend's event loop, so the probe notices an event loop that hangs while
//! another thread still accepts connections. The backend keeps no session. If the backend offers no
//! upgrade, a POST closes the session.
//!
//! The probe uses protocol 4, or 3 if the backend rejects 4 (error code 5). Servers of protocol 3 that
//! ignore the number answer in their own framing, which is accepted as well.

use bytes::Bytes;
use http::{Method, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;

use super::{
    ProbeError,
    http::{ProbeConnection, ProbeTarget},
    websocket,
};
use crate::sticky::engine_io::open_packet;

/// Error code for an unsupported protocol version.
const UNSUPPORTED: u64 = 5;

/// A session opened by polling.
struct ProbeSession {
    /// Path and query with the sid. The name of the transport must be appended.
    query: String,
    /// Body of the POST that closes the session, in the backend's framing.
    close_packet: &'static str,
    /// Whether the backend offers an upgrade to WebSocket.
    upgrades: bool,
}

/// Opens a session, upgrades it and closes it.
pub(super) async fn probe(backend: ProbeTarget<'_>, path: &str) -> Result<(), ProbeError> {
    let mut connection = backend.open().await?;
    let session = match handshake(&backend, &mut connection, path, 4).await? {
        Some(session) => session,
        None => handshake(&backend, &mut connection, path, 3).await?.ok_or(
            ProbeError::Protocol("the backend supports neither protocol 4 nor 3 of Engine.IO"),
        )?,
    };
    if !session.upgrades {
        return close(&backend, &mut connection, &session).await;
    }
    let upgraded = upgrade(&backend, &session).await;
    if upgraded.is_err() {
        // The session may still exist. The probe has failed already, so the result does not matter.
        let _ = close(&backend, &mut connection, &session).await;
    }
    upgraded
}

/// Opens a session by polling; `None`: the backend does not support this protocol version.
async fn handshake(
    backend: &ProbeTarget<'_>,
    connection: &mut ProbeConnection,
    path: &str,
    protocol: u8,
) -> Result<Option<ProbeSession>, ProbeError> {
    let request = backend.request(&format!("{path}?EIO={protocol}&transport=polling&b64=1"));
    let (parts, body) = connection.exchange(request, Bytes::new()).await?.into_parts();
    let status = parts.status;
    if status == StatusCode::BAD_REQUEST && code(&body) == Some(UNSUPPORTED) {
        return Ok(None);
    }
    if status != StatusCode::OK {
        let help = (status == StatusCode::NOT_FOUND).then(|| {
            format!(
                "the backend does not serve Engine.IO at {path}; set `path` of `health` to the path of the \
                 app, or use `probe = \"tcp\"`"
            )
        });
        return Err(unexpected("200 to a handshake", status, help));
    }
    let open = open_packet(&body)
        .ok_or(ProbeError::Protocol("no Engine.IO open packet in the response to a handshake"))?;
    let query = format!("{path}?EIO={protocol}&sid={}&transport=", encoded(&open.sid));
    let close_packet = if body.first() == Some(&b'0') { "1" } else { "1:1" };
    Ok(Some(ProbeSession { query, close_packet, upgrades: offers_websocket(&body) }))
}

/// Upgrades the session to WebSocket and closes it.
async fn upgrade(backend: &ProbeTarget<'_>, session: &ProbeSession) -> Result<(), ProbeError> {
    let mut socket = websocket::open(backend, &format!("{}websocket", session.query)).await?;
    socket.send("2probe").await?;
    socket.expect("3probe").await?;
    socket.send("5").await?;
    socket.close().await
}

/// Closes the session by a POST.
async fn close(
    backend: &ProbeTarget<'_>,
    connection: &mut ProbeConnection,
    session: &ProbeSession,
) -> Result<(), ProbeError> {
    let request = backend
        .request(&format!("{}polling", session.query))
        .method(Method::POST)
        .header(CONTENT_TYPE, "text/plain;charset=UTF-8");
    let packet = Bytes::from_static(session.close_packet.as_bytes());
    match connection.exchange(request, packet).await?.status() {
        StatusCode::OK => Ok(()),
        status => Err(unexpected("200 to a close packet", status, None)),
    }
}

fn unexpected(expected: &str, status: StatusCode, help: Option<String>) -> ProbeError {
    ProbeError::Status { expected: expected.to_owned(), actual: status.as_u16(), help }
}

/// Returns the error code of a rejected handshake.
fn code(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct EngineIoRefusal {
        code: u64,
    }
    serde_json::from_slice(body).ok().map(|refusal: EngineIoRefusal| refusal.code)
}

/// Whether an open packet offers an upgrade to WebSocket, in the framing of either protocol.
fn offers_websocket(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct UpgradeOffer {
        #[serde(default)]
        upgrades: Vec<String>,
    }
    let json = body.iter().position(|byte| *byte == b'{').map(|at| &body[at..]);
    let mut offers =
        serde_json::Deserializer::from_slice(json.unwrap_or_default()).into_iter::<UpgradeOffer>();
    matches!(offers.next(), Some(Ok(offer)) if offer.upgrades.iter().any(|name| name == "websocket"))
}

/// Percent-encodes a sid for a query.
fn encoded(sid: &str) -> String {
    let mut encoded = String::with_capacity(sid.len());
    for byte in sid.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{code, encoded, offers_websocket};

    #[test]
    fn upgrade_offer_is_read_in_both_framings() {
        assert!(offers_websocket(br#"0{"sid":"a","upgrades":["websocket"]}"#));
        assert!(offers_websocket(br#"40:0{"sid":"a","upgrades":["websocket"]}2:40"#));
        assert!(!offers_websocket(br#"0{"sid":"a","upgrades":[]}"#));
        assert!(!offers_websocket(br#"0{"sid":"a"}"#));
        assert!(!offers_websocket(b"no"));
    }

    #[test]
    fn error_code_of_a_rejected_handshake_is_read() {
        assert_eq!(code(br#"{"code":5,"message":"Unsupported protocol version"}"#), Some(5));
        assert_eq!(code(b"Not Found"), None);
    }

    #[test]
    fn sid_is_percent_encoded() {
        assert_eq!(encoded("aZ0-_~."), "aZ0-_~.");
        assert_eq!(encoded("a b/ü&"), "a%20b%2F%C3%BC%26");
    }
}

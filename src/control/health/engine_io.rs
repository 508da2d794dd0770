//! The `engine.io` probe: a session from its beginning to its end.
//!
//! A handshake by polling, the upgrade to a WebSocket with its probe, a Close: all of it goes through
//! the node's event loop, so that a dead one is found which something beside it hides. The node keeps
//! no session. Where it offers no upgrade, the session is closed by a POST.
//!
//! Protocol 4 is spoken, and 3 where the node refuses 4 (error code 5). Servers of protocol 3 that do
//! not look at the number answer in their own framing, which is understood as well.

use bytes::Bytes;
use http::{Method, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;

use super::{
    http::{ProbeConnection, ProbeTarget, whole},
    websocket,
};
use crate::sticky::engine_io::open_packet;

/// What a node says to a protocol that it does not speak.
const UNSUPPORTED: u64 = 5;

/// A session that was opened by polling.
struct ProbeSession {
    /// Path and query, the id within.
    query: String,
    /// The body of a POST that closes it, in the node's framing.
    goodbye: &'static str,
    upgrades: bool,
}

/// Opens a session, upgrades it and closes it.
pub(super) async fn probe(on: ProbeTarget<'_>, path: &str) -> Result<(), String> {
    let mut link = on.link().await?;
    let session = match handshake(&on, &mut link, path, 4).await? {
        Some(session) => session,
        None => handshake(&on, &mut link, path, 3)
            .await?
            .ok_or("it speaks neither protocol 4 nor 3 of Engine.IO")?,
    };
    if !session.upgrades {
        return goodbye(&on, &mut link, &session).await;
    }
    let upgraded = upgrade(&on, &session).await;
    if upgraded.is_err() {
        // The session is there still; whether the node takes a goodbye matters no more.
        let _ = goodbye(&on, &mut link, &session).await;
    }
    upgraded
}

/// `None`: the node does not speak this protocol.
async fn handshake(
    on: &ProbeTarget<'_>,
    link: &mut ProbeConnection,
    path: &str,
    protocol: u8,
) -> Result<Option<ProbeSession>, String> {
    let target = format!("{path}?EIO={protocol}&transport=");
    let request = on.request(&format!("{target}polling&b64=1"));
    let response = link.ask(request, Bytes::new()).await?;
    let status = response.status();
    let body = whole(response).await?;
    if status == StatusCode::BAD_REQUEST && code(&body) == Some(UNSUPPORTED) {
        return Ok(None);
    }
    if status == StatusCode::NOT_FOUND {
        return Err(format!(
            "expected 200 to a handshake, got 404: the backend serves no Engine.IO at {path}; set `path` of `health` to \
             the app's own, or use `probe = \"tcp\"`"
        ));
    }
    if status != StatusCode::OK {
        return Err(format!("expected 200 to a handshake, got {}", status.as_u16()));
    }
    let open = open_packet(&body)
        .ok_or("expected an open packet in the answer to a handshake, got something else")?;
    let query = format!("{path}?EIO={protocol}&sid={}&transport=", encoded(&open.sid));
    let goodbye = if body.first() == Some(&b'0') { "1" } else { "1:1" };
    Ok(Some(ProbeSession { query, goodbye, upgrades: offers_websocket(&body) }))
}

/// Asks by WebSocket whether the session is heard there, moves over, and closes both.
async fn upgrade(on: &ProbeTarget<'_>, session: &ProbeSession) -> Result<(), String> {
    let mut socket = websocket::open(on, &format!("{}websocket", session.query)).await?;
    socket.say("2probe").await?;
    socket.hear("3probe").await?;
    socket.say("5").await?;
    socket.close().await
}

async fn goodbye(
    on: &ProbeTarget<'_>,
    link: &mut ProbeConnection,
    session: &ProbeSession,
) -> Result<(), String> {
    let target = format!("{}polling", session.query);
    let request =
        on.request(&target).method(Method::POST).header(CONTENT_TYPE, "text/plain;charset=UTF-8");
    let response = link.ask(request, Bytes::from_static(session.goodbye.as_bytes())).await?;
    let status = response.status();
    whole(response).await?;
    match status {
        StatusCode::OK => Ok(()),
        status => Err(format!("expected 200 to a close packet, got {}", status.as_u16())),
    }
}

fn code(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct EngineIoRefusal {
        code: u64,
    }
    serde_json::from_slice(body).ok().map(|refusal: EngineIoRefusal| refusal.code)
}

/// Whether an open packet, in whatever framing, offers the upgrade.
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

/// Any id, percent-encoded for a query.
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
    fn offers_are_read_in_either_framing() {
        assert!(offers_websocket(br#"0{"sid":"a","upgrades":["websocket"]}"#));
        assert!(offers_websocket(br#"40:0{"sid":"a","upgrades":["websocket"]}2:40"#));
        assert!(!offers_websocket(br#"0{"sid":"a","upgrades":[]}"#));
        assert!(!offers_websocket(br#"0{"sid":"a"}"#));
        assert!(!offers_websocket(b"no"));
    }

    #[test]
    fn refusals_have_a_code() {
        assert_eq!(code(br#"{"code":5,"message":"Unsupported protocol version"}"#), Some(5));
        assert_eq!(code(b"Not Found"), None);
    }

    #[test]
    fn any_id_goes_into_a_query() {
        assert_eq!(encoded("aZ0-_~."), "aZ0-_~.");
        assert_eq!(encoded("a b/ü&"), "a%20b%2F%C3%BC%26");
    }
}

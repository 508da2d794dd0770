//! The WebSocket opening handshake (RFC 6455 §4) and open tunnels.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Backend, Message, Peer, Proxy, Raw};

/// The key of RFC 6455 §1.3.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The answer to [`KEY`] that RFC 6455 §1.3 gives.
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A masked WebSocket frame with the text `early`; invalid as HTTP.
pub(crate) const EARLY: &[u8] = b"\x81\x85\x00\x00\x00\x00early";

/// Header lines of a correct upgrade request, each ended by CRLF.
pub(crate) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A correct upgrade request with further header lines, each ended by CRLF.
pub(crate) fn request(target: &str, headers: &str) -> Vec<u8> {
    super::message::get(target, &format!("{UPGRADE}{headers}"))
}

/// `Sec-WebSocket-Accept` for a key.
pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The `101` with which a correct backend answers this request.
pub(crate) fn switching(request: &Message) -> Vec<u8> {
    let key = request.header("sec-websocket-key").expect("an upgrade has a key");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
    .into_bytes()
}

/// Maximum length of a part of the pattern.
pub(crate) const PIECE: usize = 1 << 20;

/// Returns `length` bytes from position `start` of a pattern in which lost and repeated bytes are detected.
pub(crate) fn pattern(start: usize, length: usize) -> &'static [u8] {
    // A prime, so that the pattern does not repeat at powers of two.
    const PERIOD: usize = 251;
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..PIECE + PERIOD).map(|n| (n % PERIOD) as u8).collect());
    &BYTES[start % PERIOD..][..length]
}

/// Opens a tunnel through the proxy to a manual backend and returns both ends.
pub(crate) async fn tunnel(proxy: &Proxy, backend: &Backend) -> (Raw, Peer) {
    tunnel_over(Raw::connect(proxy.web()).await, backend).await
}

/// Opens a tunnel on a connected client and returns both ends.
pub(crate) async fn tunnel_over(mut client: Raw, backend: &Backend) -> (Raw, Peer) {
    let before = backend.connections();
    client.send(request("/chat", "")).await;
    let peer = backend.peer(before).await;
    let upgrade = peer.head().await.expect("the upgrade request");
    peer.send(switching(&upgrade)).await;
    assert_eq!(client.response().await.status(), 101);
    (client, peer)
}

/// A backend that accepts each upgrade and then echoes all bytes.
pub(crate) fn echo() -> super::backend::Script {
    super::backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        peer.send(switching(&request)).await;
        let mut sent = 0;
        loop {
            let rest = peer.rest();
            if rest.len() > sent {
                peer.send(&rest[sent..]).await;
                sent = rest.len();
            } else if peer.is_ended() {
                return;
            } else {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    })
}

/// A backend that accepts each upgrade and sends nothing until the connection ends.
pub(crate) fn silent() -> super::backend::Script {
    super::backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        peer.send(switching(&request)).await;
        peer.ended().await;
    })
}

/// A Close frame of the proxy: status 1012 and a reason.
pub(crate) fn close(reason: &str) -> Vec<u8> {
    [&[0x88, reason.len() as u8 + 2, 0x03, 0xf4], reason.as_bytes()].concat()
}

/// The Close frame with which a client replies, masked by zeros.
pub(crate) const CLOSE_REPLY: &[u8] = b"\x88\x82\x00\x00\x00\x00\x03\xf4";

/// An unmasked binary frame of more than 64 KiB, whose payload looks like Close frames.
pub(crate) fn large_frame(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x82, 127];
    frame.extend((payload as u64).to_be_bytes());
    frame.resize(frame.len() + payload, 0x88);
    frame
}

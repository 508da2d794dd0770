//! The `websocket` probe: a handshake, then a Close; and the few frames that this takes.
//!
//! The server's own frames before its Close are stepped over, so far as they are few.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::http::{ProbeConnection, ProbeTarget};
use crate::http::upgrade::accept;

/// Most bytes of frames that are read until the one that is waited for.
const MAX_READ: usize = 64 * 1024;

/// Frames that are known here (RFC 6455 §5.2).
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;

/// "Normal closure" (RFC 6455 §7.4.1).
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Opens a WebSocket and closes it.
pub(super) async fn probe(on: ProbeTarget<'_>, target: &str) -> Result<(), String> {
    open(&on, target).await?.close().await
}

/// An open WebSocket; dropping it cuts it.
pub(super) struct ProbeSocket {
    stream: TokioIo<Upgraded>,
    /// Bytes that may still be read.
    left: usize,
    _link: ProbeConnection,
}

/// Shakes hands; a server that answers by anything but a right `101` is no WebSocket's.
pub(super) async fn open(on: &ProbeTarget<'_>, target: &str) -> Result<ProbeSocket, String> {
    let key = BASE64_STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    let request = on
        .request(target)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    let mut link = on.link().await?;
    let response = link.ask(request, Bytes::new()).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!(
            "expected 101 to a WebSocket handshake, got {}",
            response.status().as_u16()
        ));
    }
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|value| value != accept(key.as_bytes()).as_str()) {
        return Err("a wrong Sec-WebSocket-Accept".to_owned());
    }
    let stream = hyper::upgrade::on(response).await.map_err(|error| error.to_string())?;
    Ok(ProbeSocket { stream: TokioIo::new(stream), left: MAX_READ, _link: link })
}

impl ProbeSocket {
    /// Sends a text message.
    pub(super) async fn say(&mut self, text: &str) -> Result<(), String> {
        self.send(TEXT, text.as_bytes()).await
    }

    /// Reads until a text message of exactly this comes.
    pub(super) async fn hear(&mut self, text: &str) -> Result<(), String> {
        loop {
            match self.frame().await? {
                Some((TEXT, payload)) if payload == text.as_bytes() => return Ok(()),
                Some((CLOSE, _)) | None => return Err(format!("closed before `{text}` came")),
                Some(_) => {}
            }
        }
    }

    /// Sends a Close and waits for the server's, or its end.
    pub(super) async fn close(mut self) -> Result<(), String> {
        self.send(CLOSE, &NORMAL).await?;
        loop {
            match self.frame().await {
                Ok(Some((CLOSE, _)) | None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One short masked frame.
    async fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), String> {
        debug_assert!(payload.len() < 126, "there is one byte for the length");
        let mask = fastrand::u32(..).to_ne_bytes();
        let mut frame = vec![FINAL | opcode, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).await.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    /// The next frame's opcode and payload; `None`: the server has closed between two.
    async fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let Ok(first) = self.stream.read_u8().await else { return Ok(None) };
        let length = match self.read(1).await?[0] {
            length @ 0..=125 => usize::from(length),
            126 => self.read(2).await?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => return Err("a frame too long for a probe".to_owned()),
            _ => return Err("a masked frame, which no server sends".to_owned()),
        };
        Ok(Some((first & 0x0f, self.read(length).await?)))
    }

    async fn read(&mut self, count: usize) -> Result<Vec<u8>, String> {
        self.left = self.left.checked_sub(count).ok_or("too much before the end")?;
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

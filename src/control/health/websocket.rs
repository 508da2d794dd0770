//! The `websocket` probe: a handshake, then a Close. Also the WebSocket client of the `engine.io` probe.
//!
//! Other frames that the server sends are skipped, up to [`MAX_READ`] bytes.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    ProbeError,
    http::{ProbeConnection, ProbeTarget},
};
use crate::{http_client::UpgradedStream, proxy::websocket::accept};

/// Maximum number of bytes to read from the server's frames.
const MAX_READ: usize = 64 * 1024;

/// Opcodes, and the FIN bit (RFC 6455 §5.2).
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;

/// Status code of a normal closure (RFC 6455 §7.4.1).
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Opens a WebSocket and closes it.
pub(super) async fn probe(backend: ProbeTarget<'_>, target: &str) -> Result<(), ProbeError> {
    open(&backend, target).await?.close().await
}

/// An open WebSocket; dropping it closes the connection.
pub(super) struct ProbeSocket {
    stream: UpgradedStream,
    /// Number of bytes that may still be read.
    left: usize,
    _connection: ProbeConnection,
}

/// Opens a WebSocket. Any answer other than a valid `101` is an error.
pub(super) async fn open(
    backend: &ProbeTarget<'_>,
    target: &str,
) -> Result<ProbeSocket, ProbeError> {
    let key = BASE64_STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    let request = backend
        .request(target)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    let mut connection = backend.open().await?;
    let (head, stream) = connection.upgrade(request).await?;
    let Some(stream) = stream else {
        return Err(ProbeError::Status {
            expected: "101 to a WebSocket handshake".to_owned(),
            actual: head.status.as_u16(),
            help: None,
        });
    };
    let accepted = head.headers.get(SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|value| value != accept(key.as_bytes()).as_str()) {
        return Err(ProbeError::Protocol("missing or wrong Sec-WebSocket-Accept in the response"));
    }
    Ok(ProbeSocket { stream, left: MAX_READ, _connection: connection })
}

impl ProbeSocket {
    /// Sends a text message.
    pub(super) async fn send(&mut self, text: &str) -> Result<(), ProbeError> {
        self.write(TEXT, text.as_bytes()).await
    }

    /// Reads until the server sends the text message `text`.
    pub(super) async fn expect(&mut self, text: &str) -> Result<(), ProbeError> {
        loop {
            match self.frame().await? {
                Some((TEXT, payload)) if payload == text.as_bytes() => return Ok(()),
                Some((CLOSE, _)) | None => return Err(ProbeError::Closed(text.to_owned())),
                Some(_) => {}
            }
        }
    }

    /// Sends a Close and waits for the server's Close or the end of the connection.
    pub(super) async fn close(mut self) -> Result<(), ProbeError> {
        self.write(CLOSE, &NORMAL).await?;
        loop {
            match self.frame().await {
                Ok(Some((CLOSE, _)) | None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes one masked frame of less than 126 bytes.
    async fn write(&mut self, opcode: u8, payload: &[u8]) -> Result<(), ProbeError> {
        debug_assert!(payload.len() < 126, "the length must fit into 7 bits");
        let mask = fastrand::u32(..).to_ne_bytes();
        let mut frame = vec![FINAL | opcode, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads the next frame's opcode and payload; `None`: the server closed the connection between frames.
    async fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, ProbeError> {
        let Ok(first) = self.stream.read_u8().await else { return Ok(None) };
        let length = match self.read(1).await?[0] {
            length @ 0..=125 => usize::from(length),
            126 => self.read(2).await?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => return Err(ProbeError::Protocol("the server sent a frame of 64 KiB or more")),
            _ => return Err(ProbeError::Protocol("the server sent a masked frame")),
        };
        Ok(Some((first & 0x0f, self.read(length).await?)))
    }

    async fn read(&mut self, count: usize) -> Result<Vec<u8>, ProbeError> {
        let too_long = ProbeError::Protocol("the server sent more than 64 KiB before its Close");
        self.left = self.left.checked_sub(count).ok_or(too_long)?;
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

//! WebSocket messages.

use std::fmt;

use super::frame::{self, FrameError};
use crate::stats::{ErrorKind, Failure};

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UTF-8; not checked.
    Text,
    /// Bytes.
    Binary,
}

/// A message from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// UTF-8.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// The server's close frame. It was answered, and nothing follows.
    Close(CloseFrame),
}

/// Content of a close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseFrame {
    /// Close code (RFC 6455, section 7.4).
    pub(crate) code: Option<u16>,
    /// Description.
    pub(crate) reason: String,
}

/// "Service restart": the client should reconnect (IANA registry of close codes).
const SERVICE_RESTART: u16 = 1012;

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server closed the WebSocket")?;
        if let Some(code) = self.code {
            write!(f, " with code {code}")?;
        }
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        Ok(())
    }
}

impl From<CloseFrame> for Failure {
    fn from(close_frame: CloseFrame) -> Self {
        Self::new(ErrorKind::Disconnect, close_frame.to_string())
    }
}

impl CloseFrame {
    /// Whether the server asks the client to reconnect, possibly to another node.
    pub(crate) fn asks_to_reconnect(&self) -> bool {
        self.code == Some(SERVICE_RESTART)
    }

    /// Parses the payload of a close frame.
    pub(super) fn read(payload: &[u8]) -> Result<Self, FrameError> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return match payload.is_empty() {
                true => Ok(Self { code: None, reason: String::new() }),
                false => Err(FrameError::CloseCode),
            };
        };
        let code = u16::from_be_bytes(*code);
        if !frame::is_close_code(code) {
            return Err(FrameError::CloseCode);
        }
        let reason = std::str::from_utf8(reason).map_err(|_| FrameError::Utf8)?;
        Ok(Self { code: Some(code), reason: reason.to_owned() })
    }
}

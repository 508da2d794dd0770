//! What WebSockets carry.

use std::fmt;

use super::frame::{self, FrameError};
use crate::stats::{ErrorKind, Failure};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UTF-8; the caller sees to it.
    Text,
    /// Bytes.
    Binary,
}

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// UTF-8.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// The server's close frame; it has been answered, and nothing follows.
    Close(Closure),
}

/// What a close frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closure {
    /// RFC 6455, section 7.4.
    pub(crate) code: Option<u16>,
    /// For people.
    pub(crate) reason: String,
}

/// "Service restart": the client is to connect again (the IANA registry of close codes).
const SERVICE_RESTART: u16 = 1012;

impl fmt::Display for Closure {
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

impl From<Closure> for Failure {
    fn from(closure: Closure) -> Self {
        Self::new(ErrorKind::Disconnect, closure.to_string())
    }
}

impl Closure {
    /// Whether the server wants the client to come back, be it to somebody else.
    pub(crate) fn asks_to_return(&self) -> bool {
        self.code == Some(SERVICE_RESTART)
    }

    /// Of a close frame's payload.
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

//! Why a health check failed, as the log and `moorline backends` show it.

use std::{fmt, io, time::Duration};

use humantime::format_duration;

use crate::{http_client::HttpClientError, upstream::ConnectError};

/// Why a health check failed.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// No connection to the backend.
    Connect(ConnectError),
    /// The check did not end within its timeout.
    Timeout(Duration),
    /// The request cannot be built: invalid path or host.
    Request(http::Error),
    /// The backend does not answer as an HTTP/1.1 server, or the response body is incomplete or too long.
    Http(HttpClientError),
    /// The response has another status than the check expects.
    Status {
        /// The expected status, and of what.
        expected: String,
        /// The status of the response.
        actual: u16,
        /// What to change in the configuration.
        help: Option<String>,
    },
    /// The response violates the protocol of the check.
    Protocol(&'static str),
    /// The backend closed the WebSocket before it sent this message.
    Closed(String),
    /// The connection failed after the WebSocket handshake.
    Io(io::Error),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Timeout(timeout) => write!(f, "no answer within {}", format_duration(*timeout)),
            Self::Request(error) => error.fmt(f),
            Self::Http(error) => error.fmt(f),
            Self::Status { expected, actual, help: None } => {
                write!(f, "expected {expected}, got {actual}")
            }
            Self::Status { expected, actual, help: Some(help) } => {
                write!(f, "expected {expected}, got {actual}: {help}")
            }
            Self::Protocol(text) => f.write_str(text),
            Self::Closed(message) => write!(f, "the backend closed before it sent `{message}`"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProbeError {}

impl From<http::Error> for ProbeError {
    fn from(error: http::Error) -> Self {
        Self::Request(error)
    }
}

impl From<HttpClientError> for ProbeError {
    fn from(error: HttpClientError) -> Self {
        Self::Http(error)
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

//! The kinds of failures of a client.

use std::fmt;

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    /// Engine.IO error `{"code":1}`, "Session ID unknown": the request reached a node that does not own the
    /// session.
    Code1,
    /// Another Engine.IO error, or a rejected Socket.IO CONNECT.
    EngineIo,
    /// An upgrade not answered by 101, or a probe without an answer.
    UpgradeRefused,
    /// A failed TLS handshake or record.
    Tls,
    /// A TCP connection failed.
    Connect,
    /// No answer, or no heartbeat, within the deadline.
    Timeout,
    /// The server ended a connection that the client still needed.
    Disconnect,
    /// An answer with different content than the message.
    WrongEcho,
    /// An unexpected HTTP status.
    Status,
    /// Invalid HTTP, WebSocket, Engine.IO or Socket.IO.
    Protocol,
}

impl ErrorKind {
    /// All kinds, in the order of tables and legends.
    pub(crate) const ALL: [Self; 10] = [
        Self::Code1,
        Self::EngineIo,
        Self::UpgradeRefused,
        Self::Tls,
        Self::Connect,
        Self::Timeout,
        Self::Disconnect,
        Self::WrongEcho,
        Self::Status,
        Self::Protocol,
    ];

    /// Name in figures: `code1`, `upgrade_refused`…
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Code1 => "code1",
            Self::EngineIo => "engine_io",
            Self::UpgradeRefused => "upgrade_refused",
            Self::Tls => "tls",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Disconnect => "disconnect",
            Self::WrongEcho => "wrong_echo",
            Self::Status => "status",
            Self::Protocol => "protocol",
        }
    }
}

/// A failure with a description.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Kind of the failure.
    pub(crate) kind: ErrorKind,
    /// Description, such as "the server answered 502 Bad Gateway".
    pub(crate) detail: String,
}

impl Failure {
    /// A failure with a description.
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Failure {}

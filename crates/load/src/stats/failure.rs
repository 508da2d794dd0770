//! What can go wrong for a client: a closed list.

use std::fmt;

/// Why something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    /// Engine.IO's `{"code":1}`, "Session ID unknown": the request reached a node that does not know
    /// the session.
    Code1,
    /// Any other Engine.IO error object, and a refused Socket.IO CONNECT.
    EngineIo,
    /// An upgrade that was not answered by 101 (or whose probe was not answered).
    UpgradeRefused,
    /// A TLS handshake or record that failed.
    Tls,
    /// No TCP connection.
    Connect,
    /// No answer within the deadline, heartbeats included.
    Timeout,
    /// A connection that the other side ended while the client wanted it.
    Disconnect,
    /// An answer that is not what was sent.
    WrongEcho,
    /// An HTTP status that nobody asked for.
    Status,
    /// Bytes that are no HTTP, WebSocket, Engine.IO or Socket.IO.
    Protocol,
}

impl ErrorKind {
    /// In the order of tables and legends.
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

    /// For programs: `code1`, `upgrade_refused`…
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

/// A failure with what was seen of it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// For counting.
    pub(crate) kind: ErrorKind,
    /// For people: one clause, such as "the server answered 502 Bad Gateway".
    pub(crate) detail: String,
}

impl Failure {
    /// A failure of a kind, described.
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

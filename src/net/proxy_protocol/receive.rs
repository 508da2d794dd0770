//! Takes one header off a client's socket, and no byte more.
//!
//! Bytes are peeked and consumed only once they form a complete header, so that the next reader starts at the
//! first byte after it.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::parse::{LONGEST_LINE, MOST, ParsedHeader, parse};
use crate::{config::ProxyIn, error::FailureKind, net::peek::peek};

/// Time to wait for an optional header if the server may have to send first. A header that arrives later is
/// treated as application data.
pub const GRACE: Duration = Duration::from_secs(3);

/// Addresses from a received header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    /// Client address.
    pub source: SocketAddr,
    /// Address that the client connected to.
    pub destination: SocketAddr,
}

/// Why a connection is rejected.
#[derive(Debug)]
pub enum HeaderError {
    /// A header from a peer that is not trusted, or a connection from an untrusted peer if headers are required.
    Untrusted,
    /// The header is required but absent.
    Missing,
    /// The header is invalid, with the reason.
    Malformed(&'static str),
    /// The deadline passed before the header was complete.
    TimedOut,
    /// The peer closed before the header was complete.
    Incomplete,
    /// The socket failed.
    Io(io::Error),
}

impl HeaderError {
    /// Returns the log and metric label of the error.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Untrusted => FailureKind::Untrusted,
            Self::Missing => FailureKind::Missing,
            Self::Malformed(_) => FailureKind::Malformed,
            Self::TimedOut => FailureKind::TimedOut,
            Self::Incomplete => FailureKind::Incomplete,
            Self::Io(error) if error.kind() == ErrorKind::ConnectionReset => FailureKind::Reset,
            Self::Io(_) => FailureKind::Io,
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => {
                f.write_str("this peer is not a trusted proxy (`proxy_protocol.from`)")
            }
            Self::Missing => f.write_str("the connection does not begin with a PROXY header"),
            Self::Malformed(why) => write!(f, "invalid PROXY header: {why}"),
            Self::TimedOut => f.write_str("timed out waiting for the PROXY header"),
            Self::Incomplete => f.write_str("the connection ended inside the PROXY header"),
            Self::Io(error) => write!(f, "cannot read the PROXY header: {error}"),
        }
    }
}

impl std::error::Error for HeaderError {}

/// Time limits for the header.
#[derive(Clone, Copy, Debug)]
pub struct HeaderWait {
    /// Deadline for the complete header.
    pub deadline: Instant,
    /// Whether the server may send first in this protocol. A client without a header then waits for the server,
    /// and is served after [`GRACE`].
    pub server_first: bool,
}

/// Reads the header at the beginning of a connection according to `terms`. Returns `None` if the connection has
/// no header, or one without addresses: the socket's own addresses apply.
///
/// # Errors
/// Why the connection is rejected.
pub async fn receive(
    socket: &TcpStream,
    terms: &ProxyIn,
    peer: SocketAddr,
    wait: HeaderWait,
) -> Result<Option<ProxiedAddresses>, HeaderError> {
    let trusted = terms.trusts(peer.ip());
    if terms.required && !trusted {
        return Err(HeaderError::Untrusted);
    }
    if !begins(socket, terms.required, wait).await? {
        return Ok(None);
    }
    let header = peek(socket, (LONGEST_LINE, MOST), |bytes| match parse(bytes) {
        ParsedHeader::Undecided => None,
        ParsedHeader::Absent if terms.required => Some(Err(HeaderError::Missing)),
        ParsedHeader::Absent => Some(Ok(None)),
        _ if !trusted => Some(Err(HeaderError::Untrusted)),
        ParsedHeader::Partial => None,
        ParsedHeader::Broken(why) => Some(Err(HeaderError::Malformed(why))),
        ParsedHeader::Whole(header) => Some(Ok(Some(header))),
    });
    let found = match timeout_at(wait.deadline, header).await {
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Err(HeaderError::Incomplete),
        Ok(found) => found.map_err(HeaderError::Io)?,
        Err(_) => Err(HeaderError::TimedOut),
    };
    let Some(header) = found? else { return Ok(None) };
    take(socket, header.length).await.map_err(HeaderError::Io)?;
    let addresses = |(source, destination)| ProxiedAddresses { source, destination };
    Ok(header.ends.map(addresses))
}

/// Waits for the first byte; returns whether it arrived in time.
async fn begins(socket: &TcpStream, required: bool, wait: HeaderWait) -> Result<bool, HeaderError> {
    let may_be_silent = wait.server_first && !required;
    let until = match may_be_silent {
        true => wait.deadline.min(Instant::now() + GRACE),
        false => wait.deadline,
    };
    match timeout_at(until, peek(socket, (1, 1), |_| Some(()))).await {
        Ok(Ok(())) => Ok(true),
        // The peer closed without sending anything.
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => match required {
            true => Err(HeaderError::Missing),
            false => Ok(false),
        },
        Ok(Err(error)) => Err(HeaderError::Io(error)),
        Err(_) if may_be_silent => Ok(false),
        Err(_) => Err(HeaderError::TimedOut),
    }
}

/// Consumes `length` bytes, which are known to be available.
async fn take(socket: &TcpStream, length: usize) -> io::Result<()> {
    let mut bytes = vec![0; length];
    let mut into = &mut bytes[..];
    while !into.is_empty() {
        socket.readable().await?;
        match socket.try_read(into) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

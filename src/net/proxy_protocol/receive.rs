//! Taking one header off a client's socket, and not a byte more.
//!
//! Bytes are looked at where they lie and taken only once they are known to be a whole header, so that
//! whatever comes after it finds its own first byte.

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

use super::parse::{LONGEST_LINE, MOST, Parsed, parse};
use crate::{config::ProxyIn, error::FailureKind, net::peek::peek};

/// How long a client that may send a header and says nothing is waited for where the server may have to
/// speak first. A header that comes later is bytes like any others.
pub const GRACE: Duration = Duration::from_secs(3);

/// What a header has told of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Where it comes from.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// Why a connection goes no further.
#[derive(Debug)]
pub enum HeaderError {
    /// A header from a peer that is not to send one, or any connection of one where it is required.
    Untrusted,
    /// No header where one is required.
    Missing,
    /// What began as a header and is none.
    Malformed(&'static str),
    /// The deadline passed before it was complete.
    TimedOut,
    /// The peer closed before it was complete.
    Incomplete,
    /// The socket failed.
    Io(io::Error),
}

impl HeaderError {
    /// What it means in the vocabulary of endings.
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
            Self::Untrusted => f.write_str("a PROXY header has to come from a trusted proxy"),
            Self::Missing => f.write_str("the connection begins without a PROXY header"),
            Self::Malformed(why) => write!(f, "the PROXY header is broken: {why}"),
            Self::TimedOut => f.write_str("the PROXY header was not there in time"),
            Self::Incomplete => f.write_str("the connection ended within the PROXY header"),
            Self::Io(error) => write!(f, "the PROXY header could not be read: {error}"),
        }
    }
}

impl std::error::Error for HeaderError {}

/// How long a header is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// By when it has to be complete.
    pub deadline: Instant,
    /// Whether the protocol may be one in which the server speaks first: a client without a header then
    /// waits for us, and gets what it waits for after [`GRACE`].
    pub server_first: bool,
}

/// Reads the header that a connection begins with, by these terms. `None` where it is served as what it
/// looks like: it has no header, or one that names nobody.
///
/// # Errors
/// Why it is not served at all.
pub async fn receive(
    socket: &TcpStream,
    terms: &ProxyIn,
    peer: SocketAddr,
    wait: Wait,
) -> Result<Option<Announced>, HeaderError> {
    let trusted = terms.believes(peer.ip());
    if terms.required && !trusted {
        return Err(HeaderError::Untrusted);
    }
    if !begins(socket, terms.required, wait).await? {
        return Ok(None);
    }
    let header = peek(socket, (LONGEST_LINE, MOST), |bytes| match parse(bytes) {
        Parsed::Undecided => None,
        Parsed::Absent if terms.required => Some(Err(HeaderError::Missing)),
        Parsed::Absent => Some(Ok(None)),
        _ if !trusted => Some(Err(HeaderError::Untrusted)),
        Parsed::Partial => None,
        Parsed::Broken(why) => Some(Err(HeaderError::Malformed(why))),
        Parsed::Whole(header) => Some(Ok(Some(header))),
    });
    let found = match timeout_at(wait.deadline, header).await {
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Err(HeaderError::Incomplete),
        Ok(found) => found.map_err(HeaderError::Io)?,
        Err(_) => Err(HeaderError::TimedOut),
    };
    let Some(header) = found? else { return Ok(None) };
    take(socket, header.length).await.map_err(HeaderError::Io)?;
    let announced = |(source, destination)| Announced { source, destination };
    Ok(header.ends.map(announced))
}

/// Waits for the first byte; whether one came, or is to be waited for no longer.
async fn begins(socket: &TcpStream, required: bool, wait: Wait) -> Result<bool, HeaderError> {
    let may_be_silent = wait.server_first && !required;
    let until = match may_be_silent {
        true => wait.deadline.min(Instant::now() + GRACE),
        false => wait.deadline,
    };
    match timeout_at(until, peek(socket, (1, 1), |_| Some(()))).await {
        Ok(Ok(())) => Ok(true),
        // The peer has ended its stream before it began.
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => match required {
            true => Err(HeaderError::Missing),
            false => Ok(false),
        },
        Ok(Err(error)) => Err(HeaderError::Io(error)),
        Err(_) if may_be_silent => Ok(false),
        Err(_) => Err(HeaderError::TimedOut),
    }
}

/// Takes as many bytes, which are known to be there.
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

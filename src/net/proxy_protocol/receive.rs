//! Taking one header off a client's socket, and not a byte more.
//!
//! Bytes are looked at where they lie (`MSG_PEEK`) and taken only once they are known to be a header's, so
//! that whatever comes after it finds its own first byte. While they can still be either, nothing is
//! taken, and the next look waits for bytes that were not there at the last one: the socket's readiness is
//! edge-triggered, so a look that finds nothing new may say that it would block.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::parse::{Header, LONGEST_LINE, MOST, Parsed, parse};
use crate::{config::ProxyIn, error::Kind};

/// How long a client that may send a header and says nothing is waited for: in protocols where the server
/// speaks first, one without a header waits for us.
pub const GRACE: Duration = Duration::from_secs(3);

/// What a header has told of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Where it comes from.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
    /// What the proxy before this one calls it, where that is printable.
    pub id: Option<Box<str>>,
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
    pub fn kind(&self) -> Kind {
        match self {
            Self::Untrusted => Kind::Untrusted,
            Self::Missing => Kind::Missing,
            Self::Malformed(_) => Kind::Malformed,
            Self::TimedOut => Kind::TimedOut,
            Self::Incomplete => Kind::Incomplete,
            Self::Io(error) if error.kind() == ErrorKind::ConnectionReset => Kind::Reset,
            Self::Io(_) => Kind::Io,
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

/// Reads the header that a connection begins with, by these terms and until `deadline`. `None` where it is
/// served as what it looks like: it has no header, or one that names nobody.
///
/// # Errors
/// Why it is not served at all.
pub async fn receive(
    socket: &TcpStream,
    terms: &ProxyIn,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<Option<Announced>, HeaderError> {
    let ip = peer.ip().to_canonical();
    let trusted = terms.from.iter().any(|network| network.contains(&ip));
    if terms.required && !trusted {
        return Err(HeaderError::Untrusted);
    }
    match read(socket, terms.required, trusted, deadline).await {
        Ok(outcome) => Ok(outcome),
        Err(Stopped::By(error)) => Err(error),
        Err(Stopped::Silent) if terms.required => Err(HeaderError::TimedOut),
        Err(Stopped::Silent) => Ok(None),
    }
}

/// Why no more is read.
enum Stopped {
    By(HeaderError),
    /// Nothing came at all.
    Silent,
}

impl From<HeaderError> for Stopped {
    fn from(error: HeaderError) -> Self {
        Self::By(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::By(HeaderError::Io(error))
    }
}

async fn read(
    socket: &TcpStream,
    required: bool,
    trusted: bool,
    deadline: Instant,
) -> Result<Option<Announced>, Stopped> {
    let mut bytes = vec![0; LONGEST_LINE];
    // How many of them are taken, and how many there were at the last look.
    let (mut taken, mut seen) = (0, 0);
    loop {
        let patience = match seen {
            0 if !required => deadline.min(Instant::now() + GRACE),
            _ => deadline,
        };
        let look = look(socket, &mut bytes[taken..], seen - taken);
        let Ok(looked) = timeout_at(patience, look).await else {
            return Err(if seen == 0 { Stopped::Silent } else { HeaderError::TimedOut.into() });
        };
        let there = taken + looked?;
        if there == seen {
            // The peer has ended its stream.
            return match (required, seen) {
                (false, 0) => Ok(None),
                (true, 0) => Err(HeaderError::Missing.into()),
                _ => Err(HeaderError::Incomplete.into()),
            };
        }
        seen = there;
        let parsed = parse(&bytes[..seen]);
        if !trusted && !matches!(parsed, Parsed::Absent | Parsed::Undecided) {
            return Err(HeaderError::Untrusted.into());
        }
        match parsed {
            Parsed::Undecided => {}
            Parsed::Absent if required => return Err(HeaderError::Missing.into()),
            Parsed::Absent => return Ok(None),
            Parsed::Broken(why) => return Err(HeaderError::Malformed(why).into()),
            Parsed::Whole(header) => {
                let announced = announced(&header);
                let length = header.length;
                take(socket, &mut bytes[taken..length]).await?;
                return Ok(announced);
            }
            Parsed::Partial => {
                take(socket, &mut bytes[taken..seen]).await?;
                taken = seen;
                if seen == bytes.len() {
                    // Only a header of version 2 can be this long.
                    bytes.resize(MOST, 0);
                }
            }
        }
    }
}

/// Waits until more than `seen` bytes lie there, or the end; gives how many do.
async fn look(socket: &TcpStream, into: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let peeked = socket.try_io(Interest::READABLE, || {
            let (count, _) = recv(socket, &mut *into, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            match count > seen || ready.is_read_closed() {
                true => Ok(count),
                false => Err(ErrorKind::WouldBlock.into()),
            }
        });
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

/// Takes bytes that are known to be there.
async fn take(socket: &TcpStream, mut into: &mut [u8]) -> io::Result<()> {
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

fn announced(header: &Header<'_>) -> Option<Announced> {
    let (source, destination) = header.ends?;
    let printable = |id: &&[u8]| id.iter().all(u8::is_ascii_graphic);
    let id = header.id.filter(printable).map(|id| String::from_utf8_lossy(id).into());
    Some(Announced { source, destination, id })
}

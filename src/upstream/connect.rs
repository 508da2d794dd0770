//! Opening a TCP connection to a backend.
//!
//! Every address the backend has is tried once, in order, within one deadline. What comes out is
//! tuned as every socket towards a backend is. Counting the result towards the backend's health is
//! the caller's part.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};

use super::backend::Backend;

/// Quiet time before the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered questions after which the peer is gone.
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// Why no connection could be opened. Nothing was sent, so that another backend may be tried.
#[derive(Debug)]
pub enum ConnectError {
    /// Every address refused, so far as any of them answered.
    Refused,
    /// The deadline passed, ours or the kernel's.
    TimedOut,
    /// No local port or descriptor left: not the backend's doing.
    Exhausted,
    /// Anything else; also a backend whose name has no address.
    Io(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut => f.write_str("connecting timed out"),
            Self::Exhausted => f.write_str("no local port or descriptor left to connect with"),
            Self::Io(error) => write!(f, "cannot connect: {error}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Connects to the first of the backend's addresses that accepts, within `deadline` for all.
pub async fn connect(backend: &Backend, deadline: Duration) -> Result<TcpStream, ConnectError> {
    let end = Instant::now() + deadline;
    let addresses = backend.addresses();
    let mut failure = None;
    for (at, &address) in addresses.iter().enumerate() {
        // A silent address gets its share of the time and no more, or those after it would never
        // be tried.
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match attempt(address, share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(graver(failure, error)),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let message = format!("the address of {} is not known", backend.address());
        ConnectError::Io(io::Error::new(io::ErrorKind::NotFound, message))
    }))
}

async fn attempt(address: SocketAddr, deadline: Duration) -> Result<TcpStream, ConnectError> {
    let stream = match timeout(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ConnectError::from(error)),
        Err(_) => return Err(ConnectError::TimedOut),
    };
    // Where nobody listens on a local port of the ephemeral range, the kernel may choose that very
    // port for our end, and TCP then connects the socket to itself.
    if stream.local_addr().is_ok_and(|local| local == address) {
        return Err(ConnectError::Refused);
    }
    tune(&stream);
    Ok(stream)
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        // ENFILE and EMFILE have no `ErrorKind`; the numbers are the same on all Unix systems.
        const TABLE_FULL: i32 = 23;
        const TOO_MANY_OPEN: i32 = 24;
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::ConnectionRefused, _) => Self::Refused,
            (io::ErrorKind::TimedOut, _) => Self::TimedOut,
            (io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _)
            | (_, Some(TABLE_FULL | TOO_MANY_OPEN)) => Self::Exhausted,
            _ => Self::Io(error),
        }
    }
}

/// Of two addresses' failures the one that says more about the backend. `Exhausted` says least: an
/// IPv6 address on a host without IPv6 gives it too.
fn graver(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let gravity = |error: &ConnectError| match error {
        ConnectError::Exhausted => 0,
        ConnectError::Refused => 1,
        ConnectError::Io(_) => 2,
        ConnectError::TimedOut => 3,
    };
    match before {
        Some(before) if gravity(&before) >= gravity(&now) => before,
        _ => now,
    }
}

/// Small writes go out at once, and a peer that vanished is noticed. A failure is left alone: it
/// means the connection has ended already, which the first read tells.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

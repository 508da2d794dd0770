//! Opens a connection to a backend, by TCP or to a Unix socket.
//!
//! Each address of the backend is tried once, in order, within one deadline. The new socket gets the
//! options of all backend sockets. The caller counts the result towards the backend's health.
//!
//! A connection to a Unix socket is a [`TcpStream`], too: both are stream sockets, and everything that the proxy does with
//! a connection is the same system call for both. Only their addresses and the options of TCP do not exist, and
//! nothing depends on them.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::backend::Backend;
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::{stream::tune, tls_client::HandshakeError},
};

/// Pause before the next connect to a Unix socket whose queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// Why no connection could be opened. At most a PROXY header was sent, and no application data, so another
/// backend may be tried.
#[derive(Debug)]
pub enum ConnectError {
    /// Every address that responded refused the connection.
    Refused,
    /// The deadline of the proxy or of the kernel passed.
    TimedOut,
    /// No local port or descriptor is left; not a fault of the backend.
    Exhausted,
    /// The address is a listener of this process.
    Loop,
    /// The TLS handshake failed.
    Handshake(HandshakeError),
    /// Any other error; also a backend whose name has no address.
    Io(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused; check that the backend is running and listens on this address"),
            Self::TimedOut => f.write_str("connecting timed out; check the address and the firewall between the proxy and the backend"),
            Self::Exhausted => f.write_str("no local port or file descriptor is left; raise the limits of the system"),
            Self::Loop => f.write_str("the address is a listener of this proxy; correct the address of the backend"),
            Self::Handshake(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "cannot connect: {error}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handshake(error) => error.source(),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        let failed = |kind| Self::new(Side::Backend, Phase::Connect, kind);
        match error {
            ConnectError::Refused => failed(FailureKind::Refused),
            ConnectError::TimedOut => failed(FailureKind::TimedOut),
            ConnectError::Exhausted => {
                Self::new(Side::Proxy, Phase::Connect, FailureKind::Exhausted)
            }
            ConnectError::Loop => Self::new(Side::Proxy, Phase::Connect, FailureKind::Loop),
            ConnectError::Handshake(source) => {
                Self::new(Side::Backend, Phase::Handshake, source.kind).with_source(source)
            }
            ConnectError::Io(source) => {
                let reset = matches!(
                    source.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
                );
                failed(if reset { FailureKind::Reset } else { FailureKind::Io }).with_source(source)
            }
        }
    }
}

/// Connects to the first of the backend's addresses that accepts. `deadline` covers all attempts.
pub async fn connect(backend: &Backend, deadline: Duration) -> Result<TcpStream, ConnectError> {
    if backend.is_loop() {
        return Err(ConnectError::Loop);
    }
    if let Some(path) = backend.address().unix_path() {
        return match timeout(deadline, connect_unix(path)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(ConnectError::TimedOut),
        };
    }
    let end = Instant::now() + deadline;
    let addresses = backend.addresses();
    let mut failure = None;
    for (at, &address) in addresses.iter().enumerate() {
        // An address that does not respond gets only its share of the time. Otherwise the addresses
        // after it would never be tried.
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match attempt(address, share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(more_specific(failure, error)),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let message =
            format!("no address is known for {}; check that the name resolves", backend.address());
        ConnectError::Io(io::Error::new(io::ErrorKind::NotFound, message))
    }))
}

/// Connects to a Unix socket. Waits while its queue is full, as TCP does.
async fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let socket = OwnedFd::from(stream.into_std()?);
                return TcpStream::from_std(socket.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(FULL_QUEUE_PAUSE).await;
            }
            // No process has made the socket yet, or it was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Err(error) => return Err(error),
        }
    }
}

async fn attempt(address: SocketAddr, deadline: Duration) -> Result<TcpStream, ConnectError> {
    let stream = match timeout(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ConnectError::from(error)),
        Err(_) => return Err(ConnectError::TimedOut),
    };
    // If no process listens on a local port of the ephemeral range, the kernel may choose the same port
    // as the local port, and TCP then connects the socket to itself.
    if stream.local_addr().is_ok_and(|local| local == address) {
        return Err(ConnectError::Refused);
    }
    tune(&stream);
    Ok(stream)
}

impl From<HandshakeError> for ConnectError {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
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

/// Returns the error that says more about the backend. `Exhausted` says least: an IPv6 address on a host
/// without IPv6 causes it, too.
fn more_specific(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let rank = |error: &ConnectError| match error {
        ConnectError::Exhausted => 0,
        ConnectError::Refused => 1,
        ConnectError::Io(_) => 2,
        ConnectError::TimedOut => 3,
        // Happens after the addresses were tried.
        ConnectError::Handshake(_) => 4,
        ConnectError::Loop => 5,
    };
    match before {
        Some(before) if rank(&before) >= rank(&now) => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        sync::Arc,
        time::Duration,
    };

    use socket2::{Domain, SockRef, Socket, Type};
    use tokio::net::{TcpListener, TcpStream};

    use super::{ConnectError, connect, more_specific};
    use crate::{
        config::{self, Address, Reuse},
        upstream::Backend,
    };

    const LONG: Duration = Duration::from_secs(10);

    fn backend(addresses: &[SocketAddr]) -> Arc<Backend> {
        let address = Address { host: "node.test".to_owned(), port: 3000 };
        let config =
            config::BackendConfig { name: "b".to_owned(), address, weight: 1, backup: false };
        let backend = Backend::new("p", &config, &Reuse::default());
        backend.set_addresses(addresses);
        backend
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address without a listener. The socket stays bound, so that no other process can listen there.
    fn refusing() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// An address with a full accept queue, so that the kernel ignores new connections.
    async fn unresponsive() -> (Socket, Vec<TcpStream>, SocketAddr) {
        let (socket, address) = refusing();
        socket.listen(0).unwrap();
        let mut queued = Vec::new();
        let wait = Duration::from_millis(300);
        while let Ok(stream) = tokio::time::timeout(wait, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        (socket, queued, address)
    }

    #[tokio::test]
    async fn a_connection_has_nodelay_and_keepalive() {
        let (listener, address) = listener().await;
        let stream = connect(&backend(&[address]), LONG).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn the_next_address_is_tried_if_one_refuses() {
        let (_refusing, refused) = refusing();
        let (_listener, address) = listener().await;
        let stream = connect(&backend(&[refused, address]), LONG).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn the_error_is_refused_if_all_addresses_refuse() {
        let (_a, first) = refusing();
        let (_b, second) = refusing();
        let error = connect(&backend(&[first, second]), LONG).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused), "{error}");
    }

    #[tokio::test]
    async fn an_unresponsive_address_takes_its_share_of_the_deadline() {
        let (_socket, _queued, unresponsive) = unresponsive().await;
        let error =
            connect(&backend(&[unresponsive]), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut), "{error}");

        let (_listener, address) = listener().await;
        let both = backend(&[unresponsive, address]);
        let stream = connect(&both, Duration::from_millis(1000)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn the_error_names_a_backend_without_an_address() {
        let error = connect(&backend(&[]), LONG).await.unwrap_err();
        let ConnectError::Io(error) = error else { panic!("{error}") };
        assert!(error.to_string().contains("node.test:3000"), "{error}");
    }

    #[test]
    fn local_limits_are_distinguished_from_backend_errors() {
        let from = |number| ConnectError::from(std::io::Error::from_raw_os_error(number));
        assert!(matches!(from(24), ConnectError::Exhausted));
        assert!(matches!(from(23), ConnectError::Exhausted));
        let none_left = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        assert!(matches!(ConnectError::from(none_left), ConnectError::Exhausted));
        assert!(matches!(from(5), ConnectError::Io(_)));
    }

    #[test]
    fn the_most_specific_error_is_returned() {
        let both = [
            more_specific(Some(ConnectError::Exhausted), ConnectError::Refused),
            more_specific(Some(ConnectError::Refused), ConnectError::Exhausted),
        ];
        assert!(both.iter().all(|error| matches!(error, ConnectError::Refused)));
        let timed_out = more_specific(Some(ConnectError::TimedOut), ConnectError::Refused);
        assert!(matches!(timed_out, ConnectError::TimedOut));
    }
}

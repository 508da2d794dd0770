//! Binds listening sockets and accepts from them without busy loops.
//!
//! A process that runs out of descriptors pauses here and resumes once some are free; meanwhile connections
//! wait in the kernel's queue. TLS and HTTP begin in the task that receives the connection.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{bind_error, stream};
use crate::config;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. Generous, because
/// after a restart all clients reconnect at once.
const BACKLOG: i32 = 4096;
/// First pause after running out of descriptors.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause; each pause is twice the previous one.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Minimum time between two warnings, over all listeners: the shortage affects the whole process.
const WARN_EVERY: Duration = Duration::from_secs(60);

static WARNED: Mutex<Option<Instant>> = Mutex::new(None);

/// Binds every address of a listener, in order. Must be called within a tokio runtime.
///
/// # Errors
/// Returns the first address that cannot be bound. The text names listener and address; the kind is the
/// operating system's.
pub fn bind(listener: &config::ListenerConfig) -> io::Result<Vec<TcpListener>> {
    listener
        .bind
        .iter()
        .map(|&address| {
            bind_one(address).map_err(|error| {
                bind_error::explained(&format!("listener {}", listener.name), address, &error)
            })
        })
        .collect()
}

/// Binds one address with the options of every listening socket. Must be called within a tokio runtime.
///
/// # Errors
/// The operating system's error, unchanged.
pub fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the old process in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two separate listeners, whatever the system's default.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    stream::tune_listener(&socket);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns the next connection of any listening socket. As [`Acceptor::accept`], but always sets the options.
pub async fn accept(listener: &TcpListener, pauses: &Counter) -> (TcpStream, SocketAddr) {
    let (socket, peer) = next(listener, pauses).await;
    stream::tune(&socket);
    (socket, peer)
}

/// Accepts the connections of a listening socket.
#[derive(Debug)]
pub struct Acceptor {
    socket: Arc<TcpListener>,
    /// Connections inherit their options from the socket.
    is_tuned: bool,
}

impl Acceptor {
    /// Creates the acceptor of a socket.
    pub fn new(socket: Arc<TcpListener>) -> Self {
        let is_tuned = stream::is_tuned_listener(&socket);
        Self { socket, is_tuned }
    }

    /// Returns the next connection with its socket options set. Never fails: connections that broke in the queue
    /// are skipped. A shortage of descriptors or memory is waited out with growing pauses, counted in `pauses`.
    ///
    /// Cancel-safe: a connection is either returned or still in the kernel's queue.
    pub async fn accept(&self, pauses: &Counter) -> (TcpStream, SocketAddr) {
        let (socket, peer) = next(&self.socket, pauses).await;
        if !self.is_tuned {
            stream::tune(&socket);
        }
        (socket, peer)
    }
}

async fn next(listener: &TcpListener, pauses: &Counter) -> (TcpStream, SocketAddr) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        match AcceptFailure::of(&error) {
            AcceptFailure::Connection => {
                tracing::debug!(%error, "a connection broke before it was accepted")
            }
            AcceptFailure::Process => {
                pauses.inc();
                warn_rate_limited(listener, &error, pause);
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}

/// What a failed accept affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptFailure {
    /// This connection only; the next accept may succeed.
    Connection,
    /// The process or the system: an immediate retry would fail as well.
    Process,
}

impl AcceptFailure {
    /// Classifies an error. accept(2): Linux reports errors already pending on the new connection; after these the
    /// caller retries at once. All other errors (EMFILE, ENFILE, ENOBUFS, ENOMEM and unknown ones) would repeat at
    /// once.
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::Interrupted
            | Kind::WouldBlock
            | Kind::TimedOut
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable => Self::Connection,
            // EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENONET, EHOSTDOWN, and EPERM from a firewall rule.
            _ => match error.raw_os_error() {
                Some(1 | 64 | 71 | 92 | 95 | 112) if cfg!(target_os = "linux") => Self::Connection,
                _ => Self::Process,
            },
        }
    }
}

/// Returns the pause that follows `pause`.
fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

fn warn_rate_limited(listener: &TcpListener, error: &io::Error, pause: Duration) {
    let mut last = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if !due(&mut last, Instant::now()) {
        return;
    }
    drop(last);
    let address = listener.local_addr().ok();
    tracing::warn!(
        %error,
        address = address.map(tracing::field::display),
        ?pause,
        "cannot accept connections, pausing; raise the limit of open files (`LimitNOFILE=` of the unit, or `ulimit -n`)"
    );
}

/// Whether a warning is due; records the time if so.
pub(super) fn due(last: &mut Option<Instant>, now: Instant) -> bool {
    let silent = last.is_some_and(|then| now.saturating_duration_since(then) < WARN_EVERY);
    if !silent {
        *last = Some(now);
    }
    !silent
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::config::ListenerProtocol as Speaks;

    fn listener(bind: &[&str]) -> config::ListenerConfig {
        let bind = bind.iter().map(|address| address.parse().unwrap()).collect();
        config::ListenerConfig::new("web", bind, Speaks::Http)
    }

    #[tokio::test]
    async fn every_address_is_bound_on_its_own_port() {
        let bound = bind(&listener(&["127.0.0.1:0", "127.0.0.1:0"])).unwrap();
        let ports: Vec<_> = bound.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 2);
        assert!(ports.iter().all(|&port| port != 0) && ports[0] != ports[1]);
    }

    #[tokio::test]
    async fn ipv4_and_ipv6_can_share_a_port() {
        let Ok(six) = bind(&listener(&["[::]:0"])) else {
            return; // no IPv6 on this machine
        };
        let port = six[0].local_addr().unwrap().port();
        // Another process may hold this port on IPv4; ours must not be the reason.
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            bind(&listener(&[&format!("0.0.0.0:{port}")])).unwrap();
        }
    }

    #[tokio::test]
    async fn bind_error_names_the_port_in_use() {
        let taken = bind(&listener(&["127.0.0.1:0"])).unwrap();
        let address = taken[0].local_addr().unwrap().to_string();
        let error = bind(&listener(&[&address])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        let named = format!("listener web: cannot listen on {address}: process ");
        assert!(text.starts_with(&named), "{text}");
    }

    #[tokio::test]
    async fn successful_accepts_count_no_pause() {
        let bound = bind(&listener(&["127.0.0.1:0"])).unwrap().remove(0);
        let pauses = Counter::default();
        let address = bound.local_addr().unwrap();
        let acceptor = Acceptor::new(Arc::new(bound));
        let (peer, (mut socket, from)) =
            tokio::join!(TcpStream::connect(address), acceptor.accept(&pauses));
        let peer = peer.unwrap();
        assert_eq!(from, peer.local_addr().unwrap());
        assert!(socket.nodelay().unwrap());
        drop(peer);
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(pauses.get(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn shortages_pause_and_broken_connections_do_not() {
        // EMFILE, ENFILE, ENOBUFS, ENOMEM; EBADF and EINVAL must not cause a busy loop either.
        for code in [24, 23, 105, 12, 9, 22] {
            assert_eq!(
                AcceptFailure::of(&io::Error::from_raw_os_error(code)),
                AcceptFailure::Process,
                "{code}"
            );
        }
        // ECONNABORTED, EINTR, and the errors that accept(2) lists as pending on the connection.
        for code in [103, 4, 100, 71, 92, 112, 64, 113, 95, 101, 1] {
            let failure = AcceptFailure::of(&io::Error::from_raw_os_error(code));
            assert_eq!(failure, AcceptFailure::Connection, "{code}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut pause = SHORTEST_PAUSE;
        let mut all = vec![pause];
        for _ in 0..8 {
            pause = next_pause(pause);
            all.push(pause);
        }
        let millis: Vec<_> = all.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn warnings_are_limited_to_one_per_minute() {
        let start = Instant::now();
        let mut last = None;
        assert!(due(&mut last, start));
        assert!(!due(&mut last, start + Duration::from_secs(59)));
        assert!(due(&mut last, start + Duration::from_secs(60)));
        assert!(!due(&mut last, start + Duration::from_secs(61)));
    }
}

//! Binding listening sockets and accepting from them without ever spinning.
//!
//! A process that runs out of descriptors pauses here and goes on by itself once some are free;
//! connections wait in the kernel's queue meanwhile. What is done with a connection is not known
//! here: TLS and HTTP begin in the task that gets it.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{bind_error, stream};
use crate::config;

/// Connections that may wait for their accept; the kernel cuts it to `net.core.somaxconn`. Generous,
/// because after a restart every client comes back at once.
const BACKLOG: i32 = 4096;
/// The first pause after running out of descriptors.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// The longest; each pause is twice the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// One warning for so long, over all listeners: the shortage is the process's, not a listener's.
const WARN_EVERY: Duration = Duration::from_secs(60);

static WARNED: Mutex<Option<Instant>> = Mutex::new(None);

/// Binds every address of a listener, in order. Must be called within a tokio runtime.
///
/// # Errors
/// The first address that cannot be bound; the text names the listener and the address, the kind is
/// the operating system's.
pub fn bind(listener: &config::Listener) -> io::Result<Vec<TcpListener>> {
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

/// Binds one address with the options every listening socket gets. Must be called within a tokio
/// runtime.
///
/// # Errors
/// The operating system's, unchanged.
pub fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old process's connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` is two listeners, on every system and whatever its default.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, tuned. Never fails: connections that broke while they waited are skipped,
/// and a shortage of descriptors or memory is waited out with growing pauses, counted in `pauses`.
///
/// Cancel-safe: a connection is either returned or still in the kernel's queue.
pub async fn accept(listener: &TcpListener, pauses: &Counter) -> (TcpStream, SocketAddr) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let error = match listener.accept().await {
            Ok((socket, peer)) => {
                stream::tune(&socket);
                return (socket, peer);
            }
            Err(error) => error,
        };
        match Refusal::of(&error) {
            Refusal::Connection => tracing::debug!(%error, "a connection broke before its accept"),
            Refusal::Process => {
                pauses.inc();
                warn_now_and_then(listener, &error, pause);
                tokio::time::sleep(pause).await;
                pause = longer(pause);
            }
        }
    }
}

/// What a failed accept concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The one connection; the next may well be fine.
    Connection,
    /// The process or the system: at once, the next would fail as well.
    Process,
}

impl Refusal {
    /// accept(2): errors already pending on the new connection are passed on by Linux and are to be
    /// treated like a retry. Everything else (EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever is not
    /// known here) would come again at once.
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
            // EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENONET, EHOSTDOWN, and EPERM of a firewall rule.
            _ => match error.raw_os_error() {
                Some(1 | 64 | 71 | 92 | 95 | 112) if cfg!(target_os = "linux") => Self::Connection,
                _ => Self::Process,
            },
        }
    }
}

/// The pause after this one.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

fn warn_now_and_then(listener: &TcpListener, error: &io::Error, pause: Duration) {
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

/// Whether to speak again, and if so notes when.
fn due(last: &mut Option<Instant>, now: Instant) -> bool {
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
    use crate::config::Protocol as Speaks;

    fn listener(bind: &[&str]) -> config::Listener {
        let bind = bind.iter().map(|address| address.parse().unwrap()).collect();
        config::Listener::new("web", bind, Speaks::Http)
    }

    #[tokio::test]
    async fn every_address_is_bound_on_its_own_port() {
        let bound = bind(&listener(&["127.0.0.1:0", "127.0.0.1:0"])).unwrap();
        let ports: Vec<_> = bound.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 2);
        assert!(ports.iter().all(|&port| port != 0) && ports[0] != ports[1]);
    }

    #[tokio::test]
    async fn both_families_can_have_the_same_port() {
        let Ok(six) = bind(&listener(&["[::]:0"])) else {
            return; // a machine without IPv6
        };
        let port = six[0].local_addr().unwrap().port();
        // Another process may hold this port on IPv4; ours must not be the reason.
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            bind(&listener(&[&format!("0.0.0.0:{port}")])).unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = bind(&listener(&["127.0.0.1:0"])).unwrap();
        let address = taken[0].local_addr().unwrap().to_string();
        let error = bind(&listener(&[&address])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        let named = format!("listener web: cannot listen on {address}: process ");
        assert!(text.starts_with(&named), "{text}");
    }

    #[tokio::test]
    async fn accepts_and_counts_no_pause() {
        let bound = bind(&listener(&["127.0.0.1:0"])).unwrap();
        let pauses = Counter::default();
        let address = bound[0].local_addr().unwrap();
        let (peer, (mut socket, from)) =
            tokio::join!(TcpStream::connect(address), accept(&bound[0], &pauses));
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
        // EMFILE, ENFILE, ENOBUFS, ENOMEM; EBADF and EINVAL must not spin either.
        for code in [24, 23, 105, 12, 9, 22] {
            assert_eq!(
                Refusal::of(&io::Error::from_raw_os_error(code)),
                Refusal::Process,
                "{code}"
            );
        }
        // ECONNABORTED, EINTR, and those that accept(2) lists as pending on the connection.
        for code in [103, 4, 100, 71, 92, 112, 64, 113, 95, 101, 1] {
            let refusal = Refusal::of(&io::Error::from_raw_os_error(code));
            assert_eq!(refusal, Refusal::Connection, "{code}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut pause = SHORTEST_PAUSE;
        let mut all = vec![pause];
        for _ in 0..8 {
            pause = longer(pause);
            all.push(pause);
        }
        let millis: Vec<_> = all.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn one_warning_a_minute() {
        let start = Instant::now();
        let mut last = None;
        assert!(due(&mut last, start));
        assert!(!due(&mut last, start + Duration::from_secs(59)));
        assert!(due(&mut last, start + Duration::from_secs(60)));
        assert!(!due(&mut last, start + Duration::from_secs(61)));
    }
}

//! Listening sockets that this process inherits and need not bind. The previous process passes each socket
//! with its purpose; the service manager passes sockets that are known only by their address.
//!
//! Sockets are claimed by [`Purpose`]. Sockets left unclaimed are closed; those from a service manager are
//! logged as a warning.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Identifies a listener's socket: the configured address; with port 0, also listener and position.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct SocketKey {
    /// As configured.
    pub address: SocketAddr,
    /// Listener name and position in its `bind` list, if the address is not unique.
    pub of: Option<(String, usize)>,
}

/// The use of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Clients.
    Listener(SocketKey),
    /// Metrics and readiness; the address is the configured one.
    Metrics(SocketAddr),
    /// The admin API over TCP; the address is the configured one.
    AdminRemote(SocketAddr),
    /// The unix socket of the admin API, by its path.
    AdminSocket(PathBuf),
    /// The admin socket passed by the service manager, which owns the socket file.
    PassedAdminSocket(PathBuf),
}

/// The sockets inherited by this process; may be empty.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<InheritedSocket>);

#[derive(Debug)]
struct InheritedSocket {
    tag: SocketTag,
    socket: OwnedFd,
}

/// An inherited unix socket, ready for a runtime.
#[derive(Debug)]
pub struct InheritedUnixSocket {
    /// The socket.
    pub listener: UnixListener,
    /// Whether the service manager created the socket file and owns it.
    pub passed: bool,
}

/// What an inherited socket is identified by.
#[derive(Debug, PartialEq)]
enum SocketTag {
    For(Purpose),
    At(SocketAddr),
    AtPath(PathBuf),
}

impl InheritedSockets {
    /// Adds a socket whose purpose is known.
    pub fn push(&mut self, purpose: Purpose, socket: OwnedFd) {
        self.0.push(InheritedSocket { tag: SocketTag::For(purpose), socket });
    }

    /// Adds a socket that is identified by its local address.
    ///
    /// # Errors
    /// The socket is not bound.
    pub fn push_tcp(&mut self, socket: TcpListener) -> io::Result<()> {
        let tag = SocketTag::At(socket.local_addr()?);
        self.0.push(InheritedSocket { tag, socket: socket.into() });
        Ok(())
    }

    /// Adds a unix socket that is identified by its path.
    ///
    /// # Errors
    /// The socket has no path.
    pub fn push_unix(&mut self, socket: UnixListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.0.push(InheritedSocket {
            tag: SocketTag::AtPath(path.to_owned()),
            socket: socket.into(),
        });
        Ok(())
    }

    /// Takes the TCP socket for this purpose, ready for a runtime.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn tcp(&mut self, wanted: &Purpose) -> io::Result<Option<TcpListener>> {
        let Some(socket) = self.take(wanted) else { return Ok(None) };
        let socket = TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// Takes the unix socket with this path.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn unix(&mut self, path: &Path) -> io::Result<Option<InheritedUnixSocket>> {
        let ours = self.take(&Purpose::AdminSocket(path.to_owned()));
        let (socket, passed) = match ours {
            Some(socket) => (Some(socket), false),
            None => (self.take(&Purpose::PassedAdminSocket(path.to_owned())), true),
        };
        let Some(socket) = socket else { return Ok(None) };
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Some(InheritedUnixSocket { listener, passed }))
    }

    /// Returns the path of the admin API's unix socket if the previous process passed one.
    pub fn admin_path(&self) -> Option<&Path> {
        self.0.iter().find_map(|entry| match &entry.tag {
            SocketTag::For(Purpose::AdminSocket(path)) => Some(path.as_path()),
            _ => None,
        })
    }

    /// Closes unclaimed sockets. A socket from the service manager is logged: its unit file and the configuration
    /// disagree.
    pub fn close_rest(self) {
        for InheritedSocket { tag, socket } in self.0 {
            match tag {
                SocketTag::For(purpose) => tracing::info!(
                    ?purpose,
                    "closed an inherited socket that the configuration no longer uses"
                ),
                SocketTag::At(_) | SocketTag::AtPath(_) => {
                    tracing::warn!(
                        "no listener is configured for {tag}, which the service manager passed; the socket is closed"
                    );
                }
            }
            drop(socket);
        }
    }

    fn take(&mut self, wanted: &Purpose) -> Option<OwnedFd> {
        let place = self.0.iter().position(|entry| entry.tag.is_for(wanted))?;
        Some(self.0.swap_remove(place).socket)
    }
}

impl SocketTag {
    fn is_for(&self, wanted: &Purpose) -> bool {
        match (self, wanted) {
            (Self::For(purpose), wanted) => purpose == wanted,
            (Self::At(address), Purpose::Listener(key)) => {
                key.of.is_none() && key.address == *address
            }
            (Self::At(address), Purpose::Metrics(wanted) | Purpose::AdminRemote(wanted)) => {
                address == wanted
            }
            (Self::AtPath(path), Purpose::PassedAdminSocket(wanted)) => path == wanted,
            _ => false,
        }
    }
}

impl fmt::Display for SocketTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(purpose) => write!(f, "{purpose:?}"),
            Self::At(address) => write!(f, "{address}"),
            Self::AtPath(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Duplicates the descriptor of a socket.
///
/// # Errors
/// The descriptor limit is reached.
pub fn copy(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn listener(address: SocketAddr, of: Option<(&str, usize)>) -> Purpose {
        let of = of.map(|(name, place)| (name.to_owned(), place));
        Purpose::Listener(SocketKey { address, of })
    }

    #[test]
    fn a_socket_is_claimed_once_by_its_purpose() {
        let mut inherited = InheritedSockets::default();
        let socket = TcpListener::bind(any()).unwrap();
        let real = socket.local_addr().unwrap();
        inherited.push(listener(any(), Some(("web", 1))), socket.into());
        for other in
            [listener(any(), Some(("web", 0))), listener(real, None), Purpose::Metrics(real)]
        {
            assert!(inherited.tcp(&other).unwrap().is_none(), "{other:?}");
        }
        let wanted = listener(any(), Some(("web", 1)));
        assert_eq!(inherited.tcp(&wanted).unwrap().unwrap().local_addr().unwrap(), real);
        assert!(inherited.tcp(&wanted).unwrap().is_none());
    }

    #[test]
    fn a_passed_socket_is_identified_by_its_address() {
        let mut inherited = InheritedSockets::default();
        let socket = TcpListener::bind(any()).unwrap();
        let real = socket.local_addr().unwrap();
        inherited.push_tcp(socket).unwrap();
        // Port 0 never matches a passed socket.
        assert!(inherited.tcp(&listener(real, Some(("web", 0)))).unwrap().is_none());
        assert!(inherited.tcp(&listener(any(), None)).unwrap().is_none());
        assert!(inherited.tcp(&listener(real, None)).unwrap().is_some());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        inherited.push_unix(UnixListener::bind(&path).unwrap()).unwrap();
        assert!(inherited.unix(&folder.path().join("other.sock")).unwrap().is_none());
        assert!(inherited.unix(&path).unwrap().unwrap().passed);
        assert!(inherited.unix(&path).unwrap().is_none());
        inherited.close_rest();
    }
}

//! Listening sockets that this process was given and need not bind: by the process before it, each
//! with its purpose, or by the service manager, which says no more than where a socket listens.
//!
//! Whoever wants a socket asks for it by [`Purpose`]; what nobody asked for is closed in the end, and
//! told where a service manager passed it.

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

/// A listener's socket: the address asked for; with port 0, also whose and which it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Key {
    /// As configured.
    pub address: SocketAddr,
    /// The listener's name and the place in its list, where the address alone does not tell.
    pub of: Option<(String, usize)>,
}

/// What a listening socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Clients.
    Listener(Key),
    /// Metrics and readiness; the address is the configured one.
    Metrics(SocketAddr),
    /// The admin API over TCP; the address is the configured one.
    AdminRemote(SocketAddr),
    /// The admin API's unix socket, by its path.
    AdminSocket(PathBuf),
    /// The same, passed by the service manager, whose the file is.
    PassedAdminSocket(PathBuf),
}

/// Sockets that were given to this process; empty where there are none.
#[derive(Debug, Default)]
pub struct Given(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    tag: Tag,
    socket: OwnedFd,
}

/// A given unix socket, ready for a runtime.
#[derive(Debug)]
pub struct Unix {
    /// The socket.
    pub listener: UnixListener,
    /// Whether its file is the service manager's, which has made it.
    pub passed: bool,
}

/// How a given socket is known.
#[derive(Debug, PartialEq)]
enum Tag {
    For(Purpose),
    At(SocketAddr),
    AtPath(PathBuf),
}

impl Given {
    /// Adds a socket whose purpose is known.
    pub fn push(&mut self, purpose: Purpose, socket: OwnedFd) {
        self.0.push(Entry { tag: Tag::For(purpose), socket });
    }

    /// Adds a socket that is known by where it listens.
    ///
    /// # Errors
    /// It is not bound.
    pub fn push_tcp(&mut self, socket: TcpListener) -> io::Result<()> {
        let tag = Tag::At(socket.local_addr()?);
        self.0.push(Entry { tag, socket: socket.into() });
        Ok(())
    }

    /// Adds a unix socket that is known by its path.
    ///
    /// # Errors
    /// It has none.
    pub fn push_unix(&mut self, socket: UnixListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.0.push(Entry { tag: Tag::AtPath(path.to_owned()), socket: socket.into() });
        Ok(())
    }

    /// The TCP socket for this purpose, ready for a runtime.
    ///
    /// # Errors
    /// The operating system's.
    pub fn tcp(&mut self, wanted: &Purpose) -> io::Result<Option<TcpListener>> {
        let Some(socket) = self.take(wanted) else { return Ok(None) };
        let socket = TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// The unix socket of this path.
    ///
    /// # Errors
    /// The operating system's.
    pub fn unix(&mut self, path: &Path) -> io::Result<Option<Unix>> {
        let ours = self.take(&Purpose::AdminSocket(path.to_owned()));
        let (socket, passed) = match ours {
            Some(socket) => (Some(socket), false),
            None => (self.take(&Purpose::PassedAdminSocket(path.to_owned())), true),
        };
        let Some(socket) = socket else { return Ok(None) };
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Some(Unix { listener, passed }))
    }

    /// Path of the admin API's unix socket, where one was given for it by the process before.
    pub fn admin_path(&self) -> Option<&Path> {
        self.0.iter().find_map(|entry| match &entry.tag {
            Tag::For(Purpose::AdminSocket(path)) => Some(path.as_path()),
            _ => None,
        })
    }

    /// Closes what nobody asked for. What a service manager passed is told: its unit and the
    /// configuration disagree.
    pub fn close_rest(self) {
        for Entry { tag, socket } in self.0 {
            match tag {
                Tag::For(purpose) => tracing::info!(?purpose, "no longer listened on"),
                Tag::At(_) | Tag::AtPath(_) => {
                    tracing::warn!(
                        "no listener is bound to {tag}, which the service manager passed"
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

impl Tag {
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

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(purpose) => write!(f, "{purpose:?}"),
            Self::At(address) => write!(f, "{address}"),
            Self::AtPath(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A second descriptor of a socket, to give away.
///
/// # Errors
/// No descriptor is left.
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
        Purpose::Listener(Key { address, of })
    }

    #[test]
    fn a_socket_goes_to_its_purpose_once() {
        let mut given = Given::default();
        let socket = TcpListener::bind(any()).unwrap();
        let real = socket.local_addr().unwrap();
        given.push(listener(any(), Some(("web", 1))), socket.into());
        for other in
            [listener(any(), Some(("web", 0))), listener(real, None), Purpose::Metrics(real)]
        {
            assert!(given.tcp(&other).unwrap().is_none(), "{other:?}");
        }
        let wanted = listener(any(), Some(("web", 1)));
        assert_eq!(given.tcp(&wanted).unwrap().unwrap().local_addr().unwrap(), real);
        assert!(given.tcp(&wanted).unwrap().is_none());
    }

    #[test]
    fn a_passed_socket_is_known_by_where_it_listens() {
        let mut given = Given::default();
        let socket = TcpListener::bind(any()).unwrap();
        let real = socket.local_addr().unwrap();
        given.push_tcp(socket).unwrap();
        // A port of the kernel's choice is never one that was passed.
        assert!(given.tcp(&listener(real, Some(("web", 0)))).unwrap().is_none());
        assert!(given.tcp(&listener(any(), None)).unwrap().is_none());
        assert!(given.tcp(&listener(real, None)).unwrap().is_some());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        given.push_unix(UnixListener::bind(&path).unwrap()).unwrap();
        assert!(given.unix(&folder.path().join("other.sock")).unwrap().is_none());
        assert!(given.unix(&path).unwrap().unwrap().passed);
        assert!(given.unix(&path).unwrap().is_none());
        given.close_rest();
    }
}

//! The sockets of the admin endpoints: bound or inherited at start, served, and finally handed over to
//! a successor process or closed.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, task::JoinSet};

use super::{
    handlers::AdminState,
    server::{self, AdminListener, AdminService},
    service::Api,
    socket::{SocketFile, UnixSocket},
};
use crate::{
    config::{Admin, AdminRemote, AdminSocket},
    control::ControlHandle,
    net::{
        bind_error,
        inherited::{self, InheritedSockets, Purpose},
        listener,
    },
    shutdown,
};

/// Bound admin sockets.
#[derive(Debug)]
pub struct AdminSockets {
    metrics: Option<Tcp>,
    socket: Option<UnixSocket>,
    remote: Option<Tcp>,
}

/// A TCP socket and its purpose, by which the next process identifies it.
#[derive(Debug)]
struct Tcp {
    purpose: Purpose,
    listener: TcpListener,
}

impl AdminSockets {
    /// Takes the inherited sockets and binds the other configured ones. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Cannot listen on an address or a path; the text names it. If the default unix socket cannot be
    /// bound, only a warning is logged, and the process runs without a unix socket.
    pub fn bind(config: &Admin, inherited: &mut InheritedSockets) -> io::Result<Self> {
        let mut tcp = |address: Option<SocketAddr>, purpose: fn(SocketAddr) -> Purpose| {
            address.map(|address| Tcp::bind(address, purpose(address), inherited)).transpose()
        };
        let metrics = tcp(config.metrics, Purpose::Metrics)?;
        let remote = tcp(config.remote.as_ref().map(|r| r.address), Purpose::AdminRemote)?;
        Ok(Self { metrics, remote, socket: bind_unix(&config.socket, inherited)? })
    }

    /// Serves the sockets. `remote` has the token of the API over TCP; without it, that API is not
    /// served.
    pub fn serve(
        self,
        state: AdminState,
        control: &ControlHandle,
        remote: Option<&AdminRemote>,
    ) -> ServedAdminSockets {
        let metrics = Arc::clone(&state.metrics);
        let (handoff, handoff_watch) = shutdown::channel();
        let (mut tasks, mut sockets) = (JoinSet::new(), Vec::new());
        let mut spawn = |purpose, socket: AdminListener, service| {
            let handoff = handoff_watch.clone();
            tasks.spawn(server::serve(socket.clone(), service, Arc::clone(&metrics), handoff));
            sockets.push((purpose, socket));
        };
        if let Some(Tcp { purpose, listener }) = self.metrics {
            let service = AdminService::Metrics(Arc::new(state));
            spawn(purpose, AdminListener::Tcp(Arc::new(listener)), service);
        }
        if let Some(socket) = &self.socket {
            socket.own_file();
            let purpose = socket.purpose();
            let service = AdminService::Api(Arc::new(Api::new(control.clone(), None)));
            spawn(purpose, AdminListener::Unix(socket.listener()), service);
        }
        if let (Some(Tcp { purpose, listener }), Some(remote)) = (self.remote, remote) {
            let api = Api::new(control.clone(), Some(&remote.token));
            spawn(
                purpose,
                AdminListener::Tcp(Arc::new(listener)),
                AdminService::Api(Arc::new(api)),
            );
        }
        let file = self.socket.map(UnixSocket::into_file);
        ServedAdminSockets { sockets: Mutex::new(sockets), file, handoff, _tasks: tasks }
    }

    /// Address of the metrics endpoint.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }

    /// Path of the unix socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(UnixSocket::path)
    }

    /// Address of the API over TCP.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }
}

impl Tcp {
    fn bind(
        address: SocketAddr,
        purpose: Purpose,
        inherited: &mut InheritedSockets,
    ) -> io::Result<Self> {
        let listener = match inherited.tcp(&purpose) {
            Ok(Some(socket)) => TcpListener::from_std(socket),
            Ok(None) => listener::bind_one(address),
            Err(error) => Err(error),
        };
        let name = match purpose {
            Purpose::Metrics(_) => "metrics",
            _ => "admin API",
        };
        let listener = listener.map_err(|error| bind_error::explained(name, address, &error));
        Ok(Self { purpose, listener: listener? })
    }
}

/// Served admin sockets. Dropping the value ends the service and removes the file of the unix socket.
#[derive(Debug)]
pub struct ServedAdminSockets {
    /// Each socket with its purpose; empty after a handoff.
    sockets: Mutex<Vec<(Purpose, AdminListener)>>,
    file: Option<SocketFile>,
    handoff: shutdown::Trigger,
    _tasks: JoinSet<()>,
}

impl ServedAdminSockets {
    /// Duplicates the descriptors of the sockets for another process.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn duplicate(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = sockets.iter().map(|(purpose, socket)| {
            let copy = match socket {
                AdminListener::Tcp(socket) => inherited::copy(&**socket),
                AdminListener::Unix(socket) => inherited::copy(&**socket),
            };
            Ok((purpose.clone(), copy?))
        });
        copies.collect()
    }

    /// Hands the sockets over to a process that has their descriptors: stops accepting, finishes current
    /// requests, and keeps the file of the unix socket.
    pub fn hand_over(&self) {
        if let Some(file) = &self.file {
            file.disown();
        }
        self.handoff.graceful();
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Resolves when all connections have ended, after [`hand_over`](Self::hand_over).
    pub async fn idle(&self) {
        self.handoff.idle().await;
    }
}

/// Takes the inherited unix socket. `None`: there is none, or its file was removed, so that no client
/// can find it.
fn take_inherited(path: &Path, inherited: &mut InheritedSockets) -> io::Result<Option<UnixSocket>> {
    let take = |socket: inherited::InheritedUnixSocket| match socket.passed {
        true => UnixSocket::from_service_manager(socket.listener, path),
        false => UnixSocket::from_process(socket.listener, path),
    };
    let socket = inherited.unix(path).and_then(|socket| socket.map(take).transpose());
    match socket {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "the file of the admin socket was removed; creating a new socket");
            Ok(None)
        }
        Err(error) => {
            let text = format!("cannot use the admin socket {}: {error}", path.display());
            Err(io::Error::new(error.kind(), text))
        }
        socket => socket,
    }
}

fn bind_unix(
    place: &AdminSocket,
    inherited: &mut InheritedSockets,
) -> io::Result<Option<UnixSocket>> {
    let path = match place {
        AdminSocket::Off => return Ok(None),
        AdminSocket::At(path) => Some(path.clone()),
        AdminSocket::Default => inherited.admin_path().map(Path::to_owned),
    };
    if let Some(path) = &path
        && let Some(socket) = take_inherited(path, inherited)?
    {
        return Ok(Some(socket));
    }
    match place {
        AdminSocket::At(path) => UnixSocket::bind(path).map(Some),
        _ => Ok(UnixSocket::bind_default()
            .inspect_err(|error| {
                tracing::warn!(
                    "there is no admin socket, so commands cannot reach this process: {error}; set `socket` in \
                     `[admin]` or --admin-socket"
                );
            })
            .ok()),
    }
}
